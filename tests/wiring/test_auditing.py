"""What a service writes into its audit log beside calls: that it began, was changed, was asked, ended; and signs it."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import pytest
from msgspec import structs

from gemstead.console.asked import actor_of
from gemstead.console.door import OWNER
from gemstead.gateway.issuers import Came
from gemstead.ledger.log import SqliteLog
from gemstead.ledger.proof import verify
from gemstead.ledger.signing import known_keys
from gemstead.spec.load import load
from gemstead.traffic.caller import Caller
from gemstead.wiring.auditing import Auditor
from gemstead.wiring.files import StateDir

SHIP = """
audit:
  ship:
    - {name: down, to: otlp, url: "http://127.0.0.1:9", token: "env:TOKEN"}
"""


@pytest.fixture
def folder(tmp_path):
    return StateDir(tmp_path, tmp_path)


class Log:
    def say(self, text): ...
    def write(self, data): ...
    def close(self): ...


def rows(folder):
    connection = sqlite3.connect(folder.audit)
    found = connection.execute("SELECT action, target, actor, outcome, before, after FROM acts ORDER BY seq")
    made = [row for row in found if row[0] != "audit.checkpoint"]
    connection.close()
    return made


async def test_a_service_remembers_what_was_done_to_it(folder):
    told = []
    auditor = Auditor(folder, lambda name: Log(), told.append)
    first, second = load("", "x").spec, load("hub: false", "x").spec
    auditor.start(first, ())
    auditor.follow(second, ())
    auditor.asked(OWNER, "POST", "/admin/reload", "", "127.0.0.1", 200)
    auditor.asked(
        Caller(key_id="gms_abc", roles=("viewer",)), "POST", "/admin/stop", "now=1", "127.0.0.1", 403
    )
    for _ in range(5):
        auditor.asked(None, "POST", "/admin/stop", "", "127.0.0.1", 401)
    await auditor.end()
    acts = rows(folder)
    assert [row[0] for row in acts] == ["service.start", "config.reload", *["admin.post"] * 3, "service.stop"]
    assert acts[1][4] == acts[0][5] != acts[1][5] and acts[1][5].startswith("sha256:")
    assert acts[2][2].startswith("os:") and [row[3] for row in acts[2:5]] == ["done", "refused", "refused"]
    assert (acts[3][2], acts[4][2]) == ("key:gms_abc", "unknown")
    connection = sqlite3.connect(folder.audit)
    (said,) = connection.execute("SELECT detail FROM acts WHERE actor = 'key:gms_abc'").fetchone()
    connection.close()
    assert json.loads(said) == {"status": 403, "query": "now=1"}
    found = verify(folder.audit, known_keys(folder.ledger / "audit.key"))
    assert found.fault is None and found.vouched == found.records - 1
    assert not told


async def test_who_came_is_written_down_once_whichever_worker_told_it(folder):
    auditor = Auditor(folder, lambda name: Log(), print)
    auditor.start(load("", "x").spec, ())
    ann = Came(who="corp:ann", kind="token", tenant="acme", user="ann", roles=("viewer",), groups=("ml",))
    ben = Came(who="corp:ben", kind="token", tenant="acme", user="ben", roles=("developer",))
    for came in (ann, ben, ann, ann, ben, structs.replace(ann, roles=("admin",))):
        auditor.seen(came)
    await auditor.end()
    assert [row[1] for row in rows(folder) if row[0] == "identity.seen"] == [
        "corp:ann",
        "corp:ben",
        "corp:ann",
    ]
    callers = SqliteLog(folder.audit).callers()
    assert [(one.who, one.roles, one.groups) for one in callers] == [
        ("corp:ann", ("admin",), ("ml",)),
        ("corp:ben", ("developer",), ()),
    ]


async def test_who_came_while_the_log_could_not_be_written_is_written_down_later(folder):
    told = []
    auditor = Auditor(folder, lambda name: Log(), told.append)
    folder.audit.mkdir()  # in the way
    auditor.seen(Came(who="corp:ann", kind="token", tenant="acme", user="ann", roles=("viewer",)))
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.02)
    folder.audit.rmdir()
    await auditor.end()
    assert [one.who for one in SqliteLog(folder.audit).callers()] == ["corp:ann"]


async def test_a_receiver_that_is_down_is_told_and_its_secret_never(folder):
    told = []
    auditor = Auditor(folder, lambda name: Log(), told.append)
    spec = load(SHIP, "x").spec
    sinks = auditor.sinks(spec, lambda reference, where: f"secret-of-{reference}")
    assert sinks[0].token == "secret-of-env:TOKEN" and "secret-of" not in repr(sinks)
    auditor.start(spec, sinks)
    for _ in range(200):
        if told:
            break
        await asyncio.sleep(0.05)
    await auditor.end()
    assert told and "wait for down" in told[0] and "secret-of" not in "".join(told)


def test_a_ledger_that_cannot_be_written_is_told_once(folder):
    folder.audit.mkdir()
    told = []
    auditor = Auditor(folder, lambda name: Log(), told.append)
    auditor.act("key.create")
    auditor.act("key.create")
    auditor._thread.shutdown()
    assert len(told) == 1 and "audit log" in told[0]


def test_actors_are_named_by_what_is_known_of_them():
    assert actor_of(None) == "unknown"
    assert actor_of(Caller(key_id="oidc", user="ann")) == "user:ann"
