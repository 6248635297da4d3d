"""What a policy administrator does over the admin API, on real files; what that leaves behind and never shows."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from admin_port import PASSWORD, PEPPER, Port

from gemstead.console.app import server
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.hashkeys import hash_keys
from gemstead.ledger.keys import KeyBook
from gemstead.ledger.proof import verify_exports
from gemstead.ledger.ship.cursors import Cursors, path_beside
from gemstead.ledger.signing import Signer, known_keys
from gemstead.ledger.writer import Writer
from gemstead.refused import Refused
from gemstead.traffic.roles import ADMIN_RULES

CLERK = [{"name": "clerk", "allow": ("keys.manage", "keys.list")}]


@pytest.fixture
def port():
    return Port(roles=CLERK)


@asynccontextmanager
async def visitor(port, *roles):
    headers = {"authorization": f"Bearer {port.secret(*roles)}"}
    transport = httpx2.ASGITransport(port.app, client=("10.1.2.3", 5))
    async with httpx2.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as http:
        yield http


def calls(port, *fields):
    writer = Writer(port.folder / "audit.db")
    for number, one in enumerate(fields):
        writer.put(AuditRecord(**{"call_id": f"call-{number}", "began": time.time() - 60 + number, **one}))
    assert writer.close() == 0


def acts(port, action):
    connection = sqlite3.connect(port.folder / "audit.db")
    found = connection.execute(
        "SELECT actor, role, client, target, detail FROM acts WHERE action = ? ORDER BY seq", (action,)
    ).fetchall()
    connection.close()
    return found


def welcome(port, secret):
    try:
        return KeyBook(port.folder / "keys.db", PEPPER).find(secret.encode(), time.time(), "10.1.2.3")
    except Refused as refusal:
        return refusal.message


async def test_the_life_of_somebodys_key(port):
    async with visitor(port, "admin") as http:
        wanted = {
            "tenant": "acme",
            "app": "chat",
            "user": "ada",
            "roles": ["developer", "auditor"],
            "models": [port.spec.models[0].name],
            "networks": ["10.0.0.0/8"],
            "expires": "2999-01-01",
            "priority": -5,
            "requests_per_minute": 60,
            "note": "for the pilot",
        }
        made = await http.post("/admin/keys", json=wanted)
        assert made.headers["cache-control"] == "no-store"
        made = made.json()
        caller = welcome(port, made["key"])
        assert (caller.tenant, caller.user, caller.roles) == ("acme", "ada", ("developer", "auditor"))
        assert (caller.limit.requests_per_minute, caller.priority, len(caller.models)) == (60, -5, 1)
        assert (await http.get(f"/admin/keys/{made['key_id']}")).json()["state"] == "active"

        turned = (await http.post(f"/admin/keys/{made['key_id']}/rotate", json={"overlap_s": 60})).json()
        assert welcome(port, turned["key"]).user == welcome(port, made["key"]).user == "ada"
        found = (await http.get("/admin/keys", params={"tenant": "acme"})).json()["keys"]
        assert [(one["key_id"], one["state"]) for one in found] == [
            (made["key_id"], "retiring"),
            (turned["key_id"], "active"),
        ]
        gone = (await http.delete(f"/admin/keys/{turned['key_id']}")).json()
        assert gone["state"] == "revoked" and "revoked" in welcome(port, turned["key"])
        assert (await http.delete(f"/admin/keys/{turned['key_id']}")).json() == gone  # again: nothing changes

        everything = "".join(
            [(await http.get(path)).text for path in ("/admin/keys", "/admin/audit?records=acts")]
        )
    for secret in (made["key"], turned["key"]):
        assert secret not in everything  # shown once, and kept nowhere
        assert all(
            secret.encode() not in file.read_bytes() for file in port.folder.glob("*") if file.is_file()
        )
    whose = {one[0] for action in ("key.create", "key.rotate", "key.revoke") for one in acts(port, action)}
    assert len(whose) == 1 and whose.pop().startswith("key:gms_")
    created, *_ = acts(port, "key.create")
    assert (created[1], created[2], created[3]) == ("admin", "10.1.2.3", made["key_id"])
    assert len(acts(port, "key.revoke")) == 1


async def test_keys_are_listed_a_page_at_a_time(port):
    async with visitor(port, "auditor") as http:
        seen, after = [], ""
        while True:
            page = (await http.get("/admin/keys", params={"limit": 3, "after": after})).json()
            seen += [one["key_id"] for one in page["keys"]]
            if not (after := page["next"]):
                break
        assert seen == [key.key_id for key in port.keys.list()] and len(seen) == 7
        assert (await http.get("/admin/keys?after=nobody")).status_code == 400


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"roles": ["emperor"]}, "no such role"),
        ({"roles": []}, "without a role"),
        ({"models": ["gpt-9"]}, "no model"),
        ({"expires": "2001-01-01"}, "past"),
        ({"expires": "soon"}, "no moment"),
        ({"networks": ["everywhere"]}, "10.0.0.0/8"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a" * 200}, "128"),
        ({"requests_per_minute": 5, "unlimited": True}, "no limit at all"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
async def test_what_no_key_can_be_is_refused_with_what_to_do(port, asked, says):
    before = len(port.keys.list())
    async with visitor(port, "admin") as http:
        answer = await http.post("/admin/keys", json=asked)
    assert (answer.status_code, len(port.keys.list())) == (400, before + 1) and says in answer.json()["error"]


async def test_all_keys_of_somebody_are_revoked_at_once(port):
    async with visitor(port, "admin") as http:
        made = [
            (await http.post("/admin/keys", json={"user": user, "tenant": tenant})).json()
            for user, tenant in (("ann", "acme"), ("ann", "other"), ("ben", "acme"))
        ]
        assert (await http.delete("/admin/keys")).status_code == 400
        assert (await http.delete("/admin/keys?user=")).status_code == 400
        gone = (await http.delete("/admin/keys", params={"user": "ann", "tenant": "acme"})).json()
        assert gone == {"revoked": [made[0]["key_id"]]}
        assert "revoked" in welcome(port, made[0]["key"])
        assert [welcome(port, one["key"]).user for one in made[1:]] == ["ann", "ben"]
    assert [one[3] for one in acts(port, "key.revoke")] == [made[0]["key_id"]]


async def test_whoever_makes_keys_makes_nobody_mightier_than_himself(port):
    ruler = port.keys.list()[0]
    assert ruler.roles == ("admin",)
    async with visitor(port, "clerk") as http:
        for role, status in (
            ("service", 200),
            ("developer", 200),
            ("clerk", 200),
            ("auditor", 403),
            ("admin", 403),
        ):
            answer = await http.post("/admin/keys", json={"roles": [role]})
            assert answer.status_code == status, answer.text
        assert "identity.manage" in answer.json()["error"]
        turned = await http.post(f"/admin/keys/{ruler.key_id}/rotate")  # its secret would be in the answer
        assert turned.status_code == 403 and port.keys.get(ruler.key_id).replaced_by is None
        assert (await http.delete(f"/admin/keys/{ruler.key_id}")).status_code == 200  # taking away is allowed


async def test_a_key_of_which_nobody_could_tell_who_has_it_is_not_handed_out(port):
    (port.folder / "audit.db").mkdir()  # in the way
    async with visitor(port, "admin") as http:
        answer = await http.post("/admin/keys", json={"user": "ada"})
        assert answer.status_code == 503 and "revoked again" in answer.json()["error"]
        assert "gms_" not in answer.json().get("key", "")
        (made,) = [key for key in port.keys.list() if key.user == "ada"]
        assert made.revoked_at is not None
        # To take away comes first, and then it is told that it could not be written down.
        gone = await http.delete(f"/admin/keys/{port.keys.list()[2].key_id}")
        assert gone.status_code == 409 and "this is done" in gone.json()["error"]
        assert port.keys.list()[2].revoked_at is not None


async def test_the_life_of_a_denial(port):
    async with visitor(port, "admin") as http:
        made = (await http.post("/admin/keys", json={"user": "ann", "note": "made by corp:ann"})).json()
        first = (
            await http.post("/admin/denials", json={"kind": "subject", "value": "ann", "issuer": "corp"})
        ).json()
        assert (first["living"], first["revoked"], first["known"]) == ([made["key_id"]], [], True)
        wanted = {
            "kind": "subject",
            "value": "ann",
            "issuer": "corp",
            "forever": True,
            "keys": True,
            "note": "left",
        }
        assert (await http.post("/admin/denials", json=wanted)).json()["revoked"] == [made["key_id"]]
        assert "revoked" in welcome(port, made["key"])
        denied = KeyBook(port.folder / "keys.db", PEPPER).denied(time.time())
        assert denied.denies("corp", "ann", "", time.time() + 9, time.time())
        token = (
            await http.post("/admin/denials", json={"kind": "token", "value": "t/1 &x", "for_s": 60})
        ).json()
        assert token["denial"]["expires"] == pytest.approx(time.time() + 60, abs=5)
        assert (
            await http.post("/admin/denials", json={"kind": "token", "value": "t", "issuer": "crop"})
        ).json()["known"] is False
        found = (await http.get("/admin/denials")).json()["denials"]
        assert [one["value"] for one in found] == ["ann", "t/1 &x", "t"]
        lift = {"kind": "token", "value": "t/1 &x"}
        assert (await http.delete("/admin/denials", params=lift)).status_code == 200
        assert (await http.delete("/admin/denials", params=lift)).status_code == 404
        for bad in ({"kind": "token", "value": "t", "forever": True}, {"kind": "king", "value": "t"}, {}):
            assert (await http.post("/admin/denials", json=bad)).status_code == 400
    assert [one[3] for one in acts(port, "token.deny")] == ["ann", "ann", "t/1 &x", "t"]
    assert [one[3] for one in acts(port, "token.lift")] == ["t/1 &x"]
    assert [one[3] for one in acts(port, "key.revoke")] == [made["key_id"]]


async def test_the_log_is_looked_through_and_that_is_written_down(port):
    calls(port, *({"tenant": "ab"[n % 2], "key_id": f"k{n % 3}", "outcome": "served"} for n in range(12)))
    async with visitor(port, "auditor") as http:
        seen, after = [], ""
        while True:
            page = (await http.get("/admin/audit", params={"tenant": "a", "limit": 2, "after": after})).json()
            seen += [one["call"]["call_id"] for one in page["records"]]
            if not (after := page["next"]):
                break
        assert seen == [f"call-{n}" for n in (10, 8, 6, 4, 2, 0)]
        one = (await http.get("/admin/audit/calls/call-3")).json()
        assert (one["tenant"], one["key_id"]) == ("b", "k0")
        assert (await http.get("/admin/audit/calls/nope")).status_code == 404
        rows = (await http.get("/admin/usage", params={"by": "tenant", "since": time.time() - 3600})).json()[
            "rows"
        ]
        assert {row["by"]["tenant"]: row["requests"] for row in rows} == {"a": 6, "b": 6}
        for bad in (
            "since=yesterday",
            "limit=0",
            "records=all",
            "nope=1",
            "after=x",
            "tenant=a&tenant=b",
            "by=x",
        ):
            assert (await http.get(f"/admin/audit?{bad}")).status_code in (400, 409), bad
        looked = (await http.get("/admin/audit", params={"records": "acts", "action": "audit.read"})).json()
    first = looked["records"][-1]["act"]
    assert first["actor"].startswith("key:gms_") and first["detail"]["tenant"] == "a"
    assert len(acts(port, "audit.read")) == 2 + 1  # one search, one call, and the look at these


async def test_the_log_is_proven_over_the_api_as_on_the_machine(port):
    calls(port, *({"tenant": "ab"[n % 2]} for n in range(10)))
    async with visitor(port, "auditor") as http:
        kept = (await http.post("/admin/audit/checkpoint")).json()
        assert kept["signature"] and kept["seq"] >= 10
        whole = (await http.get("/admin/audit/verify")).json()
        assert whole["intact"] and whole["chains"][0]["records"] >= 10
        again = (await http.post("/admin/audit/verify", json={"checkpoints": [kept]})).json()
        assert again["intact"]
        answer = await http.get("/admin/audit/export", params={"tenant": "a"})
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.content.splitlines(keepends=True)
        key = (await http.get("/admin/audit/key")).json()
        keys = known_keys(port.folder / "audit.key")
        assert set(keys) == {key["key_id"]} and "PUBLIC KEY" in key["public_key"]
        (found,) = verify_exports(lines, keys)
        assert found.fault is None and found.records == 5 and b'"tenant":"b"' not in answer.content
        nothing = await http.get("/admin/audit/export", params={"since": 5, "until": 6})
        assert nothing.status_code == 409 and "no sealed records" in nothing.json()["error"]

        connection = sqlite3.connect(port.folder / "audit.db")
        connection.execute("UPDATE audit SET tenant = 'c' WHERE call_id = 'call-4'")
        connection.commit()
        connection.close()
        broken = (await http.get("/admin/audit/verify")).json()
        assert not broken["intact"] and broken["chains"][0]["fault"]["seq"] == 5
    assert [json.loads(one[4])["intact"] for one in acts(port, "audit.verify")] == [True, True, False]
    assert len(acts(port, "audit.export")) == 1


async def test_only_one_reads_the_whole_log(port):
    calls(port, *({"tenant": "a"} for _ in range(3)))
    async with visitor(port, "auditor") as http:
        answers = await asyncio.gather(*(http.get("/admin/audit/verify") for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
        assert (await http.get("/admin/audit/verify")).status_code == 200
        for _ in range(2):
            assert (await http.get("/admin/audit/export")).status_code == 200


def examinations():
    """The processes of ours that read a whole log."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"gemstead.ledger.examine" in (path / "cmdline").read_bytes():
                found.append(path.name)
    return found


