"""Files and batches as rows: of batches.db beside the bytes of the files, or of a store that several gateways share.

`Batches` is what both promise. In a store a batch is *held* by one gateway at a time, by a lease that it keeps up while
it lives (`ledger/postgres/batches.py`); whoever has lost it hears `Lost` with the next thing that it would write, and
nothing was written. What follows is about batches.db.

A row is the truth: a file without a row is rubbish of an upload that was cut, and is removed at the next start. So
bytes are synced to disk first (`batch/`), and the row is committed with `synchronous=FULL` before anyone hears of it.
A batch's end and the rows of its output files are one transaction: it is never ended without them.

Every question names the tenant, so that no caller can learn of another's files. One process writes here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from gemstead.ledger.database import LedgerTrouble, Migrations, open_to_write, plainly
from gemstead.ledger.migrations.batches import STEPS
from gemstead.ledger.migrations.step import forward
from gemstead.openai.batches import Batch
from gemstead.openai.files import File, Page
from gemstead.traffic.caller import Caller

MIGRATIONS: Migrations = forward(STEPS)

_file = msgspec.json.Decoder(File).decode
_batch = msgspec.json.Decoder(Batch).decode
_caller = msgspec.json.Decoder(Caller).decode


class Lost(Exception):
    """Another gateway holds the batch by now; nothing was written."""


class StoreFull(LedgerTrouble):
    """What may be kept is kept already."""


class Held(NamedTuple):
    """A batch that this process works on, and nobody else while it does."""

    batch: Batch
    caller: Caller
    turn: int = 0  # how often it was taken up: what is written is said with it
    before: str = ""  # who held it before
    cancel: bool = False  # its caller wants no more of it


class Seen(NamedTuple):
    """A batch as anybody may see it."""

    batch: Batch
    paused: str = ""  # why it does not go on at the moment, as far as that is known here


class Batches(Protocol):
    """Files and batches, wherever they are kept. Every question names the tenant.

    Raises:
        LedgerTrouble: (every method) what keeps them cannot be read or written.
    """

    def add_file(self, file: File) -> None:
        """Keep a file whose bytes are kept already."""

    def file(self, tenant: str, file_id: str) -> File | None:
        """The tenant's file of that id."""

    def files(self, tenant: str, page: Page) -> tuple[list[File], bool]:
        """One page of the tenant's files, and whether there are more behind it."""

    def remove_file(self, tenant: str, file_id: str) -> str:
        """Remove a file; or the id of a batch that goes on and reads it, and nothing is removed."""

    def expire_files(self, now: int) -> list[str]:
        """Remove files whose time is over, save the input of a batch that goes on; their ids."""

    def add_batch(self, batch: Batch, caller: Caller) -> Held | None:
        """Keep a new batch, to be held by us; None: its input is not there any more."""

    def save(self, batch: Batch, files: Sequence[File] = (), turn: int = 0) -> None:
        """The batch as it is now, together with new files of its answers: both or neither. Raises Lost."""

    def batch(self, tenant: str, batch_id: str) -> Seen | None:
        """The tenant's batch of that id."""

    def batches(self, tenant: str, page: Page) -> tuple[list[Seen], bool]:
        """One page of the tenant's batches, and whether there are more behind it."""

    def claim(self, most: int, but: Collection[str] = ()) -> list[Held]:
        """Batches that have not ended and that nobody holds, the oldest first, held by us from now on."""

    def keep_up(self, turns: Mapping[str, tuple[int, str]]) -> dict[str, bool]:
        """Hold these further on, by their turns, each with why it pauses. Those that are ours still, and whether the
        caller wants no more of it."""

    def release(self, turns: Mapping[str, int], before: str | None = None) -> None:
        """Hold these no longer. `before`: as if we had never held them, but whoever that is."""

    def ask_cancel(self, tenant: str, batch_id: str, now: int) -> None:
        """Have whoever holds the batch end it."""

    def forget_batches(self, before: int) -> int:
        """Remove batches that ended before that time; how many those were."""


