"""Which form each file of the ledger has, and bringing all of them forward at a time of one's choosing.

A file is brought forward by whoever opens it to write, so nobody must do this. Before an upgrade of a large
installation one may want to: `upgrade` first copies each file that needs it, with SQLite's own online backup, so the
copy is whole even while others write. SQLite's write lock is the lock of migration: of two processes that begin at once
one does the work, and the other finds it done. The way back is the copy, as an older Gemstead refuses a newer
file rather than guess, or `downgrade_file`, which takes away what later steps have added.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gemstead.ledger.database import LedgerTrouble, Migrations, open_to_write, plainly
from gemstead.ledger.migrations import BRANCHES, FILES
from gemstead.ledger.migrations.step import forward

SCHEMAS: Mapping[str, Migrations] = {name: forward(BRANCHES[branch]) for name, branch in FILES.items()}
WAIT_S = 60.0  # for others that write


@dataclass(frozen=True, slots=True)
class FileState:
    """One file. `version` 0: there is none yet."""

    path: Path
    version: int
    newest: int
    size_bytes: int

    @property
    def state(self) -> str:
        """In one word."""
        if self.version == 0:
            return "missing"
        if self.version > self.newest:
            return "newer"
        return "current" if self.version == self.newest else "older"


def states(files: Mapping[str, Path]) -> list[FileState]:
    """What each file is, changing none. `files`: path by a name of SCHEMAS.

    Raises:
        LedgerTrouble: one cannot be read.
    """
    return [_state(path, len(SCHEMAS[name])) for name, path in files.items()]


def upgrade(files: Mapping[str, Path], *, copy: bool = True) -> list[tuple[FileState, Path | None]]:
    """Bring every older file forward; what each was, and where its copy lies.

    Raises:
        LedgerTrouble: one is from a newer Gemstead, or cannot be read, copied or written. Those before it are done.
    """
    done: list[tuple[FileState, Path | None]] = []
    for name, path in files.items():
        was = _state(path, len(SCHEMAS[name]))
        if was.state == "newer":
            raise LedgerTrouble(
                f"{path} was written by a newer Gemstead (schema {was.version}, this one knows {was.newest}): "
                "upgrade this installation"
            )
        if was.state != "older":
            continue
        kept = _copied(path, was.version) if copy else None
        with plainly(path):
            open_to_write(path, SCHEMAS[name], timeout_s=WAIT_S).close()
        done.append((was, kept))
    return done


def downgrade_file(path: Path, branch: str, number: int, *, copy: bool = True) -> tuple[int, Path | None]:
    """Bring a file back to an earlier step; at which it was, and where its copy lies.

    Raises:
        LedgerTrouble: there is none, it is not that far, or it cannot be read, copied or written.
    """
    from gemstead.ledger.migrations.road import move_file  # it loads Alembic

    was = _state(path, len(BRANCHES[branch]))
    if was.version <= number:
        raise LedgerTrouble(f"{path} is at {branch}_{was.version}: {branch}_{number} is not behind it")
    kept = _copied(path, was.version) if copy else None
    return move_file(path, f"{branch}_{number}"), kept


def _state(path: Path, newest: int) -> FileState:
    if not path.exists():
        return FileState(path, 0, newest, 0)
    with plainly(path), closing(_reader(path)) as connection:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return FileState(path, version, newest, path.stat().st_size)


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_S)


def _copied(path: Path, version: int) -> Path:
    """A whole copy beside the file, for its owner only."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    kept = path.with_name(f"{path.name}.schema{version}-{stamp}-{os.getpid()}")
    draft = kept.with_name(f".{kept.name}")
    with plainly(path):
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            with closing(_reader(path)) as source, closing(sqlite3.connect(draft)) as target:
                source.backup(target)
            handle = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            draft.rename(kept)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    return kept