async def test_whoever_leaves_in_the_middle_of_an_export_ends_it(port):
    calls(port, *({"tenant": "a", "reason": "x" * 1000} for _ in range(10_000)))
    secret = port.secret("auditor")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = server(port.app)
        serving = asyncio.create_task(running.serve(sockets=[listening]))
        address = listening.getsockname()
        head = f"GET /admin/audit/export HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n"
        for early in (False, True):
            status = b""
            async with asyncio.timeout(20):
                while b"200 OK" not in status:  # 409 until the one before has ended
                    reader, writer = await asyncio.open_connection(*address)
                    writer.write(head.encode())
                    status = b"200 OK" if early else await reader.readline()
                    writer.close()
        base = f"http://127.0.0.1:{address[1]}"
        async with asyncio.timeout(20), httpx2.AsyncClient(base_url=base, trust_env=False) as http:
            http.headers["authorization"] = f"Bearer {secret}"
            while (await http.get("/admin/audit/verify", timeout=20)).status_code == 409:
                await asyncio.sleep(0.05)
            while examinations():
                await asyncio.sleep(0.05)
        running.should_exit = True
        await serving


async def test_what_is_kept_and_what_is_deleted(port):
    old = time.time() - 4000 * 86_400.0
    calls(port, {"began": old, "tenant": "a"}, {"began": old, "tenant": "b"}, {"tenant": "a"})
    async with visitor(port, "admin") as http:
        hold = (await http.post("/admin/audit/holds", json={"tenant": "b", "reason": "case 7"})).json()
        assert (await http.post("/admin/audit/prune", json={"dry_run": True})).json()["calls"] == 0
        cursors = Cursors(path_beside(port.folder / "audit.db"))  # until the receiver has them
        assert cursors.moved(cursors.of("siem"), "c", 3, 3, [])
        assert (await http.post("/admin/audit/prune", json={"dry_run": True})).json()["calls"] == 1
        done = (await http.post("/admin/audit/prune")).json()
        assert (done["calls"], done["held"]) == (1, 1)
        assert (await http.get("/admin/audit/verify")).json()["intact"]
        assert (await http.get("/admin/audit/holds")).json()["holds"][0]["reason"] == "case 7"
        assert (await http.delete(f"/admin/audit/holds/{hold['hold_id']}")).json()["released"] is not None
        assert (await http.delete(f"/admin/audit/holds/{hold['hold_id']}")).status_code == 409
        assert (await http.delete("/admin/audit/holds/hold_none")).status_code == 404
    for action in ("audit.hold", "audit.release", "audit.prune"):
        assert [one[0][:8] for one in acts(port, action)] == [
            "key:gms_"
        ]  # who did it, not whose process it was


