"""Copies a gateway's audit records into the store, with their places and links, and then takes them out of the spool.

The chain was made by whoever wrote the records into audit.db; here it is only carried on. The store's own note of the
chain's end says what it has, and moves in the same transaction as the records: so whatever is killed, and whenever,
nothing is missing and nothing is there twice. What is read was synced to disk first, so a power cut never takes a
record from audit.db that the store has already.

A chain belongs to one file. If the file's end is not where the store's is (a copied disk, a restored file), carrying on
would make two chains of one name: that is refused, in words. If the store is behind what the spool still holds (an old
backup of the store was restored), the rest is copied all the same, and verification names what is missing.

`trim` takes records out of the spool that the store has had for a while.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gemstead.ledger import audittable
from gemstead.ledger.database import LedgerTrouble, open_to_read, open_to_write, plainly, reading
from gemstead.ledger.postgres.link import Link, kept

AT_ONCE = 2000  # places of one transaction
KEPT_S = 600.0  # in the spool, after the store has it
TRIM_AT_ONCE = 2000

AUDIT_NAMES = audittable.COLUMNS.replace(" user,", ' "user",')


def _types(columns: str, whole: Sequence[str], real: Sequence[str]) -> list[str]:
    names = [name.strip().strip('"') for name in columns.split(",")]
    return ["bigint" if n in whole else "float8" if n in real else "text" for n in names]


_WHOLE = (
    "stream", "attempts", "prompt_tokens", "cached_tokens", "output_tokens", "bytes_in", "bytes_out", "status",
)  # fmt: skip
_REAL = ("began", "queued_s", "first_token_s", "seconds", "at")


def _insert(table: str, columns: str) -> str:
    types = ["bigint", "bytea", *_types(columns, _WHOLE, _REAL)]
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types, 2))
    return f"INSERT INTO {table} (chain, seq, link, {columns}) SELECT $1, * FROM unnest({arrays})"  # noqa: S608


_CALLS = _insert("gemstead_audit", AUDIT_NAMES)
_ACTS = _insert("gemstead_acts", audittable.ACT_COLUMNS)
_CHECKPOINT = (
    "INSERT INTO gemstead_checkpoints (chain, seq, link, at, key_id, kind, signature) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (chain, seq, kind, key_id) DO NOTHING"
)
_STUBS = "INSERT INTO gemstead_stubs (chain, seq, leaf, link) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[])"  # noqa: E501
_READ_CALLS = f"SELECT seq, link, {audittable.COLUMNS} FROM audit WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608
_READ_ACTS = f"SELECT seq, link, {audittable.ACT_COLUMNS} FROM acts WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608
_READ_STUBS = "SELECT seq, leaf, link FROM stubs WHERE seq > ? AND seq <= ? ORDER BY seq"
_LINK_AT = (
    "SELECT base_link FROM chain WHERE base_seq = :seq UNION ALL SELECT link FROM audit WHERE seq = :seq "
    "UNION ALL SELECT link FROM acts WHERE seq = :seq UNION ALL SELECT link FROM stubs WHERE seq = :seq"
)


class Forked(LedgerTrouble):
    """The chain in the file is not the one that the store has begun."""


class Pusher:
    """The way of one audit.db into the store. For one thread."""

    def __init__(self, path: Path, node: str) -> None:
        self.path, self.node = path, node
        self.sent = -1  # the last place that the store has; -1: not asked yet
        self._ended = False  # whether it has the chains that ended here
        self.lost = ""  # what an old backup of the store has lost, in words, once
        self._checkpoint, self._gap = 0, 0  # rowids that the store has
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def push(self, link: Link) -> int:
        """Copy some; how many places. 0: the store has everything.

        Raises:
            Forked: the file is not the one that the store knows.
            LedgerTrouble: the file cannot be read, or the store not used.
        """
        with plainly(self.path):
            connection = self._open()
            if connection is None:
                return 0
            connection.execute("BEGIN")
            try:
                return self._push(connection, link)
            finally:
                connection.execute("COMMIT")

    def _push(self, local: sqlite3.Connection, link: Link) -> int:
        name, base, base_link, head = local.execute(
            "SELECT name, base_seq, base_link, head_seq FROM chain"
        ).fetchone()
        if not self._ended and (count := self._push_ended(local, link)):
            return count
        self._ended = True
        if self.sent == head and not self._news(local):
            return 0
        self._sync()
        with link.transaction():
            after = self._after(local, link, name, base, base_link, head)
            upto = min(head, after + AT_ONCE)
            self._carry(local, link, name, after, upto)
            if upto > after:
                at = local.execute(_LINK_AT, {"seq": upto}).fetchone()
                self._moved(link, name, upto, bytes(at[0]) if at else b"")
            marks = self._checkpoints(local, link, name, upto)
            gaps = self._gaps(local, link, name)
        self.sent, self._checkpoint, self._gap = upto, marks, gaps
        return int(upto - after)

    def _push_ended(self, local: sqlite3.Connection, link: Link) -> int:
        """Copy some of the chains that ended here before the present one began; how many places."""
        rows = local.execute(
            "SELECT name, base_seq, base_link, head_seq, head_link FROM ended ORDER BY head_seq"
        )
        for name, base, base_link, head, head_link in rows.fetchall():
            with link.transaction():
                after = self._after(local, link, name, base, base_link, head, head_link)
                if after == head:
                    continue
                upto = min(head, after + AT_ONCE)
                self._carry(local, link, name, after, upto)
                at = local.execute(_LINK_AT, {"seq": upto}).fetchone()
                self._moved(link, name, upto, head_link if upto == head else bytes(at[0]))
                link.many(
                    _CHECKPOINT,
                    [
                        (name, *row)
                        for row in local.execute(
                            "SELECT seq, link, at, key_id, kind, signature FROM checkpoints "
                            "WHERE seq >= :base AND seq <= :upto AND (kind = 'head' OR seq < :head)",
                            {"base": base, "upto": upto, "head": head},
                        )
                    ],
                )
            return int(upto - after)
        return 0

    def _carry(self, local: sqlite3.Connection, link: Link, name: str, after: int, upto: int) -> None:
        for read, statement in ((_READ_CALLS, _CALLS), (_READ_ACTS, _ACTS), (_READ_STUBS, _STUBS)):
            if rows := local.execute(read, (after, upto)).fetchall():
                link.do(statement, name, *_columns(rows))

    def _moved(self, link: Link, name: str, upto: int, at: bytes) -> None:
        link.do(
            "UPDATE gemstead_chains SET head_seq = $2, head_link = $3, seen = $4, node = $5 WHERE name = $1",
            *(name, upto, at, time.time(), self.node),
        )

    def _after(
        self,
        local: sqlite3.Connection,
        link: Link,
        name: str,
        base: int,
        base_link: bytes,
        head: int,
        head_link: bytes = b"",
    ) -> int:
        """The last place that the store has, with its row locked; the chain is begun there if it is new."""
        now = time.time()
        link.do(
            "INSERT INTO gemstead_chains (name, node, base_seq, base_link, head_seq, head_link, began, seen) "
            "VALUES ($1, $2, $3, $4, $3, $4, $5, $5) ON CONFLICT DO NOTHING",
            *(name, self.node, base, base_link, now),
        )
        after, its_link = link.row(
            "SELECT head_seq, head_link FROM gemstead_chains WHERE name = $1 FOR UPDATE", name
        ) or (0, b"")
        here = (
            (head_link,)
            if after == head and head_link
            else local.execute(_LINK_AT, {"seq": after}).fetchone()
        )
        if after > head or (here is not None and bytes(here[0]) != bytes(its_link)):
            raise Forked(
                f"{self.path} is not the file that the store has begun chain {name} with (it was copied, or an old one "
                "was put back): stop the service and move it away, and a new chain begins"
            )
        if after < base:
            self.lost = (
                f"the store lacks records {after + 1} to {base} of chain {name}, and the spool has them no longer: "
                "an old backup of the store was restored"
            )
            return int(base)
        return int(after)

    def _news(self, local: sqlite3.Connection) -> bool:
        marks = local.execute(
            "SELECT max(rowid) FROM checkpoints WHERE kind = 'head' AND seq <= ?", (self.sent,)
        ).fetchone()[0]
        gaps = local.execute("SELECT max(rowid) FROM gaps").fetchone()[0]
        return (marks or 0) > self._checkpoint or (gaps or 0) > self._gap

    def _checkpoints(self, local: sqlite3.Connection, link: Link, name: str, upto: int) -> int:
        # A beginning that was signed here is of the spool, which begins anew with each trim; the store's own is the
        # one that it was begun with, or that it was pruned to.
        based = link.value("SELECT base_seq FROM gemstead_chains WHERE name = $1", name)
        rows = local.execute(
            "SELECT rowid, seq, link, at, key_id, kind, signature FROM checkpoints "
            "WHERE rowid > ? AND seq <= ? ORDER BY rowid",
            (self._checkpoint, upto),
        ).fetchall()
        ended = {row[0] for row in local.execute("SELECT head_seq FROM ended")}
        link.many(
            _CHECKPOINT,
            [
                (name, *row[1:])
                for row in rows
                if (row[5] == "head" and row[1] >= based and row[1] not in ended)
                or (row[5] == "base" and row[1] == based)
            ],
        )
        return max((row[0] for row in rows), default=self._checkpoint)

    def _gaps(self, local: sqlite3.Connection, link: Link, name: str) -> int:
        rows = local.execute(
            "SELECT rowid, began, ended, records FROM gaps WHERE rowid > ?", (self._gap,)
        ).fetchall()
        link.many(
            "INSERT INTO gemstead_gaps (chain, n, began, ended, records) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT DO NOTHING",
            [(name, *row) for row in rows],
        )
        return max((row[0] for row in rows), default=self._gap)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        inode = self.path.stat().st_ino if self.path.exists() else 0
        if self._connection is not None and self._inode != inode:
            self.close()
            self.sent, self._checkpoint, self._gap, self._ended = -1, 0, 0, False
        if self._connection is None:
            self._connection = open_to_read(self.path, audittable.MIGRATIONS)
            self._inode = inode
        return self._connection

    def _sync(self) -> None:
        try:
            log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(log)
        finally:
            os.close(log)


def waiting(path: Path, sent: int) -> int:
    """How many places of the file are behind `sent`; 0 where that cannot be known."""
    try:
        with reading(path, audittable.MIGRATIONS) as connection:
            if connection is None:
                return 0
            base, head = connection.execute("SELECT base_seq, head_seq FROM chain").fetchone()
    except LedgerTrouble:
        return 0
    return max(0, int(head) - max(sent, int(base)))


def trim(path: Path, upto: int) -> int:
    """Take the places up to this one out of the spool; how many records. What was deleted is overwritten.

    Raises:
        LedgerTrouble: the file cannot be written.
    """
    gone = 0
    with plainly(path), closing(open_to_write(path, audittable.MIGRATIONS)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        while True:
            base, head = connection.execute("SELECT base_seq, head_seq FROM chain").fetchone()
            to = min(upto, head, base + TRIM_AT_ONCE)
            if to <= base:
                return gone
            connection.execute("BEGIN IMMEDIATE")
            link = connection.execute(_LINK_AT, {"seq": to}).fetchone()
            for table in ("audit", "acts", "stubs"):
                statement = f"DELETE FROM {table} WHERE seq > ? AND seq <= ?"  # noqa: S608
                gone += connection.execute(statement, (base, to)).rowcount
            connection.execute("DELETE FROM checkpoints WHERE seq < ?", (to,))
            connection.execute("UPDATE chain SET base_seq = ?, base_link = ?", (to, link[0] if link else b""))
            connection.execute("COMMIT")


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows as columns, as PostgreSQL can hold them."""
    return [[kept(value) for value in column] for column in zip(*rows, strict=True)]
