"""What a service writes into its audit log beside calls: that it began, was changed, was asked, ended; and signs it."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from gemstead.console.door import OWNER
from gemstead.ledger.proof import verify
from gemstead.ledger.signing import known_keys
from gemstead.spec.load import load
from gemstead.traffic.caller import Caller
from gemstead.wiring.auditing import Auditor, actor_of
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
    auditor.asked(OWNER, "POST", "/admin/reload", "127.0.0.1", 200)
    auditor.asked(Caller(key_id="gms_abc", roles=("viewer",)), "POST", "/admin/stop", "127.0.0.1", 403)
    for _ in range(5):
        auditor.asked(None, "POST", "/admin/stop", "127.0.0.1", 401)
    await auditor.end()
    acts = rows(folder)
    assert [row[0] for row in acts] == ["service.start", "config.reload", *["admin.post"] * 3, "service.stop"]
    assert acts[1][4] == acts[0][5] != acts[1][5] and acts[1][5].startswith("sha256:")
    assert acts[2][2].startswith("os:") and [row[3] for row in acts[2:5]] == ["done", "refused", "refused"]
    assert (acts[3][2], acts[4][2]) == ("key:gms_abc", "unknown")
    found = verify(folder.audit, known_keys(folder.ledger / "audit.key"))
    assert found.fault is None and found.vouched == found.records - 1
    assert not told


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
