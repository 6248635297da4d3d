"""Files of every earlier form are brought forward whole, once, and under load."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from gemstead.cli.main import main
from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.schema import SCHEMAS, states, upgrade

CALL = (
    "INSERT INTO audit (call_id, began, route, tenant, app, user, key_id, client, model, pool, endpoint, version,"
    " prompt_hash, stream, attempts, prompt_tokens, cached_tokens, output_tokens, tokens_from, bytes_in, bytes_out,"
    " queued_s, seconds, status, outcome) VALUES (?, 1.0, '', 't', '', '', '', '', '', '', '', '', '', 0, 1, 2, 0, 3,"
    " '', 0, 0, 0.0, 1.0, 200, 'served')"
)


def old(path, name: str, version: int):
    open_to_write(path, SCHEMAS[name][:version]).close()
    return path


@pytest.mark.parametrize(
    ("name", "version"),
    [(name, version) for name, all_of in SCHEMAS.items() for version in range(1, len(all_of))],
)
def test_every_earlier_form_becomes_the_newest_one(tmp_path, name, version):
    path, fresh = old(tmp_path / name, name, version), tmp_path / "fresh"
    open_to_write(fresh, SCHEMAS[name]).close()
    assert [one.state for one in states({name: path})] == ["older"]
    ((was, kept),) = upgrade({name: path})
    assert (was.version, kept.stat().st_mode & 0o777) == (version, 0o600)
    assert [one.state for one in states({name: path})] == ["current"]
    assert upgrade({name: path}) == []

    def shape(file):
        with closing(sqlite3.connect(file)) as connection:
            rows = connection.execute(
                "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
            ).fetchall()
            tables = [table for kind, table, _ in rows if kind == "table"]
            return rows, [connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables]

    assert shape(path) == shape(fresh)
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_records_survive_while_others_write_and_the_copy_has_what_was_there(tmp_path):
    path = old(tmp_path / "audit.db", "audit.db", 2)
    written, stop = [], threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            while not stop.is_set() or len(written) < 50:
                connection.execute(CALL, (f"req_{len(written)}",))
                written.append(len(written))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 20 and writer.is_alive():
            stop.wait(0.01)
        before = len(written)
        ((_, kept),) = upgrade({"audit.db": path})
    finally:
        stop.set()
        writer.join(30)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone() == (len(written),)
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone()[0] >= before


def test_two_that_begin_at_once_do_it_once(tmp_path):
    path = old(tmp_path / "audit.db", "audit.db", 1)
    code = (
        "import sys, pathlib; from gemstead.ledger.schema import upgrade;"
        "sys.stdin.read(1); upgrade({'audit.db': pathlib.Path(sys.argv[1])})"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for one in both:
        one.stdin.write(b"x")
        one.stdin.flush()
    assert [(one.communicate(timeout=60)[1], one.returncode) for one in both] == [(b"", 0)] * 2
    assert states({"audit.db": path})[0].state == "current"


def test_a_newer_file_is_left_alone(tmp_path, capsys):
    path = old(tmp_path / "keys.db", "keys.db", len(SCHEMAS["keys.db"]))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerTrouble, match="newer Gemstead"):
        upgrade({"keys.db": path})
    folder = ["--set", f"state_dir={tmp_path}"]
    assert main(["db", "status", *folder]) == 1
    assert main(["db", "upgrade", *folder]) == 1
    assert "newer" in capsys.readouterr().out


def test_the_words_of_the_command(tmp_path, capsys):
    folder = ["--set", f"state_dir={tmp_path}"]
    assert main(["db", "status", *folder]) == 0  # nothing is there, nothing is made
    assert list(tmp_path.iterdir()) == []
    old(tmp_path / "keys.db", "keys.db", 1)
    assert main(["db", "status", *folder]) == 1
    assert main(["db", "upgrade", "--no-copy", *folder]) == 0
    assert "schema 1 to " in capsys.readouterr().out
    assert main(["db", "status", "--json", *folder]) == 0