async def test_what_receivers_have_and_sending_again(port):
    calls(port, *({"tenant": "a", "began": 1e9 + n} for n in range(5)))
    cursors = Cursors(path_beside(port.folder / "audit.db"))
    assert cursors.moved(cursors.of("siem"), "c", 5, 5, [(2, "too odd")])
    async with visitor(port, "admin") as http:
        found = (await http.get("/admin/audit/ship")).json()
        assert found["named"] == ["siem"]
        assert [(one["sink"], one["seq"], one["waiting"]) for one in found["receivers"]] == [("siem", 5, 0)]
        odd = (await http.get("/admin/audit/ship/siem/refused")).json()["refused_records"]
        assert odd == [{"seq": 2, "why": "too odd"}]
        done = (await http.post("/admin/audit/ship/siem/replay", json={"since": 1e9 + 3})).json()
        assert done["chains"] == {"": {"from": 3, "had": 5}} and cursors.of("siem").seq == 3
        for since, seq in (("start", 0), ("2001-09-09T01:46:41", 1)):
            assert (
                await http.post("/admin/audit/ship/siem/replay", json={"since": since})
            ).status_code == 200
            assert cursors.of("siem").seq == seq
        assert (await http.post("/admin/audit/ship/siem/replay", json={})).status_code == 400
        assert (await http.get("/admin/audit/ship/nobody/refused")).status_code == 404
    assert [one[3] for one in acts(port, "audit.replay")] == ["siem"] * 3