class BatchStore:
    """The rows. Use from one thread; each change is on disk when it returns.

    Raises:
        LedgerTrouble: (every method) the file cannot be read or written; the sentence says what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with plainly(path):
            self._connection = open_to_write(path, MIGRATIONS)
            self._connection.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        self._connection.close()

    # Files.

    def add_file(self, file: File) -> None:
        with plainly(self._path):
            self._insert_file(file)

    def file(self, tenant: str, file_id: str) -> File | None:
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT row FROM files WHERE file_id = ? AND tenant = ?", (file_id, tenant)
            ).fetchone()
        return _file(row[0]) if row else None

    def files(self, tenant: str, page: Page) -> tuple[list[File], bool]:
        rows, more = self._page("files", "file_id", tenant, page)
        return [_file(row) for row in rows], more

    def remove_file(self, tenant: str, file_id: str) -> str:
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT batch_id FROM batches WHERE input_file_id = ? AND ended_at = 0", (file_id,)
            ).fetchone()
            if row is None:
                self._connection.execute(
                    "DELETE FROM files WHERE file_id = ? AND tenant = ?", (file_id, tenant)
                )
        return str(row[0]) if row else ""

    def file_ids(self) -> set[str]:
        """The ids of all files of all tenants."""
        with plainly(self._path):
            return {row[0] for row in self._connection.execute("SELECT file_id FROM files")}

    def expire_files(self, now: int) -> list[str]:
        which = "expires_at <= ? AND file_id NOT IN (SELECT input_file_id FROM batches WHERE ended_at = 0)"
        with plainly(self._path):
            rows = self._connection.execute(f"SELECT file_id FROM files WHERE {which}", (now,)).fetchall()  # noqa: S608
            self._connection.executemany("DELETE FROM files WHERE file_id = ?", rows)
        return [row[0] for row in rows]

    # Batches.

    def add_batch(self, batch: Batch, caller: Caller) -> Held | None:
        with plainly(self._path):
            self._connection.execute(
                "INSERT INTO batches (batch_id, tenant, input_file_id, ended_at, caller, row) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    batch.batch_id,
                    batch.tenant,
                    batch.order.input_file_id,
                    batch.ended_at,
                    msgspec.json.encode(caller).decode(),
                    msgspec.json.encode(batch).decode(),
                ),
            )
        return Held(batch, caller)

    def save(self, batch: Batch, files: Sequence[File] = (), turn: int = 0) -> None:
        with plainly(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for file in files:
                    self._insert_file(file)
                self._connection.execute(
                    "UPDATE batches SET row = ?, ended_at = ? WHERE batch_id = ?",
                    (msgspec.json.encode(batch).decode(), batch.ended_at, batch.batch_id),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def batch(self, tenant: str, batch_id: str) -> Seen | None:
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT row FROM batches WHERE batch_id = ? AND tenant = ?", (batch_id, tenant)
            ).fetchone()
        return Seen(_batch(row[0])) if row else None

    def batches(self, tenant: str, page: Page) -> tuple[list[Seen], bool]:
        rows, more = self._page("batches", "batch_id", tenant, page)
        return [Seen(_batch(row)) for row in rows], more

    def claim(self, most: int, but: Collection[str] = ()) -> list[Held]:
        """All that go on: there is nobody else."""
        return [Held(batch, caller) for batch, caller in self.all_batches() if not batch.ended]

    def keep_up(self, turns: Mapping[str, tuple[int, str]]) -> dict[str, bool]:
        return dict.fromkeys(turns, False)

    def release(self, turns: Mapping[str, int], before: str | None = None) -> None:
        """Nothing: whoever comes next finds them."""

    def ask_cancel(self, tenant: str, batch_id: str, now: int) -> None:
        """Nothing: what goes on here is held here."""

    def forget_batches(self, before: int) -> int:
        with plainly(self._path):
            return self._connection.execute(
                "DELETE FROM batches WHERE ended_at > 0 AND ended_at < ?", (before,)
            ).rowcount

    def all_files(self) -> Iterator[File]:
        """Files of all tenants, the oldest first."""
        with plainly(self._path):
            rows = self._connection.execute("SELECT row FROM files ORDER BY seq").fetchall()
        return (_file(row) for (row,) in rows)

    def all_batches(self) -> Iterator[tuple[Batch, Caller]]:
        """Batches of all tenants with who ordered them, the oldest first."""
        with plainly(self._path):
            rows = self._connection.execute("SELECT row, caller FROM batches ORDER BY seq").fetchall()
        return ((_batch(row), _caller(caller)) for row, caller in rows)

    def _insert_file(self, file: File) -> None:
        self._connection.execute(
            "INSERT INTO files (file_id, tenant, purpose, expires_at, row) VALUES (?, ?, ?, ?, ?)",
            (
                file.file_id,
                file.tenant,
                file.purpose,
                file.expires_at,
                msgspec.json.encode(file).decode(),
            ),
        )

    def _page(self, table: str, key: str, tenant: str, page: Page) -> tuple[list[str], bool]:
        order, beyond = ("ASC", ">") if page.ascending else ("DESC", "<")
        where, values = ["tenant = ?"], [tenant]
        if page.purpose and table == "files":
            where.append("purpose = ?")
            values.append(page.purpose)
        if page.after:
            found = f"SELECT seq FROM {table} WHERE {key} = ? AND tenant = ?"  # noqa: S608
            where.append(f"seq {beyond} ({found})")
            values += [page.after, tenant]
        with plainly(self._path):
            rows = self._connection.execute(
                f"SELECT row FROM {table} WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?",  # noqa: S608
                (*values, page.limit + 1),
            ).fetchall()
        return [row[0] for row in rows[: page.limit]], len(rows) > page.limit


def is_full(error: BaseException | None) -> bool:
    """Whether the disk (or a quota on it) is what stands in the way."""
    import errno

    while error is not None:
        if isinstance(error, StoreFull):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            return True
        error = error.__cause__
    return False
