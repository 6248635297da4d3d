"""One list of steps, two databases, two roads: all lead to the same place, and back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.migrations import BRANCHES, FILES, IN_POSTGRES, newest
from gemstead.ledger.migrations.road import Foreign, move_file, move_postgres
from gemstead.ledger.migrations.step import forward
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.schema import downgrade, places, ready, state, upgrade


def shape_of_file(path):
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2").fetchall()
        tables = [table for kind, table, _ in rows if kind == "table"]
        version = connection.execute("PRAGMA user_version").fetchone()
        return (
            version,
            rows,
            [connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables],
        )


def shape_of_store(url):
    with linked(url) as link:
        columns = link.rows(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'gemstead_version' ORDER BY 1, 2"
        )
        indexes = link.rows(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
            "AND tablename <> 'gemstead_version' ORDER BY 1"
        )
        return columns, indexes


@pytest.mark.parametrize("name", FILES)
def test_both_roads_make_the_same_file_at_every_step_and_back(tmp_path, name):
    branch = FILES[name]
    steps = BRANCHES[branch]
    shapes = {}
    for number in range(1, len(steps) + 1):
        plain, alembic = tmp_path / f"plain{number}", tmp_path / f"alembic{number}"
        open_to_write(plain, forward(steps)[:number]).close()
        assert move_file(alembic, f"{branch}_{number}") == 0
        shapes[number] = shape_of_file(plain)
        assert shape_of_file(alembic) == shapes[number]
    walked = tmp_path / f"alembic{len(steps)}"
    for number in range(len(steps) - 1, 0, -1):
        move_file(walked, f"{branch}_{number}")
        assert shape_of_file(walked) == shapes[number]
    assert move_file(walked, f"{branch}_0") == 1
    assert [row for row in shape_of_file(walked)[1] if row[1] != "sqlite_sequence"] == []


def test_the_store_goes_up_and_down_step_by_step(empty_url):
    shapes = [shape_of_store(empty_url)]
    assert shapes == [([], [])]
    walk = [(branch, number) for branch in IN_POSTGRES for number in range(1, len(BRANCHES[branch]) + 1)]
    for branch, number in walk:
        move_postgres(empty_url, (f"{branch}_{number}",))
        shapes.append(shape_of_store(empty_url))
    with linked(empty_url) as link:
        assert state(places(link)) == "current"
    for branch, number in reversed(walk):
        assert shape_of_store(empty_url) == shapes.pop()
        downgrade(empty_url, f"{branch}_{number - 1}")
    assert shape_of_store(empty_url) == shapes.pop()


def test_gateways_that_begin_at_once_make_the_tables_once(empty_url):
    code = "import sys; from gemstead.ledger.postgres.schema import ready; sys.stdin.read(1); print(ready(sys.argv[1]))"
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for one in several:
        one.stdin.write(b"x")
        one.stdin.flush()
    said = [one.communicate(timeout=60) for one in several]
    assert [err for _, err in said] == [b""] * 3
    assert len({out for out, _ in said}) == 1


def test_steps_are_taken_while_others_read_and_write(store_url):
    """Nobody is turned away for longer than a step takes, and every row that was written is there afterwards."""
    stop, written, faults = threading.Event(), [0, 0], []

    def load(who: int) -> None:
        with linked(store_url) as link:
            while not stop.is_set():
                try:
                    with link.transaction():
                        link.do(
                            "INSERT INTO gemstead_gaps (chain, n, began, ended, records) VALUES ($1, $2, 1, 2, 3)",
                            f"chain{who}",
                            written[who],
                        )
                        link.value("SELECT count(*) FROM gemstead_audit")
                    link.value("SELECT count(*) FROM gemstead_keys")
                    written[who] += 1
                except LedgerTrouble as trouble:
                    faults.append(str(trouble))

    several = [threading.Thread(target=load, args=(who,)) for who in range(2)]
    for one in several:
        one.start()
    try:
        for _ in range(3):
            downgrade(store_url, "audit_2")
            downgrade(store_url, "keys_2")
            upgrade(store_url)
        before = list(written)
        while written[0] < before[0] + 5 and several[0].is_alive():
            stop.wait(0.01)
    finally:
        stop.set()
        for one in several:
            one.join(30)
    assert faults == []
    with linked(store_url) as link:
        counts = link.rows("SELECT chain, count(*) FROM gemstead_gaps GROUP BY chain ORDER BY chain")
    assert counts == [("chain0", written[0]), ("chain1", written[1])]


def test_a_file_is_moved_back_under_load_and_forward_by_its_next_user(tmp_path):
    path = tmp_path / "audit.db"
    migrations = forward(BRANCHES["audit"])
    open_to_write(path, migrations).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO gaps VALUES (1, 2, 3)")
        connection.commit()
    assert move_file(path, "audit_2") == 5
    connection = open_to_write(path, migrations)
    assert connection.execute("SELECT * FROM gaps").fetchall() == [(1.0, 2.0, 3)]
    connection.close()


def test_a_newer_store_is_used_unless_it_needs_more(store_url):
    name = ready(store_url)
    with linked(store_url) as link:
        link.do("UPDATE gemstead_version SET version_num = 'audit_99' WHERE version_num LIKE 'audit%'")
        assert state(places(link)) == "newer"
    assert ready(store_url) == name
    with pytest.raises(LedgerTrouble, match="newer Gemstead"):
        upgrade(store_url)
    with linked(store_url) as link:
        link.do("UPDATE gemstead_store SET needs = 999")
    with pytest.raises(LedgerTrouble, match="step 999"):
        ready(store_url)


def test_a_step_that_is_none_is_named(empty_url, tmp_path):
    for target in ("audit_99", "audit", "nonsense_1", "audit_-1"):
        with pytest.raises(Foreign, match="there is no step"):
            move_file(tmp_path / "audit.db", target)
    with pytest.raises(Foreign, match="lies ahead"):
        downgrade(empty_url, "audit_1")


def test_a_store_that_is_not_there_is_said_in_one_sentence(postgres_url):
    for url, words in (
        ("postgresql://gemstead:hush@127.0.0.1:1/x", "cannot be reached"),
        (postgres_url.replace("/postgres", "/nothing"), "no such database"),
        ("mysql://x", "no URL of PostgreSQL"),
    ):
        with pytest.raises(LedgerTrouble, match=words) as caught:
            ready(url)
        assert "hush" not in str(caught.value)


def test_every_step_has_its_module():
    assert [newest(branch) for branch in IN_POSTGRES] == [
        "keys_3",
        "audit_5",
        "shared_2",
        "batches_1",
        "ship_1",
    ]
