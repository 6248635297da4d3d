"""Files and batches as rows of batches.db, beside the bytes of the files.

A row is the truth: a file without a row is rubbish of an upload that was cut, and is removed at the next start. So
bytes are synced to disk first (`batch/`), and the row is committed with `synchronous=FULL` before anyone hears of it.
A batch's end and the rows of its output files are one transaction: it is never ended without them.

Every question names the tenant, so that no caller can learn of another's files. One process writes here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gemstead.ledger.database import Migrations, open_to_write, plainly
from gemstead.ledger.migrations.batches import STEPS
from gemstead.ledger.migrations.step import forward
from gemstead.openai.batches import Batch
from gemstead.openai.files import File, Page
from gemstead.traffic.caller import Caller

MIGRATIONS: Migrations = forward(STEPS)

_file = msgspec.json.Decoder(File).decode
_batch = msgspec.json.Decoder(Batch).decode
_caller = msgspec.json.Decoder(Caller).decode


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
        """The tenant's file of that id, or None."""
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT row FROM files WHERE file_id = ? AND tenant = ?", (file_id, tenant)
            ).fetchone()
        return _file(row[0]) if row else None

    def files(self, tenant: str, page: Page) -> tuple[list[File], bool]:
        """One page of the tenant's files, and whether there are more behind it."""
        rows, more = self._page("files", "file_id", tenant, page)
        return [_file(row) for row in rows], more

    def drop_file(self, file_id: str) -> None:
        with plainly(self._path):
            self._connection.execute("DELETE FROM files WHERE file_id = ?", (file_id,))

    def file_ids(self) -> set[str]:
        """The ids of all files of all tenants."""
        with plainly(self._path):
            return {row[0] for row in self._connection.execute("SELECT file_id FROM files")}

    def expired_files(self, now: int) -> list[File]:
        """Files whose time is over, save the input of a batch that goes on."""
        with plainly(self._path):
            rows = self._connection.execute(
                "SELECT row FROM files WHERE expires_at <= ? AND file_id NOT IN "
                "(SELECT input_file_id FROM batches WHERE ended_at = 0)",
                (now,),
            ).fetchall()
        return [_file(row[0]) for row in rows]

    def is_in_use(self, file_id: str) -> str:
        """The id of a batch that goes on and reads this file, or ""."""
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT batch_id FROM batches WHERE input_file_id = ? AND ended_at = 0", (file_id,)
            ).fetchone()
        return str(row[0]) if row else ""

    # Batches.

    def add_batch(self, batch: Batch, caller: Caller) -> None:
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

    def save(self, batch: Batch, files: Sequence[File] = ()) -> None:
        """The batch as it is now, together with new files of its answers: both or neither."""
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

    def batch(self, tenant: str, batch_id: str) -> Batch | None:
        """The tenant's batch of that id, or None."""
        with plainly(self._path):
            row = self._connection.execute(
                "SELECT row FROM batches WHERE batch_id = ? AND tenant = ?", (batch_id, tenant)
            ).fetchone()
        return _batch(row[0]) if row else None

    def batches(self, tenant: str, page: Page) -> tuple[list[Batch], bool]:
        """One page of the tenant's batches, and whether there are more behind it."""
        rows, more = self._page("batches", "batch_id", tenant, page)
        return [_batch(row) for row in rows], more

    def going_on(self) -> list[tuple[Batch, Caller]]:
        """Batches of all tenants that have not ended, the oldest first, with who ordered them."""
        with plainly(self._path):
            rows = self._connection.execute(
                "SELECT row, caller FROM batches WHERE ended_at = 0 ORDER BY seq"
            ).fetchall()
        return [(_batch(row), _caller(caller)) for row, caller in rows]

    def forget_batches(self, before: int) -> int:
        """Remove batches that ended before that time; how many those were."""
        with plainly(self._path):
            return self._connection.execute(
                "DELETE FROM batches WHERE ended_at > 0 AND ended_at < ?", (before,)
            ).rowcount

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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            return True
        error = error.__cause__
    return False
