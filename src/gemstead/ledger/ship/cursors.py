"""How far each receiver has come: `ship.db`, beside audit.db.

The ledger itself is the spool: a receiver that is down for a week is a number that does not move. The number moves
after the receiver has the records, never before, so a crash sends some of them twice and skips none. `turn` counts
replays: whoever was sending when a replay was asked for does not move the number back to where it was.

Records that a receiver will never take are listed in `refused`, so that one bad record does not hold up all others and
none disappears unseen.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gemstead.ledger.database import Migrations, open_to_write, plainly, reading
from gemstead.ledger.migrations.ship import STEPS
from gemstead.ledger.migrations.step import forward

MIGRATIONS: Migrations = forward(STEPS)


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a receiver has come. Times in Unix seconds."""

    sink: str
    chain: str = ""
    seq: int = 0  # the last place that it has
    turn: int = 0
    shipped: int = 0  # records, again and again sent ones counted each time
    shipped_at: float | None = None
    trouble: str = ""  # why it does not move; "" while all is well
    trouble_since: float | None = None
    refused: int = 0  # records that it will never take


_FIELDS = "sink, chain, seq, turn, shipped, shipped_at, trouble, trouble_since"
_READ = f"SELECT {_FIELDS}, (SELECT count(*) FROM refused r WHERE r.sink = c.sink) FROM cursors c"  # noqa: S608


def path_beside(audit: Path) -> Path:
    """Where the cursors of a ledger are."""
    return audit.with_name("ship.db")


class Cursors:
    """The cursors at `path`. Each method is one transaction; any thread or process may call it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, sink: str) -> Cursor:
        """The receiver's cursor, made at the beginning when it is new."""
        with self._changing() as connection:
            connection.execute("INSERT OR IGNORE INTO cursors (sink) VALUES (?)", (sink,))
            return _one(connection.execute(f"{_READ} WHERE sink = ?", (sink,)).fetchone())

    def all(self) -> list[Cursor]:
        """Every receiver that there ever was."""
        with reading(self.path, MIGRATIONS) as connection:
            return [_one(row) for row in connection.execute(f"{_READ} ORDER BY sink")] if connection else []

    def moved(self, at: Cursor, chain: str, seq: int, count: int, refused: Sequence[tuple[int, str]]) -> bool:
        """The receiver has all up to `seq`, but for those refused. False: a replay was asked for meanwhile."""
        now = time.time()
        with self._changing() as connection:
            written = connection.execute(
                "UPDATE cursors SET chain = ?, seq = ?, shipped = shipped + ?, shipped_at = ?, trouble = '', "
                "trouble_since = NULL WHERE sink = ? AND turn = ?",
                (chain, seq, count - len(refused), now, at.sink, at.turn),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO refused (sink, seq, why, at) VALUES (?, ?, ?, ?)",
                [(at.sink, place, why, now) for place, why in refused],
            )
            return written.rowcount == 1

    def troubled(self, sink: str, why: str) -> None:
        """The receiver does not take what it is sent."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE cursors SET trouble = ?, trouble_since = coalesce(trouble_since, ?) WHERE sink = ?",
                (why, time.time(), sink),
            )

    def recovered(self, sink: str) -> None:
        """The receiver has everything that there is."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE cursors SET trouble = '', trouble_since = NULL WHERE sink = ?", (sink,)
            )

    def replay(self, sink: str, seq: int) -> None:
        """Send everything behind `seq` (again), also what was refused."""
        with self._changing() as connection:
            connection.execute("INSERT OR IGNORE INTO cursors (sink) VALUES (?)", (sink,))
            connection.execute("UPDATE cursors SET seq = ?, turn = turn + 1 WHERE sink = ?", (seq, sink))
            connection.execute("DELETE FROM refused WHERE sink = ? AND seq > ?", (sink, seq))

    def refused(self, sink: str, most: int = 100) -> list[tuple[int, str]]:
        """The places of records that the receiver will never take, and why, the latest first."""
        query = "SELECT seq, why FROM refused WHERE sink = ? ORDER BY seq DESC LIMIT ?"
        with reading(self.path, MIGRATIONS) as connection:
            return connection.execute(query, (sink, most)).fetchall() if connection else []

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with plainly(self.path):
            connection = open_to_write(self.path, MIGRATIONS)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()


def shipped_everywhere(audit: Path, sinks: Iterable[str]) -> int | None:
    """The last place that all these receivers have; None when there are none: nothing need wait for them."""
    names = set(sinks)
    if not names:
        return None
    there = {cursor.sink: cursor.seq for cursor in Cursors(path_beside(audit)).all()}
    return min(there.get(name, 0) for name in names)


def _one(row: Sequence[object]) -> Cursor:
    names = (*_FIELDS.split(", "), "refused")
    return msgspec.convert(dict(zip(names, row, strict=True)), Cursor)
