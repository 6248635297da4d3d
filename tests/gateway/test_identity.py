"""At a real worker: client certificates, roles, addresses, tokens beside keys, and denials that hold at once."""

from __future__ import annotations

import base64
import json
import time

import msgspec
import pytest
import trustme
from joserfc import jwk, jws

from gemstead.gateway.issuers import Certificate, Claims, Identity, Issuer
from gemstead.gateway.keyring import Keyring
from gemstead.gateway.settings import Tls
from gemstead.gateway.tokens import TokenBook
from gemstead.ledger import keytable
from gemstead.ledger.keys import Denial, Grant, KeyBook, open_keys
from gemstead.refused import Reason, Refused
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack
from gemstead.traffic.caller import Caller
from gemstead.traffic.roles import GATEWAY_RULES, OPEN, ROLES

PEPPER = b"p" * 32
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
KEY = jwk.ECKey.generate_key("P-256", {"kid": "1"}, private=True)
CORP = Issuer(
    name="corp",
    issuer="https://id.example",
    audience=("gemstead",),
    default_roles=("developer",),
    jwks=json.dumps({"keys": [KEY.as_dict(private=False)]}),
)


def token(**more):
    now = time.time()
    said = {
        "iss": "https://id.example",
        "aud": "gemstead",
        "sub": "ann",
        "exp": now + 300,
        "iat": now - 9,
        **more,
    }
    head = {"alg": "ES256", "kid": "1", "typ": "at+jwt"}
    return jws.serialize_compact(head, json.dumps(said).encode(), KEY, algorithms=["ES256"])


@pytest.fixture
def keys(tmp_path):
    return open_keys(tmp_path / "keys.db", PEPPER)


def settings(tmp_path, **more):
    return {"keys_required": True, "keys_path": str(tmp_path / "keys.db"), "pepper": PEPPER.hex(), **more}


async def status(stack, bearer, **how):
    headers = (f"Authorization: Bearer {bearer}",) if bearer else ()
    async with await stack.peer(**how) as peer:
        await peer.send(post(ASK, headers=headers))
        return await peer.answer()


async def test_a_token_is_as_good_as_a_key(tmp_path, keys):
    secret = keys.create(Grant(), now=time.time()).secret
    async with (
        FakeEngine(Script(pieces=words(2))) as engine,
        start_stack(
            engine, folder=tmp_path, **settings(tmp_path, identity=Identity(issuers=(CORP,)))
        ) as stack,
    ):
        good = token()
        assert (await status(stack, secret)).status == 200
        assert (await status(stack, good)).status == 200
        keys.deny(Denial(issuer="corp", kind="subject", value="ann", at=time.time()))
        refused = await status(stack, good)
        assert (refused.status, refused.fields["error"]["code"]) == (401, "invalid_token")
        assert (await status(stack, secret)).status == 200
        records = await stack.records(4)
        assert ("ann", "corp:ann", 200) in [(one.user, one.key_id, one.status) for one in records]


async def test_only_roles_that_may_call_models_do(tmp_path, keys):
    own = Identity(roles={"lead": (("developer",), ())})
    asked = {
        ("service",): True, ("developer",): True, ("admin",): True, ("auditor", "service"): True, ("lead",): True,
        ("auditor",): False, ("viewer",): False, ("operator",): False, ("no-such-role",): False,
    }  # fmt: skip
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, **settings(tmp_path, identity=own)) as stack,
    ):
        for roles, welcome in asked.items():
            before = len(engine.seen)
            answer = await status(stack, keys.create(Grant(roles=roles), now=time.time()).secret)
            assert answer.status == (200 if welcome else 403), roles
            assert (len(engine.seen) > before) is welcome
            if not welcome:
                assert "takes the role" in answer.fields["error"]["message"]


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_asks_for_what_its_rights_let_it_and_nothing_else(tmp_path, keys, role):
    secret = keys.create(Grant(roles=(role,)), now=time.time()).secret
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path, **settings(tmp_path)) as stack:
        for path, right in GATEWAY_RULES.items():
            for method in ("POST", "GET"):
                request = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n"
                async with await stack.peer() as peer:
                    await peer.send(f"{request}content-length: 2\r\n\r\n{{}}".encode())
                    answer = await peer.answer()
                refused = answer.status == 403 and "takes the role" in answer.fields["error"]["message"]
                may = right == OPEN or right in ROLES[role]
                # A method that a path does not know, and a path that is not served here, are nobody's to ask for.
                unknown = answer.status in (404, 405)
                assert refused != may or unknown, (role, method, path, answer.status)


