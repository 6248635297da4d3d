"""A file on its way: its bytes, written where they belong, and a journal of the ranges that have come.

A range is journalled after its bytes are on the disk (`fdatasync`), so what the journal says has come is there after a
kill and after a power cut; what came and was not journalled comes again. Whether the whole is right is for its sum to
say (`transfer`, `pull`): the journal only saves time.
"""

from __future__ import annotations

import os
from pathlib import Path

STEP_BYTES = 8 << 20  # journalled at least this often (and every second: `transfer`)


class Part:
    """One file of known size that is being fetched. Several threads may write different ranges."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.journal = path.with_name(path.name + ".done")
        self._file = self._log = -1
        self.ranges: list[tuple[int, int]] = []

    def open(self) -> None:
        """Go on with what is there, or begin."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.ranges = self._read_journal()
        if not self.ranges:
            self.discard()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o644)
        self._log = os.open(self.journal, flags | os.O_APPEND, 0o644)
        if not self.ranges:
            os.write(self._log, f"size {self.size}\n".encode())
        elif os.lseek(self._log, -1, os.SEEK_END) >= 0 and os.read(self._log, 1) != b"\n":
            os.write(self._log, b"\n")  # the line that a kill cut short

    def close(self) -> None:
        for descriptor in (self._file, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._log = -1

    def discard(self) -> None:
        """Forget what came."""
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        self.ranges = []

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes where they belong."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view, offset)
            view, offset = view[count:], offset + count

    def done(self, begin: int, end: int) -> None:
        """Journal that the bytes of [begin, end) are there."""
        if end > begin:
            os.fdatasync(self._file)
            os.write(self._log, f"{begin} {end}\n".encode())

    def _read_journal(self) -> list[tuple[int, int]]:
        try:
            lines = self.journal.read_text("ascii").split("\n")
            there = self.path.stat().st_size
        except (OSError, ValueError):
            return []
        if lines[0] != f"size {self.size}":
            return []
        found = []
        for line in lines[1:-1]:  # the last has no line end: cut short, or empty
            words = line.split()
            if len(words) == 2 and all(word.isdecimal() for word in words):
                begin, end = int(words[0]), int(words[1])
                if 0 <= begin < end <= min(self.size, there):
                    found.append((begin, end))
        return merged(found)

    def have(self) -> int:
        """Bytes that had come when it was opened."""
        return sum(end - begin for begin, end in self.ranges)


def begun(path: Path, size: int) -> int:
    """Bytes of a file that an earlier run has fetched, without touching anything."""
    part = Part(path, size)
    return sum(end - begin for begin, end in part._read_journal())


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes as few ranges in order."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def missing(size: int, ranges: list[tuple[int, int]], chunk: int) -> list[tuple[int, int]]:
    """What is not in `ranges` of [0, size), in order, in pieces of at most `chunk` bytes."""
    gaps, at = [], 0
    for begin, end in [*merged(ranges), (size, size)]:
        while at < begin:
            gaps.append((at, min(begin, at + chunk)))
            at = gaps[-1][1]
        at = max(at, end)
    return gaps
