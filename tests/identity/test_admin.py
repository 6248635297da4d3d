"""The admin port: who gets in, what their roles let them do, and signing in with a browser at a real provider."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.responses import Response

from gemstead.console.app import console
from gemstead.console.own import Own
from gemstead.console.signin import BREAK_GLASS, Pages
from gemstead.ledger import audittable
from gemstead.ledger.database import reading
from gemstead.ledger.keys import Denial, Grant, KeyBook, open_keys
from gemstead.ledger.log import SqliteLog
from gemstead.ledger.search import Question
from gemstead.spec.identity import IdentitySpec
from gemstead.spec.model import Spec
from gemstead.traffic.caller import Caller
from gemstead.wiring.entrance import Entrance, door_of, reopen
from gemstead.wiring.identity import Keeper, providers
from gemstead.wiring.password import PasswordFile
from gemstead.wiring.secrets import resolver

PEPPER = b"p" * 32
PASSWORD = "correct horse battery"
BROWSER = {"Sec-Fetch-Site": "same-origin"}


class PretendHead:
    def ready(self):
        return {"m": True}

    def status(self):
        return {"endpoints": []}

    async def metrics(self):
        return "up 1\n"

    async def reload(self):
        return {"added": []}

    async def ask(self, verb, model, **how):
        return {"done": "so it is"}

    def stop(self, *, now):
        pass


class Port:
    def __init__(self, tmp_path, identity, environ=None):
        self.path = tmp_path
        self.keys = open_keys(tmp_path / "keys.db", PEPPER)
        self.keys.create(Grant(), now=time.time())
        self.said = []
        self.keeper = Keeper(lambda signing: None, self.said.append)
        self.entrance = Entrance(
            KeyBook(tmp_path / "keys.db", PEPPER),
            PasswordFile(tmp_path / "admin.password"),
            tmp_path / "audit.db",
            resolver(environ or {}),
            ask=self.keeper.unknown_key,
            say=self.said.append,
        )
        self.keeper.listeners.append(self.entrance.learn)
        self.spec = Spec(identity=identity)
        self.entrance.configure(identity, {})
        self.door = door_of(self.spec, "owner-token", self.entrance)
        pages = Pages(self.door, self.entrance, time.time).routes()
        own = Own(self.door, self.keys, SqliteLog(tmp_path / "audit.db")).routes()
        self.app = console(PretendHead(), "owner-token", self.door, [*pages, *own])

    def http(self, **how):
        # The port that the test provider's client is registered with: a loopback address without one.
        transport = httpx2.ASGITransport(self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", **how)

    def key(self, *roles):
        return self.keys.create(Grant(roles=roles, user="u"), now=time.time()).secret

    def acts(self):
        with reading(self.path / "audit.db", audittable.MIGRATIONS) as connection:
            return (
                connection.execute("SELECT action, actor FROM acts ORDER BY seq").fetchall()
                if connection
                else []
            )


@asynccontextmanager
async def running(port):
    port.keeper.configure(providers(port.spec.identity, resolver({})))
    try:
        async with asyncio.timeout(10):
            while len(port.keeper.signing) < len(port.spec.identity.issuers):
                await asyncio.sleep(0.02)
        yield port
    finally:
        port.keeper.close()


def issuer(at, **more):
    return IdentitySpec.model_validate(
        {
            "issuers": (
                {
                    "name": "corp",
                    "issuer": at,
                    "audience": ("gemstead",),
                    "grants": (
                        {"group": "ml-admins", "role": "admin"},
                        {"group": "ml-users", "role": "developer"},
                        {"group": "ml-auditors", "role": "auditor"},
                    ),
                    "claims": {"tenant": "org"},
                    "login": {
                        "client_id": "console",
                        "client_secret": "env:SECRET",
                        "resource": "urn:gemstead",
                    },
                    **more,
                },
            )
        }
    )


ACTS = [
    ("GET", "/admin/status", "status.read"),
    ("POST", "/admin/reload", "config.apply"),
    ("POST", "/admin/stop", "service.run"),
    ("POST", "/admin/models/m/restart", "fleet.operate"),
    ("GET", "/admin/keys/own", "keys.own"),
    ("GET", "/admin/usage/own", "usage.own"),
]


@pytest.mark.parametrize("role", ["admin", "operator", "developer", "auditor", "viewer", "service"])
async def test_a_key_may_do_what_its_role_may(role, tmp_path):
    from gemstead.traffic.roles import ROLES

    port = Port(tmp_path, IdentitySpec())
    headers = {"Authorization": f"Bearer {port.key(role)}"}
    async with port.http(headers=headers) as http:
        for method, path, right in ACTS:
            status = (await http.request(method, path)).status_code
            assert (status == 403) == (right not in ROLES[role]), (method, path, status)
            assert status != 401
        said = (await http.get("/admin/whoami")).json()
        assert (said["roles"], set(said["rights"])) == ([role], ROLES[role])


async def test_nobody_gets_in_without_anything(tmp_path):
    port = Port(tmp_path, IdentitySpec())
    async with port.http() as http:
        for method, path, _ in ACTS:
            assert (await http.request(method, path)).status_code == 401
        for wrong in ("Bearer wrong", "Basic b3duZXI6b3duZXI=", "Bearer ", "owner-token "):
            answer = await http.get("/admin/status", headers={"Authorization": wrong})
            assert answer.status_code == 401
        assert (await http.get("/metrics")).status_code == 200
        port.door.open_metrics = False
        assert (await http.get("/metrics")).status_code == 401


async def test_signing_in_with_a_browser(provider, sign_in, tmp_path):
    port = Port(tmp_path, issuer(provider.issuer), {"SECRET": "of-the-console"})
    async with running(port), port.http() as http:
        assert 'href="/admin/login/corp"' in (await http.get("/admin/login")).text
        begun = await http.get("/admin/login/corp")
        back = await asyncio.to_thread(
            sign_in, begun.headers["location"], "ann", until="http://127.0.0.1/admin/callback"
        )
        query = back.partition("?")[2]

        async with port.http() as other:  # another browser has not begun this: nobody is signed in by a link
            assert (await other.get(f"/admin/callback?{query}")).status_code == 403

        done = await http.get(f"/admin/callback?{query}")
        assert done.status_code == 303, done.text
        cookie = done.headers.get_list("set-cookie")[-1]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        said = (await http.get("/admin/whoami")).json()
        assert (said["tenant"], said["user"], said["roles"], said["id"]) == (
            "acme",
            "ann",
            ["developer"],
            "corp:ann",
        )
        assert (await http.get(f"/admin/callback?{query}")).status_code == 403  # a code counts once

        # Developers make keys of their own, from pages of ours only.
        assert (await http.post("/admin/keys/own", json={})).status_code == 403
        evil = {"Sec-Fetch-Site": "cross-site"}
        assert (await http.post("/admin/keys/own", json={}, headers=evil)).status_code == 403
        made = (await http.post("/admin/keys/own", json={"app": "bot", "days": 7}, headers=BROWSER)).json()
        assert (made["user"], made["tenant"], made["roles"]) == ("ann", "acme", ["service"])
        caller = KeyBook(tmp_path / "keys.db", PEPPER).find(made["key"].encode(), time.time())
        assert (caller.user, caller.app) == ("ann", "bot")
        turned = (await http.post(f"/admin/keys/own/{made['key_id']}/rotate", headers=BROWSER)).json()
        assert turned["key_id"] != made["key_id"]
        assert len((await http.get("/admin/keys/own")).json()) == 2
        gone = await http.delete(f"/admin/keys/own/{turned['key_id']}", headers=BROWSER)
        assert gone.json()["state"] == "revoked"
        other_key = port.keys.create(Grant(tenant="acme", user="ann"), now=time.time()).key.key_id
        assert (await http.delete(f"/admin/keys/own/{other_key}", headers=BROWSER)).status_code == 403
        assert (await http.get("/admin/usage/own")).json() == []
        assert (await http.get("/admin/status")).status_code == 403

        port.keys.deny(Denial(issuer="corp", kind="subject", value="ann", at=time.time()))
        assert (await http.get("/admin/whoami")).status_code == 401
        done = [action for action, actor in port.acts() if actor in ("corp:ann", "user:ann")]
        assert done == ["admin.login", "key.create", "key.rotate", "key.revoke"]


async def test_who_signed_in_by_other_rules_signs_in_anew(tmp_path):
    before, after = Spec(identity=issuer("http://127.0.0.1:9")), Spec(identity=IdentitySpec())
    port = Port(tmp_path, before.identity)
    for caller, file, status in (
        (Caller(key_id="corp:ann", roles=("viewer",)), before, 200),
        (Caller(key_id="corp:ann", roles=("viewer",)), after, 401),
        (BREAK_GLASS, after, 200),
    ):
        answer = Response()
        port.door.open_session(answer, caller)
        cookie = answer.headers["set-cookie"].partition(";")[0]
        reopen(port.door, file, before)
        async with port.http(headers={"cookie": cookie}) as http:
            assert (await http.get("/admin/status")).status_code == status


async def test_who_has_no_role_is_not_signed_in(provider, sign_in, tmp_path):
    port = Port(tmp_path, issuer(provider.issuer), {"SECRET": "of-the-console"})
    async with running(port), port.http() as http:
        begun = await http.get("/admin/login/corp")
        back = await asyncio.to_thread(
            sign_in, begun.headers["location"], "max", until="http://127.0.0.1/admin/callback"
        )
        answer = await http.get("/admin/callback?" + back.partition("?")[2])
        assert answer.status_code == 403 and "no role" in answer.json()["error"]
        assert (await http.get("/admin/login/nowhere")).status_code == 403


async def test_breaking_the_glass(tmp_path):
    port = Port(tmp_path, IdentitySpec())
    file = PasswordFile(tmp_path / "admin.password")
    file.set(PASSWORD, time.time())
    assert (tmp_path / "admin.password").stat().st_mode & 0o777 == 0o600
    async with port.http(headers=BROWSER) as http:
        assert (await http.post("/admin/login", json={"password": "wrong"})).status_code == 401
        assert (await http.post("/admin/login", json={})).status_code == 400
        done = await http.post("/admin/login", data={"password": PASSWORD})
        assert done.json() == {"user": "break-glass", "must_change": False}
        assert (await http.post("/admin/reload")).status_code == 200
        assert (await http.get("/admin/whoami")).json()["roles"] == ["admin"]
        assert (await http.post("/admin/logout")).status_code == 200
        assert (await http.get("/admin/whoami")).status_code == 401

        kept = file.matches(PASSWORD)  # half a day after its first use it opens nothing but its own change
        file.used(kept.__class__(hash=kept.hash, set_at=kept.set_at), time.time() - 13 * 3600)
        assert (await http.post("/admin/login", json={"password": PASSWORD})).json()["must_change"] is True
        assert (await http.post("/admin/reload")).status_code == 403
        new = {"password": PASSWORD, "new": "a new and quite long one"}
        assert (await http.post("/admin/password", json={**new, "new": "short"})).status_code == 403
        assert (await http.post("/admin/password", json={**new, "new": PASSWORD})).status_code == 403
        assert (await http.post("/admin/password", json=new)).status_code == 200
        assert (await http.post("/admin/login", json={"password": PASSWORD})).status_code == 401
        done = await http.post("/admin/login", json={"password": new["new"]})
        assert done.json()["must_change"] is False
    asked = Question(since=0, until=1e12, records="acts", action="admin.login.failed")
    failed = [one.record for one in SqliteLog(tmp_path / "audit.db").find(asked).records]
    assert {(one.outcome, one.client) for one in failed} == {("refused", "127.0.0.1")}
    names = [action for action, _ in port.acts()]
    assert names.count("admin.login.failed") == 2 and "admin.password.change" in names
    assert [sentence for sentence in port.said if "break-glass" in sentence]


async def test_wrong_passwords_are_limited(tmp_path):
    port = Port(tmp_path, IdentitySpec())
    PasswordFile(tmp_path / "admin.password").set(PASSWORD, time.time())
    async with port.http(headers=BROWSER) as http:
        for _ in range(5):
            assert (await http.post("/admin/login", json={"password": "wrong"})).status_code == 401
        answer = await http.post("/admin/login", json={"password": PASSWORD})
        assert answer.status_code == 403 and "too many" in answer.json()["error"]
