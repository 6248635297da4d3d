"""The report says what is set and recorded, names real tests, and access reviews find what is stale."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.cli.comply import FRAMEWORKS
from gemstead.cli.main import main
from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.keys import Denial, Grant, open_keys
from gemstead.ledger.log import SqliteLog
from gemstead.ledger.signing import Signer
from gemstead.ledger.writer import Writer
from gemstead.operate.compliance.access import rows_of
from gemstead.operate.compliance.evidence import gather
from gemstead.operate.compliance.judge import CHECKS, DAY_S, controls, frameworks, judged
from gemstead.spec.model import Spec
from gemstead.traffic.roles import RIGHTS

HERE = Path(__file__).parents[3]
NOW = 1_800_000_000.0


def evidence(tmp_path, spec=None, now=NOW):
    return gather(
        Spec.model_validate(spec or {}, strict=False),
        open_keys(tmp_path / "keys.db", b""),
        SqliteLog(tmp_path / "audit.db"),
        now,
    )


def state(tmp_path, framework, control, **more):
    lines = judged(framework, evidence(tmp_path, **more))
    return next(line.state for line in lines if line.control.id == control)


def test_every_framework_has_controls_and_every_check_exists():
    assert set(frameworks()) == set(FRAMEWORKS) == {one.framework for one in controls()}
    assert {name for one in controls() for name in one.checks} == set(CHECKS)
    assert len({(one.framework, one.id) for one in controls()}) == len(controls())
    assert all(one.operator and one.does for one in controls())


@pytest.mark.parametrize("test", sorted({test for one in controls() for test in one.tests}))
def test_every_named_test_exists(test):
    file, _, name = test.partition("::")
    assert f"def {name}(" in (HERE / file).read_text("utf-8")


@pytest.mark.parametrize(
    ("spec", "framework", "control", "states"),
    [
        ({"gateway": {"listen": "0.0.0.0:1"}}, "soc2", "CC6.7", "open"),
        ({}, "soc2", "CC6.7", "set"),
        ({"gateway": {"keys": "off"}}, "soc2", "CC6.1", "open"),
        ({"admin": {"listen": "0.0.0.0:1"}}, "iso27001", "A.5.15", "open"),
        ({"gateway": {"media": "engine"}}, "iso27001", "A.8.20", "open"),
        ({"audit": {"retention": [{"keep_days": 100}]}}, "eu-ai-act", "Article 26(6)", "open"),
        ({"audit": {"retention": [{"keep_days": 200}]}}, "eu-ai-act", "Article 26(6)", "set"),
        ({}, "eu-ai-act", "Article 26(6)", "set"),
        ({}, "gdpr", "Article 5(1)(e)", "open"),
        ({"audit": {"retention": [{"keep_days": 30}]}}, "gdpr", "Article 5(1)(e)", "set"),
        ({}, "eu-ai-act", "Article 50(1), (2)", "yours"),
    ],
)
def test_a_control_stands_as_the_file_says(tmp_path, spec, framework, control, states):
    assert state(tmp_path, framework, control, spec=spec) == states


def test_what_was_done_counts_until_it_is_old(tmp_path):
    assert state(tmp_path, "soc2", "CC6.3") == "open"
    remember(tmp_path / "audit.db", new_act("access.review"))
    now = time.time()
    assert state(tmp_path, "soc2", "CC6.3", now=now) == "set"
    assert state(tmp_path, "soc2", "CC6.3", now=now + 100 * DAY_S) == "open"
    assert state(tmp_path, "hipaa", "164.312(b)", now=now) == "open"
    checkpoint(tmp_path / "audit.db", Signer(tmp_path / "audit.key"), now)
    remember(tmp_path / "audit.db", new_act("audit.verify", outcome="failed"))
    assert state(tmp_path, "hipaa", "164.312(b)", now=now) == "open"
    remember(tmp_path / "audit.db", new_act("audit.verify"))
    assert state(tmp_path, "hipaa", "164.312(b)", now=now) == "set"
    assert state(tmp_path, "soc2", "A1.3", now=now) == "open"
    remember(tmp_path / "audit.db", new_act("restore.drill", outcome="failed"))
    assert state(tmp_path, "soc2", "A1.3", now=now) == "open"
    remember(tmp_path / "audit.db", new_act("restore.drill"))
    assert state(tmp_path, "soc2", "A1.3", now=now) == "set"


def test_what_is_stale_is_said(tmp_path):
    store = open_keys(tmp_path / "keys.db", b"p" * 32)
    old = NOW - 200 * DAY_S
    stale = store.create(Grant(user="stale"), now=old).key.key_id
    used = store.create(Grant(user="used", expires=NOW + DAY_S), now=old).key.key_id
    store.touch({used: NOW - DAY_S})
    gone = store.create(Grant(user="gone"), now=old).key.key_id
    store.revoke(gone, now=old + 1)
    ruler = store.create(Grant(user="ruler", roles=("admin",), expires=NOW + DAY_S), now=NOW).key.key_id
    notices = {row["key_id"]: row["notice"] for row in rows_of(evidence(tmp_path))}
    assert notices == {stale: "unused for 90 days; never expires", used: "", ruler: "may do everything"}
    store.create(Grant(user="gone", roles=("emperor",), expires=NOW + DAY_S), now=NOW)
    assert rows_of(evidence(tmp_path))[-1]["notice"] == "`emperor` is no role any more"
    assert state(tmp_path, "iso27001", "A.5.18") == "open"


IDENTITY = {
    "issuers": [
        {
            "name": "corp",
            "issuer": "https://id.example",
            "audience": ["gemstead"],
            "default_roles": ["viewer"],
            "grants": [{"group": "ml", "role": "developer"}, {"group": "root", "role": "admin"}],
        }
    ],
    "certificates": [{"name": "mesh", "when": "dns[0]", "roles": ["lead"]}],
    "roles": [{"name": "lead", "extends": ["viewer"], "allow": ["usage.all"]}],
}


def test_every_way_in_is_listed_with_what_it_may_do_and_who_came_by_it(tmp_path):
    store = open_keys(tmp_path / "keys.db", b"p" * 32)
    writer = Writer(tmp_path / "audit.db")
    for who, days in (("corp:ann", 200), ("corp:ann", 1), ("corp:ben", 120), ("mesh:0A", 2), ("gms_x", 1)):
        user = "indexer" if who == "mesh:0A" else who.partition(":")[2]
        writer.put(
            AuditRecord(
                call_id=f"{who}{days}", began=NOW - days * DAY_S, key_id=who, user=user, tenant="acme"
            )
        )
    writer.close()

    def noted(who, days, roles, groups=()):
        detail = {"user": who.partition(":")[2], "roles": roles, "groups": groups, "kind": "token"}
        act = new_act("identity.seen", who, actor="gemstead", tenant="acme", detail=detail)
        act.at = NOW - days * DAY_S
        remember(tmp_path / "audit.db", act)

    noted("corp:ann", 200, ["viewer"])
    noted("corp:ann", 1, ["viewer", "admin"], ["root"])
    noted("corp:cat", 120, ["viewer", "developer", "emperor"], ["ml"])
    noted("gone:dan", 3, ["admin"])
    store.deny(Denial(issuer="mesh", kind="subject", value="indexer", at=NOW))
    found = evidence(tmp_path, {"identity": IDENTITY})
    rows = {
        (row["kind"], row["key_id"]): row
        for row in rows_of(replace(found, password=NOW - DAY_S, password_used=NOW))
    }
    assert {who: (row["roles"], row["notice"]) for who, row in rows.items()} == {
        ("issuer", "corp"): ("viewer", ""),
        ("group", "corp:ml"): ("developer", "unused for 90 days"),
        ("group", "corp:root"): ("admin", "may do everything"),
        ("certificate", "mesh"): ("lead", ""),
        ("caller", "corp:ann"): ("viewer,admin", "may do everything"),
        ("caller", "corp:ben"): ("", "unused for 90 days; its roles are not in the log"),
        ("caller", "corp:cat"): (
            "viewer,developer,emperor",
            "unused for 90 days; `emperor` is no role any more",
        ),
        ("caller", "gone:dan"): ("admin", "`gone` is not in the file any more"),
        ("caller", "mesh:0A"): ("", "its roles are not in the log; denied here"),
        ("password", "admin.password"): ("admin", "break-glass; may do everything"),
    }
    used = {who: row["last_used"] for who, row in rows.items()}
    assert used["caller", "corp:ann"] == used["issuer", "corp"] == used["group", "corp:root"] == NOW - DAY_S
    assert (used["certificate", "mesh"], used["password", "admin.password"]) == (NOW - 2 * DAY_S, NOW)
    assert (rows["caller", "corp:ann"]["noted"], rows["caller", "corp:ann"]["groups"]) == (
        NOW - DAY_S,
        ["root"],
    )
    assert rows["certificate", "mesh"]["may"] == ["metrics.read", "models.list", "status.read", "usage.all"]
    assert set(rows["group", "corp:root"]["may"]) == set(rows["caller", "corp:ann"]["may"]) == set(RIGHTS)
    assert "inference" in rows["caller", "corp:cat"]["may"]
    assert (rows["caller", "gone:dan"]["state"], rows["caller", "gone:dan"]["may"]) == ("gone", [])
    assert ("password", "admin.password") not in {(row["kind"], row["key_id"]) for row in rows_of(found)}


def test_when_the_glass_was_last_broken_is_told(tmp_path):
    for actor in ("break-glass", "corp:ann"):
        remember(tmp_path / "audit.db", new_act("admin.login", "admin port", actor=actor))
    keys, log = open_keys(tmp_path / "keys.db", b""), SqliteLog(tmp_path / "audit.db")
    found = gather(Spec(), keys, log, time.time(), password=1.0)
    (row,) = [row for row in rows_of(found) if row["kind"] == "password"]
    assert row["created"] == 1.0 and time.time() - row["last_used"] < 60


def test_a_review_that_cannot_see_the_keys_says_so(tmp_path, capsys):
    (tmp_path / "keys.db").write_bytes(b"no database " * 100)
    assert main(["access-review", "--record", "--set", f"state_dir={tmp_path}"]) == 1
    assert "keys.db" in capsys.readouterr().err and not (tmp_path / "audit.db").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_report_is_printed_and_is_json(tmp_path, framework, capsys):
    folder = ["--set", f"state_dir={tmp_path}"]
    assert main(["comply", "report", "--framework", framework, *folder]) == 0
    assert "not a judgement" in capsys.readouterr().out
    assert main(["comply", "report", "--framework", framework, "--json", *folder]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["controls"] and said["access"] == []


def test_a_recorded_review_is_evidence(tmp_path, capsys):
    folder = ["--set", f"state_dir={tmp_path}"]
    store = open_keys(tmp_path / "keys.db", b"p" * 32)
    secret = store.create(Grant(user="ada"), now=time.time()).secret
    assert main(["access-review", "--record", *folder]) == 0
    printed = capsys.readouterr().out
    assert "ada" in printed and secret not in printed
    assert main(["access-review", "--json", *folder]) == 0
    assert json.loads(capsys.readouterr().out)[0]["notice"] == "never expires"
    assert state(tmp_path, "soc2", "CC6.3", now=time.time()) == "set"
