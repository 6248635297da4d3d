"""How a SQLite file of the ledger is opened: modes, schema, and errors in plain words.

Files are made with mode 0600 in a folder of mode 0700, in WAL mode, so that readers and the one writer do not
wait for each other. A schema is a tuple of migrations; `user_version` counts how many a file has had. They
only go forward, inside one transaction, so any number of processes may open a new file at once. A file from a
newer Gemstead is refused rather than guessed at.

What the tables mean is said in `keytable.py` and `audittable.py`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

Migrations = tuple[tuple[str, ...], ...]

_REMEDIES = {
    "SQLITE_FULL": "the disk is full: free some space",
    "SQLITE_READONLY": "it cannot be written: check the owner and mode of the file and its folder",
    "SQLITE_BUSY": "another process holds it locked: find it with `fuser`, or try again",
    "SQLITE_LOCKED": "another process holds it locked: find it with `fuser`, or try again",
    "SQLITE_CORRUPT": "it is damaged: move it away and restore a backup",
    "SQLITE_NOTADB": "it is not a database: move it away, or correct the path",
    "SQLITE_CANTOPEN": "it cannot be opened: check that the path exists and who owns it",
    "SQLITE_IOERR": "the disk reports an error: check free space and the kernel's log",
}


class LedgerTrouble(Exception):
    """Something in the ledger cannot be read or written. The message is one sentence that says what to do."""


def trouble(path: Path, error: Exception) -> LedgerTrouble:
    """The sentence for an error of SQLite or of the operating system at `path`."""
    if isinstance(error, LedgerTrouble):
        return error
    if isinstance(error, OSError):
        return LedgerTrouble(f"{path}: {error.strerror or error}: check free space, owner and mode")
    name = getattr(error, "sqlite_errorname", "")
    remedy = next((words for code, words in _REMEDIES.items() if name.startswith(code)), str(error))
    return LedgerTrouble(f"{path}: {remedy}")


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and of the operating system into LedgerTrouble."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise trouble(path, error) from error


def open_to_write(path: Path, migrations: Migrations, *, timeout_s: float = 5.0) -> sqlite3.Connection:
    """A connection that commits by itself outside BEGIN; the file and its schema exist afterwards.

    Raises:
        LedgerTrouble: the file is from a newer Gemstead.
        sqlite3.Error, OSError: it cannot be opened or made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # Only to give a new file its mode: closing a handle of one in use would drop this process's locks on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        _use_wal(connection, timeout_s)
        connection.execute("PRAGMA synchronous=NORMAL")
        _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path, migrations: Migrations, *, timeout_s: float = 5.0) -> sqlite3.Connection | None:
    """A connection that cannot write; None while there is no such file or nothing in it yet.

    Works while others write, and on the files of a stopped service. A file from an older Gemstead is brought
    forward first, which needs the right to write.

    Raises:
        LedgerTrouble: the file is from a newer Gemstead.
        sqlite3.Error, OSError: it cannot be opened.
    """
    if not path.exists():
        return None
    uri = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)
    try:
        version = _version(connection)
        _refuse_newer(path, version, migrations)
        if 0 < version < len(migrations):
            open_to_write(path, migrations, timeout_s=timeout_s).close()
    except BaseException:
        connection.close()
        raise
    if version == 0:
        connection.close()
        return None
    return connection


@contextmanager
def reading(path: Path, migrations: Migrations) -> Iterator[sqlite3.Connection | None]:
    """`open_to_read` for one act, closed afterwards, with errors in plain words."""
    with plainly(path):
        connection = open_to_read(path, migrations)
        try:
            yield connection
        finally:
            if connection is not None:
                connection.close()


def _use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    # Changing the journal mode needs the file alone for a moment, and SQLite's own busy wait does not cover
    # it.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(path: Path, version: int, migrations: Migrations) -> None:
    if version > len(migrations):
        raise LedgerTrouble(
            f"{path} was written by a newer Gemstead (schema {version}, this one knows {len(migrations)}): "
            "upgrade this installation, or restore the backup made before the upgrade"
        )


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    version = _version(connection)
    _refuse_newer(path, version, migrations)
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Somebody else may have been first: look again now that we hold the lock.
        for number, statements in enumerate(migrations[_version(connection) :], _version(connection) + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
