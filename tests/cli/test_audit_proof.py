"""`gemstead audit verify`, `export`, `hold`, `prune`, `ship` and the hash keys, as a person types them."""

from __future__ import annotations

import io
import json
import sqlite3
import time

import pytest

from gemstead.cli.main import main
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.hashkeys import hash_keys
from gemstead.ledger.ship.cursors import Cursors
from gemstead.ledger.writer import Writer

FILE = """
state_dir: {state}
audit:
  retention: [{{keep_days: 30, records: calls}}]
  ship: [{{name: siem, to: otlp, url: "http://127.0.0.1:9"}}]
"""


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    writer = Writer(folder / "audit.db")
    for number in range(20):
        began = time.time() - (60 * 86_400 if number < 5 else 600)
        tenant = "acme" if number % 2 else "other"
        writer.put(
            AuditRecord(call_id=f"call-{number}", began=began, tenant=tenant, outcome="served", status=200)
        )
    assert writer.close() == 0
    return folder


@pytest.fixture
def run(tmp_path, state, capsys):
    file = tmp_path / "gemstead.yaml"
    file.write_text(FILE.format(state=state))

    def run(*words):
        code = main(["audit", *words, "--config", str(file)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_verify_says_what_holds_and_names_what_does_not(run, state):
    code, out, err = run("verify")
    assert code == 0 and "records 1 to 20 are as they were written" in out and "no signature" in err
    assert run("checkpoint")[0] == 0
    assert "signed up to record 21" in run("verify")[1]  # that it was verified is a record too
    connection = sqlite3.connect(state / "audit.db")
    connection.execute("UPDATE audit SET tenant = 'x' WHERE seq = 7")
    connection.commit()
    code, out, _ = run("verify")
    assert code == 1 and "BROKEN at record 7 (altered)" in out
    assert json.loads(run("verify", "--json")[1])["fault"]["seq"] == 7


def test_an_export_is_verified_with_the_key_alone(run, state, tmp_path):
    out = tmp_path / "export.jsonl"
    code, _, err = run("export", "--from", "1h", "--tenant", "acme", "--out", str(out))
    assert code == 0, err
    assert out.stat().st_mode & 0o777 == 0o600
    key = tmp_path / "key.pem"
    key.write_text(run("key")[1])
    for file in state.glob("audit*"):
        if file.is_file():
            file.unlink()
    code, said, _ = run("verify", "--export", str(out), "--public-key", str(key))
    assert code == 0, said
    text = out.read_text()
    out.write_text(text.replace("acme", "evil"))
    code, said, _ = run("verify", "--export", str(out), "--public-key", str(key))
    assert code == 1 and "BROKEN" in said


def test_a_checkpoint_kept_elsewhere_finds_a_log_that_was_made_shorter(run, state, tmp_path):
    kept = tmp_path / "kept.json"
    kept.write_text(run("checkpoint")[1])
    connection = sqlite3.connect(state / "audit.db")
    connection.executescript(
        "DELETE FROM audit WHERE seq > 10; DELETE FROM acts; DELETE FROM checkpoints WHERE kind = 'head'; "
        "UPDATE chain SET head_seq = 10, head_link = (SELECT link FROM audit WHERE seq = 10)"
    )
    connection.close()
    assert run("verify")[0] == 0
    code, out, _ = run("verify", "--checkpoint", str(kept))
    assert code == 1 and "truncated" in out


def test_prune_keeps_what_is_held_and_what_is_not_shipped(run, state):
    assert "0 calls" in run("prune", "--dry-run")[1], "siem has nothing yet"
    Cursors(state / "ship.db").replay("siem", 10_000)
    code, out, _ = run("hold", "add", "--tenant", "acme", "--reason", "case 7")
    assert code == 0
    assert "case 7" in run("hold", "list")[1]
    assert "3 calls and 0 acts were deleted; 2 are due" in run("prune")[1]
    assert run("hold", "release", out.strip())[0] == 0
    assert "2 calls" in run("prune")[1]
    assert run("verify")[0] == 0
    assert run("hold", "release", "hold_none")[0] == 1


def test_ship_status_and_replay(run, state):
    assert run("ship", "replay", "siem", "--from", "now")[0] == 0
    code, out, _ = run("ship", "status")
    assert code == 0 and "siem" in out
    assert "behind 5 " in run("ship", "replay", "siem", "--from", "1h")[1]
    assert json.loads(run("ship", "status", "--json")[1])["receivers"][0]["waiting"] >= 15
    code, _, err = run("ship", "replay", "nobody", "--from", "start")
    assert code == 2 and "siem" in err
    assert run("ship", "refused", "siem")[0] == 0


def test_hash_keys_rotate_and_old_hashes_can_still_be_looked_for(run, state, monkeypatch, capsys):
    assert run("rotate-hash-key", "--tenant", "acme")[0] == 0
    assert [key.id for key in hash_keys(state / "hash.key")] == ["1", "2"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    lines = run("hash-prompt", "--tenant", "acme")[1].split()
    assert [line.split(":")[1] for line in lines] == ["1", "2"]
    assert run("rotate-hash-key", "--forget", "2")[0] == 1
    assert run("rotate-signing-key")[0] == 0
    assert run("verify")[0] == 0


def test_what_is_not_there_is_said(run, tmp_path):
    assert run("verify", "--export", str(tmp_path / "none"))[0] == 2
    assert run("export", "--from", "1s")[0] == 1
    code, _, err = run("export", "--from", "when?")
    assert code == 2 and "--from" in err
