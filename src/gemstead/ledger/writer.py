"""Writes audit records, off the event loop, and loses none that it accepted while the process lives.

`put` appends to a queue in memory; one thread takes what is there, at least every `flush_s` and as soon as
512 wait, and writes it in one transaction. The connection lives in that thread only, so make the Writer after
a fork.

What a crash can cost:

- the process is killed: records put within the last `flush_s` plus the time of one transaction;
- the machine loses power: also what was written within the last second (SQLite in WAL mode does not sync at
  each commit; the thread syncs the log once a second).

The thread also seals each batch into the hash chain (`chain.py`): some 2 µs a record, and never on the event loop.

A record is never there twice: its call_id is unique, and a batch is written whole or not at all.

When the file cannot be written (disk full, read-only, locked, damaged) records are held and tried again,
first after 0.1 s, then at doubling pauses of up to 2 s; `healthy` is False meanwhile. Up to `most_held` are
held. Beyond that new ones are let go (the oldest tell how the trouble began), counted in `dropped`, and when
the file can be written again a row in `gaps` says between which times how many are missing. A gateway that
must not lose any refuses calls while `healthy` is False (`ledger.on_error: refuse`).

A file that was moved away or deleted is noticed at the next batch and made anew. With several processes stop
the service first: SQLite cannot move a file that others have open.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.audit import Act, AuditRecord
from gemstead.ledger.database import LedgerTrouble, open_to_write, trouble

WAKE_AT = 512  # records that end the wait early
_BATCH = 4096  # most records of one transaction
_SYNC_S = 1.0
_PAUSE_S, _PAUSE_MOST_S = 0.1, 2.0

Batch = list[audittable.Sealed]


class Writer:
    """The one way records enter the ledger of this process. Any number of processes may write one file.

    Args:
        path: audit.db; made if missing.
        flush_s: the longest that a record waits while all is well.
        most_held: records held in memory while they cannot be written (about half a KB each).
        most_bytes: size of the file at which it counts as full; 0: only the disk's.
        on_trouble: told in one sentence when writing begins to fail, and when it works again. Called on the
            writing thread: an event loop takes it with `call_soon_threadsafe`.
    """

    def __init__(
        self,
        path: Path,
        *,
        flush_s: float = 0.02,
        most_held: int = 100_000,
        most_bytes: int = 0,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.healthy = True
        self.written = 0
        self.dropped = 0
        self._path = path
        self._flush_s = flush_s
        self._most_held = most_held
        self._on_trouble = on_trouble
        self._held: deque[AuditRecord] = deque()
        self._batch: Batch = []  # taken from the queue, not yet written
        self._gap: list[float] = []  # began of the first and of the last record let go, and how many
        self._gap_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._until = 0.0
        self._file = _File(path, most_bytes)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def put(self, record: AuditRecord) -> None:
        """Take one record. Does not wait and does not fail. For one thread, usually the event loop."""
        held = self._held
        waiting = len(held)
        if waiting >= self._most_held:
            self._let_go(record)
            return
        held.append(record)
        if waiting == WAKE_AT:
            self._wake.set()

    @property
    def held(self) -> int:
        """Records accepted and not yet written."""
        return len(self._held) + len(self._batch)

    def close(self, *, within_s: float = 5.0) -> int:
        """Write what is held and stop. Returns how many records could not be written in that time."""
        self._until = time.monotonic() + within_s
        self._closing = True
        self._wake.set()
        self._thread.join(within_s + 1.0)
        return self.held

    def _let_go(self, record: AuditRecord) -> None:
        with self._gap_lock:
            self.dropped += 1
            first, last, count = self._gap or (record.began, record.began, 0)
            self._gap = [min(first, record.began), max(last, record.began), count + 1]

    def _run(self) -> None:
        _give_way()
        pause = 0.0
        try:
            while True:
                closing = self._closing  # asked before the flush, so that one flush follows the last put
                done = self._flush()
                if closing and (done or time.monotonic() >= self._until):
                    if not done:
                        self._tell(
                            f"{self.held} audit records could not be written and end with this process"
                        )
                    return
                pause = 0.0 if done else min(_PAUSE_MOST_S, pause * 2 or _PAUSE_S)
                self._wake.wait(pause or self._flush_s)
                self._wake.clear()
        finally:
            self.healthy = self.healthy and self._closing  # should this thread ever break, it shows
            self._file.close()

    def _flush(self) -> bool:
        """Write all that is held. False: it could not be, and is held still."""
        try:
            self._file.open()
            while self._take() or self._gap:
                self._write()
            self._file.sync()
        except (sqlite3.Error, OSError, LedgerTrouble) as error:
            self._file.close()
            if self.healthy:
                self.healthy = False
                self._tell(
                    f"audit records cannot be written and are held in memory: {trouble(self._path, error)}"
                )
            return False
        if not self.healthy:
            self.healthy = True
            missing = f"; {self.dropped} could not be held and are missing" if self.dropped else ""
            self._tell(f"audit records are written again{missing}")
        return True

    def _take(self) -> bool:
        batch, held = self._batch, self._held
        while len(batch) < _BATCH and held:
            batch.append(audittable.sealed(held.popleft()))
        return bool(batch)

    def _write(self) -> None:
        with self._gap_lock:
            gap = tuple(self._gap)
        self._file.write(self._batch, gap)
        self.written += len(self._batch)
        self._batch = []
        if gap:
            with self._gap_lock:
                rest = int(self._gap[2] - gap[2])
                self._gap = [gap[1], self._gap[1], rest] if rest else []

    def _tell(self, message: str) -> None:
        if self._on_trouble is not None:
            try:
                self._on_trouble(message)
            except Exception:  # a listener that has gone (a closed loop) must not stop the writing
                pass


def _give_way() -> None:
    """On Linux, let the event loop's thread go first where the two share a CPU. A wish: refusal changes nothing."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
    except (AttributeError, OSError):
        pass