async def test_keys_of_the_log_turn(port):
    async with visitor(port, "admin") as http:
        before = Signer(port.folder / "audit.key").key_id
        turned = (await http.post("/admin/audit/key/rotate")).json()
        assert turned["before"] == before != turned["key_id"]
        assert (await http.get("/admin/audit/verify")).json()["intact"]
        first = (
            await http.post("/admin/audit/hash-prompt", json={"prompt": "hello", "tenant": "acme"})
        ).json()
        new = (await http.post("/admin/audit/hash-keys", json={"tenant": "acme"})).json()
        assert new["reload_refused"] == ["line 1"] and not new["in_force"]
        both = (
            await http.post("/admin/audit/hash-prompt", json={"prompt": "hello", "tenant": "acme"})
        ).json()
        assert both["hashes"][:1] == first["hashes"] and len(both["hashes"]) == 2
        newer = (await http.post("/admin/audit/hash-keys", json={"tenant": "acme"})).json()
        assert (await http.delete(f"/admin/audit/hash-keys/{newer['id']}")).status_code == 409
        assert (await http.delete(f"/admin/audit/hash-keys/{new['id']}")).status_code == 200
        assert (await http.delete("/admin/audit/hash-keys/99")).status_code == 404
        listed = (await http.get("/admin/audit/hash-keys")).json()["hash_keys"]
        assert [(one["id"], one["in_use"]) for one in listed] == [("1", True), (newer["id"], True)]
    log = b"".join(file.read_bytes() for file in port.folder.glob("audit.db*"))
    assert b"hello" not in log


