"""Reads records behind a place of the ledger, in order, for shipping.

What is read was synced before: a record that a receiver has is never one that the ledger loses in a power cut.
"""

from __future__ import annotations

import os
import sqlite3
from heapq import merge
from operator import attrgetter
from pathlib import Path

from gemstead.ledger import audittable
from gemstead.ledger.database import open_to_read, plainly
from gemstead.ledger.ship.forms import Shipped

_CALLS = f"SELECT seq, link, {audittable.COLUMNS} FROM audit WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"  # noqa: S608
_ACTS = (
    f"SELECT seq, link, {audittable.ACT_COLUMNS} FROM acts WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"  # noqa: S608
)


class Spool:
    """The records of audit.db at `path`. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chain = ""
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def after(self, seq: int, most: int, chain: str = "") -> list[Shipped]:
        """At most so many records of one chain behind `seq`; from the very beginning when `chain` is not here.

        Raises:
            LedgerTrouble: the file cannot be read.
        """
        with plainly(self.path):
            connection = self._open()
            if connection is None:
                return []
            connection.execute("BEGIN")
            try:
                seq, upto = self._where(connection, seq, most, chain)
                calls = [
                    self._shipped(row, audittable.record(row[2:]))
                    for row in connection.execute(_CALLS, (seq, upto, most))
                ]
                acts = [
                    self._shipped(row, audittable.act(row[2:]))
                    for row in connection.execute(_ACTS, (seq, upto, most))
                ]
            finally:
                connection.execute("COMMIT")
            self._sync()
        return list(merge(calls, acts, key=attrgetter("seq")))[:most]

    def _where(self, connection: sqlite3.Connection, seq: int, most: int, chain: str) -> tuple[int, int]:
        """Between which places to read: records of one chain at a time, which `self.chain` is then.

        A receiver's place in a chain that has ended here earlier (a backup was put back) is behind that end: what it
        has beyond is not here any more, and what is here beyond is of another chain.
        """
        present = connection.execute("SELECT name FROM chain").fetchone()[0]
        ended = connection.execute("SELECT name, head_seq FROM ended ORDER BY head_seq, rowid").fetchall()
        if chain and chain != present:
            seq = min(seq, dict(ended).get(chain, 0))
        for name, head in ended:
            behind = "SELECT 1 FROM {} WHERE seq > ? AND seq <= ? LIMIT 1"
            if seq < head and any(
                connection.execute(behind.format(table), (seq, head)).fetchone()
                for table in ("audit", "acts")
            ):
                self.chain = name
                return seq, head
        self.chain = present
        return seq, 2**62

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        # Opened for each reading while there is nothing: the file may not be there yet, or have been made anew.
        if self._connection is not None and self._inode != self._inode_now():
            self.close()
        if self._connection is None:
            self._connection = open_to_read(self.path, audittable.MIGRATIONS)
            self._inode = self._inode_now()
        return self._connection

    def _shipped(self, row: tuple[object, ...], record: object) -> Shipped:
        link = row[1] if isinstance(row[1], bytes) else b""
        return Shipped(chain=self.chain, seq=int(str(row[0])), link=link.hex(), record=record)  # type: ignore[arg-type]

    def _sync(self) -> None:
        try:
            log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(log)
        finally:
            os.close(log)

    def _inode_now(self) -> int:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0
