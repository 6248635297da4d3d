"""`gemstead usage` and `gemstead audit` as a person types them, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from gemstead.cli.main import main
from gemstead.ledger.acts import new_act, remember
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.audittable import MIGRATIONS
from gemstead.ledger.database import open_to_write
from gemstead.ledger.writer import Writer


def record(number, **values):
    fields = {
        "call_id": f"call-{number:04d}",
        "began": time.time() - 60,
        "tenant": "acme",
        "key_id": "gms_abcdefgh",
        "pool": "gemma-4-e2b",
        "prompt_tokens": 100,
        "output_tokens": 20,
        "first_token_s": 0.25,
        "seconds": 1.5,
        "status": 200,
        "outcome": "served",
    }
    return AuditRecord(**{**fields, **values})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "audit.db"


@pytest.fixture
def written(path):
    def written(*records):
        writer = Writer(path)
        for one in records:
            writer.put(one)
        assert writer.close() == 0

    return written


@pytest.fixture
def run(tmp_path, capsys):
    def run(*words):
        try:
            code = main([*words, f"--set=state_dir={tmp_path / 'state'}"])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def test_before_anything_was_called(run, path):
    for words in (("usage",), ("audit", "tail")):
        code, out, err = run(*words)
        assert (code, out) == (0, "")
        assert str(path) in err
    assert json.loads(run("usage", "--json")[1])["rows"] == []
    assert run("audit", "tail", "--json")[1] == ""
    assert not path.parent.exists()


def test_usage_by_tenant_and_model(run, written):
    written(record(1), record(2, tenant="zoo"), record(3, outcome="shed", first_token_s=None))
    code, out, _ = run("usage")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:3] == ["TENANT", "MODEL", "REQUESTS"]
    assert rows[1][:4] == ["acme", "gemma-4-e2b", "2", "1"]
    assert rows[2][:4] == ["zoo", "gemma-4-e2b", "1", "0"]
    (total,) = json.loads(run("usage", "--by", "total", "--json")[1])["rows"]
    assert (total["requests"], total["prompt_tokens"], total["output_tokens"]) == (3, 300, 60)


def test_usage_of_a_period(run, written):
    written(record(1), record(2, began=time.time() - 7200), record(3, began=1_000_000_000.0))
    counts = [
        sum(row["requests"] for row in json.loads(run("usage", "--json", *words)[1])["rows"])
        for words in (
            ("--since", "1h"),
            ("--since", "24h"),
            ("--since", "24h", "--until", "1h"),
            ("--since", "2001-09-09", "--until", "2001-09-10"),
        )
    ]
    assert counts == [1, 2, 1, 1]


def test_what_is_missing_is_said(run, written, path):
    written(record(1))
    connection = open_to_write(path, MIGRATIONS)
    connection.execute("INSERT INTO gaps VALUES (?, ?, 7)", (time.time() - 50, time.time() - 40))
    connection.close()
    assert "7 records" in run("usage")[2]
    assert json.loads(run("usage", "--json")[1])["missing"][0]["records"] == 7


def test_the_tail_in_order_and_filtered(run, written):
    written(*(record(n, outcome="shed" if n % 2 else "served") for n in range(30)))
    code, out, _ = run("audit", "tail", "-n", "3")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["call-0027", "call-0028", "call-0029"]
    lines = run("audit", "tail", "-n", "2", "--where", "outcome=shed", "--json")[1].splitlines()
    assert [json.loads(line)["call_id"] for line in lines] == ["call-0027", "call-0029"]


def test_one_call_in_full(run, written):
    written(record(7, user="ada"))
    code, out, _ = run("audit", "show", "call-0007")
    assert code == 0
    assert "user           ada" in out.splitlines()
    assert json.loads(run("audit", "show", "call-0007", "--json")[1])["seconds"] == 1.5


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("audit", "show", "nothing"), 1, "gemstead audit tail"),
        (("audit", "show", "\x1b[2J"), 1, "gemstead audit tail"),
        (("usage", "--by", "colour"), 1, "tenant, app, user"),
        (("usage", "--since", "yesterday"), 2, "12h"),
        (("audit", "tail", "--where", "outcome"), 2, "NAME=VALUE"),
        (("audit", "tail", "--where", "colour=red"), 1, "tenant, app, user"),
        (("audit",), 2, "tail"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(run, written, words, code, says):
    written(record(1))
    found, _, err = run(*words)
    assert found == code
    assert says in err
    assert "\x1b" not in err


def test_what_a_caller_sent_cannot_steer_the_terminal(run, written):
    written(record(1, pool="", model="\x1b[2Jgemma\r\n", tenant="a\x07"))
    for words in (("usage",), ("audit", "tail"), ("audit", "show", "call-0001")):
        out = run(*words)[1]
        assert "gemma" in out
        assert not set(out) & {"\x1b", "\x07", "\r"}


def test_a_damaged_ledger_is_one_sentence(run, path):
    path.parent.mkdir()
    path.write_text("not a database at all" * 100)
    for words in (("usage",), ("audit", "tail"), ("audit", "show", "x")):
        code, _, err = run(*words)
        assert code == 1
        assert "is not a database" in err


def test_following_shows_what_is_written_meanwhile_each_once(path):
    writer = Writer(path, flush_s=0.01)
    writer.put(record(0))
    command = [sys.executable, "-m", "gemstead.cli.main", "audit", "tail", "-f", "--json"]
    follower = subprocess.Popen(
        [*command, f"--set=state_dir={path.parent}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(20, follower.kill)
    killer.start()
    try:
        for number in range(1, 20):
            writer.put(record(number))
        seen = [json.loads(follower.stdout.readline())["call_id"] for _ in range(10)]
        for number in range(20, 40):
            writer.put(record(number))
        seen += [json.loads(follower.stdout.readline())["call_id"] for _ in range(30)]
    finally:
        killer.cancel()
        follower.terminate()
        follower.communicate()
        writer.close()
    assert sorted(seen) == [f"call-{number:04d}" for number in range(40)]


def test_records_are_found_by_what_they_say(run, written, path):
    written(*(record(n, tenant="ab"[n % 2], user=f"u{n % 3}", began=time.time() - 60 + n) for n in range(12)))
    remember(
        path, new_act("key.create", "gms_x", actor="user:ann", tenant="a", detail={"roles": ["service"]})
    )
    code, out, err = run("audit", "find", "--tenant", "a", "--user", "u0")
    assert (code, err) == (0, "") and out.index("call-0006") < out.index("call-0000")
    assert "call-0003" not in out and "call-0001" not in out
    code, out, _ = run("audit", "find", "--json", "-n", "3")
    assert [json.loads(line)["call"]["call_id"] for line in out.splitlines()] == [
        "call-0011",
        "call-0010",
        "call-0009",
    ]
    code, out, _ = run("audit", "find", "--acts", "--caller", "ann", "--json", "-n", "0")
    (act,) = [json.loads(line)["act"] for line in out.splitlines()]
    assert (act["action"], act["detail"]) == ("key.create", {"roles": ["service"]})
    code, out, _ = run("audit", "find", "--acts")
    assert code == 0 and "user:ann" in out
    code, out, err = run("audit", "find", "--tenant", "nobody")
    assert (code, out) == (0, "") and "no such records" in err
    assert run("audit", "find", "--action", "key.create")[0] == 1
    assert run("audit", "find", "--from", "soon")[0] == 2