async def test_access_is_reviewed_and_reported(port):
    async with visitor(port, "auditor") as http:
        rows = (await http.get("/admin/access-review")).json()["access"]
        assert {row["kind"] for row in rows} == {"key", "issuer", "password"}
        done = (await http.post("/admin/access-review")).json()
        assert done["ways"] == len(rows) and len(acts(port, "access.review")) == 1
        report = (await http.get("/admin/compliance/soc2")).json()
        assert {"controls", "access"} <= set(report)
        assert next(one["state"] for one in report["controls"] if one["id"] == "CC6.3") == "set"
        assert (await http.get("/admin/compliance/astrology")).status_code == 404
        roles = (await http.get("/admin/roles")).json()["roles"]
        assert (await http.post("/admin/secrets/check")).status_code == 403
        assert [one["rights"] for one in roles if one["name"] == "clerk"] == [["keys.list", "keys.manage"]]


async def test_a_key_that_is_used_here_alone_is_not_taken_for_unused(port):
    async with visitor(port, "viewer") as http:
        assert (await http.get("/admin/status")).status_code == 200
    port.entrance.end()
    (used,) = [key for key in port.keys.list() if key.last_used is not None]
    assert used.roles == ("viewer",) and time.time() - used.last_used < 60


async def test_secrets_are_tried_and_not_told(port):
    async with visitor(port, "operator") as http:
        answer = await http.post("/admin/secrets/check")
    (found,) = answer.json()["secrets"]
    assert (found["reference"], found["ok"]) == ("env:SET", True) and "s3cr3t" not in answer.text


async def test_an_admin_sets_the_password_that_breaks_the_glass(port):
    async with visitor(port, "admin") as http:
        assert (await http.put("/admin/password", json={"new": "short"})).status_code == 403
        assert (await http.put("/admin/password", json={"new": "another phrase, quite long"})).json() == {
            "set": True
        }
    assert port.password.matches(PASSWORD) is None
    assert port.password.matches("another phrase, quite long") is not None
    assert [one[0][:8] for one in acts(port, "admin.password.change")] == ["key:gms_"]


async def test_an_auditor_reads_everything_and_sees_no_secret(port):
    calls(port, {"tenant": "a", "prompt_hash": "hmac-sha256:1:00"})
    async with visitor(port, "admin") as http:
        made = (await http.post("/admin/keys", json={"user": "ada"})).json()["key"]
        await http.post("/admin/audit/checkpoint")
    signing = (port.folder / "audit.key").read_text().splitlines()[1]
    secrets = [made, PEPPER.hex(), signing, *(key.secret for key in hash_keys(port.folder / "hash.key"))]
    secrets += [port.password.matches(PASSWORD).hash, "right", *port.secrets.values()]
    async with visitor(port, "auditor") as http:
        for rule, right in ADMIN_RULES.items():
            method, path = rule.split(" ")
            if method == "GET" and right:
                answer = await http.get(path.replace("{framework}", "gdpr").replace("{id}", made[:12]))
                for secret in secrets:
                    assert f'"{secret}"' not in answer.text and (
                        len(secret) < 9 or secret not in answer.text
                    ), rule