@pytest.mark.parametrize("whose", ["mesh", "another's", "nobody's"])
async def test_a_client_certificate_stands_for_a_caller(tmp_path, keys, whose):
    keys.create(Grant(), now=time.time())
    server, clients = trustme.CA(), trustme.CA()
    (tmp_path / "clients.pem").write_bytes(clients.cert_pem.bytes())
    made = server.issue_cert("127.0.0.1")
    (tmp_path / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    (tmp_path / "tls.key").write_bytes(made.private_key_pem.bytes())
    tls = Tls(
        certificate=str(tmp_path / "tls.crt"),
        key=str(tmp_path / "tls.key"),
        client_ca=str(tmp_path / "clients.pem"),
    )
    mesh = Certificate(
        name="mesh",
        when="dns[?ends_with(@, '.research.svc')] | [0]",
        claims=Claims(tenant="'research'", user="dns[0]", app="subject.CN || ''", groups=""),
    )
    import ssl

    context = ssl.create_default_context()
    server.configure_trust(context)
    if whose != "nobody's":
        name = "indexer.research.svc" if whose == "mesh" else "other.example"
        clients.issue_cert(name, common_name="indexer").configure_cert(context)
    async with (
        FakeEngine() as engine,
        start_stack(
            engine, folder=tmp_path, **settings(tmp_path, tls=tls, identity=Identity(certificates=(mesh,)))
        ) as stack,
    ):
        answer = await status(stack, "", tls=context)
        assert answer.status == (200 if whose == "mesh" else 401)
        if whose == "mesh":
            async with await stack.peer(
                tls=context
            ) as peer:  # a denial holds on a connection that stays open
                await peer.send(post(ASK))
                assert (await peer.answer()).status == 200
                denial = Denial(issuer="mesh", kind="subject", value="indexer.research.svc", at=time.time())
                keys.deny(denial)
                await peer.send(post(ASK))
                assert (await peer.answer()).status == 401
            [first, *_] = await stack.records(3)
            bare = ssl.create_default_context()
            server.configure_trust(bare)
            for forgotten in (keys.lift("mesh", "subject", "indexer.research.svc"), True):
                assert forgotten
                assert (await status(stack, "", tls=context)).status == 200
                # The same bytes over a connection without it are nobody's.
                assert (await status(stack, "", tls=bare)).status == 401
            serial = first.key_id.removeprefix("mesh:")
            keys.deny(Denial(issuer="mesh", kind="token", value=serial, at=time.time()))
            assert (await status(stack, "", tls=context)).status == 401
            assert (first.tenant, first.user, first.app) == ("research", "indexer.research.svc", "indexer")


@pytest.mark.parametrize(
    ("networks", "client", "welcome"),
    [
        ((), "203.0.113.9", True),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8", "192.0.2.7"), "192.0.2.7", True),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "10.0.0.1", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "", False),
        (("10.0.0.0/8",), "unix", False),
    ],
)
def test_a_key_may_be_held_to_networks(tmp_path, keys, networks, client, welcome):
    minted = keys.create(Grant(networks=networks), now=time.time())
    book = KeyBook(tmp_path / "keys.db", PEPPER)
    for _ in range(2):
        if welcome:
            assert book.find(minted.secret.encode(), time.time(), client).key_id == minted.key.key_id
        else:
            with pytest.raises(Refused) as caught:
                book.find(minted.secret.encode(), time.time(), client)
            assert caught.value.reason is Reason.FORBIDDEN


def test_what_a_key_is_held_to_passes_to_its_successor(tmp_path, keys):
    old = keys.create(Grant(networks=("10.0.0.0/8",), roles=("developer",)), now=100.0)
    new = keys.rotate(old.key.key_id, now=200.0, overlap_s=60.0)
    assert (new.key.networks, new.key.roles) == (("10.0.0.0/8",), ("developer",))
    book = KeyBook(tmp_path / "keys.db", PEPPER)
    for secret, now, works in (
        (old, 259.0, True),
        (new, 259.0, True),
        (old, 260.0, False),
        (new, 260.0, True),
    ):
        if works:
            assert book.find(secret.secret.encode(), now, "10.0.0.1").roles == ("developer",)
        else:
            with pytest.raises(Refused, match="was replaced"):
                book.find(secret.secret.encode(), now, "10.0.0.1")


def test_keys_of_an_older_version_are_kept(tmp_path):
    import sqlite3

    old = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
    for number, statements in enumerate(keytable.MIGRATIONS[:2], 1):
        for statement in statements:
            old.execute(statement)
        old.execute(f"PRAGMA user_version = {number}")
    old.execute(
        "INSERT INTO keys VALUES ('gms_aaaaaaaa', x'00', 'abcd', 'default', '', '', '[\"service\"]', 0, NULL, "
        "NULL, '', 1.0, NULL, NULL, NULL, NULL)"
    )
    old.close()
    [key] = open_keys(tmp_path / "keys.db", PEPPER).list()
    assert (key.key_id, key.networks, key.roles) == ("gms_aaaaaaaa", (), ("service",))


def test_batches_of_somebody_who_was_denied_end(tmp_path, keys):
    keys.create(Grant(), now=time.time())
    ring = Keyring(KeyBook(tmp_path / "keys.db", PEPPER), b"inner", TokenBook(Identity(issuers=(CORP,))))
    caller = Caller(key_id="corp:ann", user="ann", roles=("developer",))
    inward = b"Gemstead inner " + base64.urlsafe_b64encode(msgspec.json.encode(caller))
    assert ring.identify(inward, None, time.time()) == caller
    keys.deny(Denial(issuer="corp", kind="subject", value="ann", at=time.time()))
    with pytest.raises(Refused, match="denied"):
        ring.identify(inward, None, time.time())


def test_denials_are_listed_replaced_lifted_and_forgotten(keys):
    keys.deny(Denial(issuer="*", kind="token", value="t", at=1.0, expires=50.0))
    keys.deny(Denial(issuer="a", kind="subject", value="s", at=2.0))
    keys.deny(Denial(issuer="a", kind="subject", value="s", at=3.0, forever=True, note="left"))
    assert [(one.value, one.at, one.forever) for one in keys.denied()] == [
        ("t", 1.0, False),
        ("s", 3.0, True),
    ]
    assert keys.lift("a", "subject", "s") and not keys.lift("a", "subject", "s")
    keys.deny(Denial(issuer="a", kind="subject", value="x", at=51.0))
    assert [one.value for one in keys.denied()] == ["x"]
    for bad in (
        Denial(issuer="a", kind="person", value="x", at=0),
        Denial(issuer="a", kind="token", value="", at=0),
    ):
        with pytest.raises(Exception, match="say what to deny"):
            keys.deny(bad)
