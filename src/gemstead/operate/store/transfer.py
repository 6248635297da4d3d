"""Many ranges of many files at once, within bounds, until all have come, one cannot, or we are told to stop.

Each piece is a range of one file; a few threads take pieces in order. A piece whose connection breaks goes on where it
broke, after a pause that doubles; only when nothing came `TRIES` times in a row is it given up. What came is journalled
however it ends. The calling thread counts, looks at the disk, tells the progress and is the one that Ctrl-C reaches.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemstead.operate.store.part import STEP_BYTES, Part, missing
from gemstead.operate.store.trouble import Passing, StoreTrouble, of_disk, size

TRIES = 6  # without a byte in between; with the pauses below about 30 s
PAUSE_S, PAUSE_MOST_S = 0.5, 15.0
LOOK_S = 0.1  # between two looks of the calling thread
FREE_S = 0.5  # between two looks at the disk
STEP_S = 1.0  # what came is journalled at least this often, so that a kill loses a second of it
LEAVE_S = 3.0  # for threads to journal what came, when it ends early
CHUNK_BYTES, BIG_CHUNK_BYTES, BIG_BYTES = 16 << 20, 64 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """One file to fetch."""

    name: str
    part: Part
    read: Callable[[int, int], Iterator[bytes]]  # the bytes of [begin, end); may end early or raise Passing
    finish: Callable[[], None]  # when all has come: check it and put it in place


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a transfer may use."""

    workers: int
    folder: Path
    min_free_bytes: int
    free: Callable[[Path], int]
    pause_s: float = PAUSE_S


def transfer(jobs: Sequence[Job], bounds: Bounds, progress: Callable[[int], None]) -> None:
    """Fetch every job's missing ranges and finish it. `progress` is told the bytes that there are of all jobs, often,
    so that it can end the transfer by raising.

    Raises:
        StoreTrouble: one cannot be had, or the disk is full. Whatever came is kept.
        Anything that `progress` raises, KeyboardInterrupt too: the same.
    """
    _Transfer(jobs, bounds).run(progress)


class _Transfer:
    def __init__(self, jobs: Sequence[Job], bounds: Bounds) -> None:
        self.jobs, self.bounds, self.stop = jobs, bounds, threading.Event()
        self.pieces: queue.SimpleQueue[tuple[Job, int, int]] = queue.SimpleQueue()
        self.left = {id(job): 0 for job in jobs}
        self.came = 0
        self.failure: BaseException | None = None
        self.lock = threading.Lock()

    def run(self, progress: Callable[[int], None]) -> None:
        for job in self.jobs:
            try:
                job.part.open()
            except OSError as error:
                raise of_disk(error, self.bounds.folder) or error from None
            chunk = BIG_CHUNK_BYTES if job.part.size >= BIG_BYTES else CHUNK_BYTES
            gaps = missing(job.part.size, job.part.ranges, chunk)
            self.came += job.part.have()
            self.left[id(job)] = len(gaps) or 1
            for begin, end in gaps or [(0, 0)]:  # nothing missing: only to be finished
                self.pieces.put((job, begin, end))
        progress(self.came)
        count = max(1, min(self.bounds.workers, self.pieces.qsize()))
        threads = [threading.Thread(target=self._work, name="fetch", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            self._watch(threads, progress)
        finally:
            self.stop.set()
            until = time.monotonic() + LEAVE_S
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            if not any(thread.is_alive() for thread in threads):
                for job in self.jobs:
                    job.part.close()
        if self.failure is not None:
            raise self.failure

    def _watch(self, threads: Sequence[threading.Thread], progress: Callable[[int], None]) -> None:
        looked = 0.0
        while any(thread.is_alive() for thread in threads) and not self.stop.is_set():
            threads[0].join(LOOK_S) if threads[0].is_alive() else self.stop.wait(LOOK_S)
            progress(self.came)
            if (now := time.monotonic()) - looked >= FREE_S:
                looked = now
                self._check_room()
        if self.failure is None and not self.stop.is_set():
            progress(self.came)

    def _check_room(self) -> None:
        least, free = self.bounds.min_free_bytes, self.bounds.free(self.bounds.folder)
        if least and free < least:
            raise StoreTrouble(
                "space",
                f"only {size(free)} are left on the disk of {self.bounds.folder}, and `store.min_free_gb` keeps "
                f"{size(least)} free. What came is kept: make room and run it again",
            )

    def _work(self) -> None:
        while not self.stop.is_set():
            try:
                job, begin, end = self.pieces.get_nowait()
            except queue.Empty:
                return
            try:
                self._piece(job, begin, end)
                with self.lock:
                    self.left[id(job)] -= 1
                    last = self.left[id(job)] == 0
                if last and not self.stop.is_set():
                    job.finish()
            except BaseException as error:
                self._fail(error)
                return

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, Passing):
            error = error.last or StoreTrouble("failed", str(error))
        if isinstance(error, OSError):
            error = of_disk(error, self.bounds.folder) or error
        with self.lock:
            self.failure = self.failure or error
        self.stop.set()

    def _piece(self, job: Job, begin: int, end: int) -> None:
        tries = 0
        while begin < end and not self.stop.is_set():
            before = begin
            try:
                begin = self._stretch(job, begin, end)
                trouble = Passing(f"the connection for {job.name} ended early")
            except _Broken as broken:
                begin, trouble = broken.at, broken.why
            if begin >= end or self.stop.is_set():
                return
            tries = 1 if begin > before else tries + 1
            if tries >= TRIES:
                raise trouble
            self.stop.wait(max(trouble.after_s, min(PAUSE_MOST_S, self.bounds.pause_s * 2 ** (tries - 1))))

    def _stretch(self, job: Job, begin: int, end: int) -> int:
        """What comes without a break; where it ended."""
        at, noted, noted_at = begin, begin, time.monotonic()
        try:
            for data in job.read(begin, end):
                data = data[: end - at]
                job.part.write(at, data)
                at += len(data)
                with self.lock:
                    self.came += len(data)
                if at - noted >= STEP_BYTES or time.monotonic() - noted_at >= STEP_S:
                    job.part.done(noted, at)
                    noted, noted_at = at, time.monotonic()
                if self.stop.is_set() or at >= end:
                    break
        except Passing as why:
            raise _Broken(at, why) from None
        finally:
            with suppress(OSError):
                job.part.done(noted, at)
        return at


class _Broken(Exception):
    def __init__(self, at: int, why: Passing) -> None:
        super().__init__(str(why))
        self.at, self.why = at, why