def _gap_act(gap: tuple[float, ...]) -> Act:
    """What was let go, as an act, so that nobody can take the gap away unseen."""
    return Act(
        act_id=f"act_{os.urandom(8).hex()}",
        at=time.time(),
        action="audit.gap",
        actor="gemstead",
        outcome="failed",
        detail=msgspec.json.encode({"began": gap[0], "ended": gap[1], "records": int(gap[2])}).decode(),
    )


class _File:
    """The open ledger file, for the writing thread."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._unsynced = False
        self._synced = time.monotonic()

    def open(self) -> sqlite3.Connection:
        if self._connection is not None and self._inode != self._inode_now():
            self.close()
        if self._connection is None:
            self._connection = open_to_write(self._path, audittable.MIGRATIONS, timeout_s=2.0)
            self._inode = self._inode_now()
        return self._connection

    def write(self, records: Batch, gap: tuple[float, ...]) -> None:
        """All records in one transaction, or none."""
        connection = self.open()
        if self._most_bytes:
            self._check_room(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            try:
                audittable.append(connection, records)
            except audittable.UNFIT:
                # One row that SQLite cannot hold must not keep the others out. Those already in are passed
                # over.
                audittable.append(connection, [audittable.mended(row) for row, _ in records])
            if gap:
                connection.execute("INSERT INTO gaps (began, ended, records) VALUES (?, ?, ?)", gap)
                audittable.append_act(connection, _gap_act(gap))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._unsynced = True

    def _check_room(self, connection: sqlite3.Connection) -> None:
        """Raises LedgerTrouble when the spool of a store is full. What was taken out of the file leaves free pages."""
        size, pages = (
            connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_size", "page_count")
        )
        if pages * size <= self._most_bytes:
            return
        if (pages - connection.execute("PRAGMA freelist_count").fetchone()[0]) * size > self._most_bytes:
            raise LedgerTrouble(
                f"{self._path} holds {self._most_bytes >> 20} MiB of records that the store does not have, and "
                "`ledger.spool_mib` allows no more: bring the store back"
            )

    def sync(self) -> None:
        """Once a second, make what was written survive a power cut."""
        if not self._unsynced or time.monotonic() - self._synced < _SYNC_S:
            return
        # The log, not the database: closing any handle of the database file would drop SQLite's own locks on
        # it.
        try:
            log = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            log = -1  # another process has just folded it into the database, and synced that
        if log >= 0:
            try:
                os.fsync(log)
            finally:
                os.close(log)
        self._unsynced, self._synced = False, time.monotonic()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _inode_now(self) -> int:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return 0
