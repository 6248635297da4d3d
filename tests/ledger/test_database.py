from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from gemstead.ledger.database import LedgerTrouble, open_to_read, open_to_write, plainly, reading

OLD = (("CREATE TABLE one (a TEXT)", "INSERT INTO one VALUES ('kept')"),)
NEW = (*OLD, ("CREATE TABLE two (b TEXT)", "INSERT INTO two SELECT a FROM one"))


def test_an_older_file_is_brought_forward_by_whoever_comes_first(tmp_path):
    for number, opened in enumerate((open_to_write, open_to_read)):
        path = tmp_path / f"{number}.db"
        open_to_write(path, OLD).close()
        connection = opened(path, NEW)
        assert connection.execute("SELECT b FROM two").fetchall() == [("kept",)]
        connection.close()


def test_a_newer_file_is_refused_both_ways(tmp_path):
    path = tmp_path / "new.db"
    open_to_write(path, NEW).close()
    for opened in (open_to_write, open_to_read):
        with pytest.raises(LedgerTrouble, match="newer Gemstead"):
            opened(path, OLD)


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "half.db"
    open_to_write(path, OLD).close()
    with pytest.raises(sqlite3.Error):
        open_to_write(path, (*OLD, ("CREATE TABLE two (b TEXT)", "no such statement")))
    connection = open_to_write(path, OLD)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    connection.close()


def test_many_may_open_a_new_file_at_once(tmp_path):
    path = tmp_path / "crowd.db"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: open_to_write(path, NEW).close(), range(48)))
    with reading(path, NEW) as connection:
        assert connection.execute("SELECT b FROM two").fetchall() == [("kept",)]


def test_nothing_to_read_is_none_and_makes_no_file(tmp_path):
    assert open_to_read(tmp_path / "none.db", OLD) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    assert open_to_read(tmp_path / "empty.db", OLD) is None


def test_a_reader_cannot_write(tmp_path):
    path = tmp_path / "a.db"
    open_to_write(path, OLD).close()
    with pytest.raises(LedgerTrouble, match="cannot be written"), reading(path, OLD) as connection:
        connection.execute("INSERT INTO one VALUES ('x')")


DIE = """
import os, sys
from pathlib import Path
from gemstead.ledger.database import open_to_write
connection = open_to_write(Path(sys.argv[1]), (("CREATE TABLE one (a TEXT)",),))
connection.execute("INSERT INTO one VALUES ('written')")
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_committed_can_be_read(tmp_path):
    path = tmp_path / "killed.db"
    subprocess.run([sys.executable, "-c", DIE, str(path)])
    assert (tmp_path / "killed.db-wal").stat().st_size > 0
    with reading(path, OLD) as connection:
        assert connection.execute("SELECT a FROM one").fetchall() == [("written",)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(28, "No space left on device"), "No space left"),
        (sqlite3.OperationalError("something else"), "something else"),
    ],
)
def test_every_error_becomes_a_sentence_with_the_path(tmp_path, error, words):
    path = tmp_path / "a.db"
    with pytest.raises(LedgerTrouble, match=f"{path}.*{words}"), plainly(path):
        raise error
