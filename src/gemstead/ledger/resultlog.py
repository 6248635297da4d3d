"""The result log of a batch: which lines are answered, and how. What makes an answer count exactly once.

A file that only grows. Each record is one line of ASCII and then the answer:

    <line> <o|e> <prompt> <cached> <output> <bytes> <crc32>\\n<answer>\\n

`o`: a 2xx, for the output file; `e`: anything else, for the error file. The checksum covers the words before it and the
answer. A line is *answered* when its record has been synced to disk, and not before.

Theory. `append` writes behind the last synced record and syncs. After any stop (kill -9, power) the file is therefore:
every record that was ever synced, then perhaps some that were not, the last of them perhaps torn or garbage. Reading
takes records from the start until the first that does not fit its checksum, and cuts the file there, so what follows
lies behind whole records again. Nothing synced is lost; nothing torn is believed. A second record for a line that has
one is passed over: the first answer stands. Whoever asks which lines are still to do asks the log, so:

- every line is *answered* exactly once in the files that are written from the log;
- a line is *executed* again after a stop only if it was on its way, or answered and not yet synced, at that moment:
  at most as many lines as ran at once, and those of one sync.

A write that fails (disk full) leaves the records with the caller, who appends them again: the file is first cut to
what was synced. Memory: 24 bytes and some for each answered line.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD_MOST = 120  # bytes of a record's first line


class Record(NamedTuple):
    """The answer of one line. Tokens by the engine's own usage."""

    line: int  # from 1
    ok: bool
    prompt: int
    cached: int
    output: int
    answer: bytes  # one line of JSON, without its end


class Place(NamedTuple):
    """Where an answer lies in the log."""

    ok: bool
    offset: int
    size: int


class ResultLog:
    """One batch's log, open for writing. Methods that touch the disk may block; call one at a time.

    Raises:
        OSError: the file cannot be opened, read or cut.
    """

    def __init__(self, path: Path) -> None:
        self.places: dict[int, Place] = {}  # by line
        self.completed = self.failed = 0
        self.prompt = self.cached = self.output = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.synced = self._recover()
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def __contains__(self, line: int) -> bool:
        return line in self.places

    def append(self, records: Iterable[Record]) -> None:
        """Add these answers; when it returns they are on disk.

        Raises:
            OSError: they are not; the log is as before, and they may be appended again.
        """
        end = self.synced
        taken: list[tuple[Record, Place]] = []
        parts: list[bytes] = []
        new: set[int] = set()
        for record in records:
            if record.line in self.places or record.line in new:
                continue
            new.add(record.line)
            whole, head = encode(record)
            parts.append(whole)
            taken.append((record, Place(record.ok, end + head, len(record.answer))))
            end += len(whole)
        if not parts:
            return
        os.ftruncate(self._fd, self.synced)  # what an earlier failure left
        _write_all(self._fd, b"".join(parts), self.synced)
        os.fsync(self._fd)
        self.synced = end
        for record, place in taken:
            self._count(record, place)

    def answers(self, *, ok: bool) -> Iterator[tuple[int, bytes]]:
        """The answers of one kind with their lines, in the order of the lines."""
        for line in sorted(line for line, place in self.places.items() if place.ok is ok):
            place = self.places[line]
            yield line, os.pread(self._fd, place.size, place.offset)

    def close(self) -> None:
        os.close(self._fd)

    def _recover(self) -> int:
        """Read what is there, cut off what was never whole; where the next record goes."""
        with open(self._fd, "rb", closefd=False) as file:
            end = 0
            for record, offset, after in read(file):
                if record.line not in self.places:
                    self._count(record, Place(record.ok, offset, len(record.answer)))
                end = after
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)
        os.fsync(self._fd)  # what was read may have been in memory only
        return end

    def _count(self, record: Record, place: Place) -> None:
        self.places[record.line] = place
        if record.ok:
            self.completed += 1
        else:
            self.failed += 1
        self.prompt += record.prompt
        self.cached += record.cached
        self.output += record.output


def encode(record: Record) -> tuple[bytes, int]:
    """The record as it is written, and at which byte of that its answer begins."""
    kind = "o" if record.ok else "e"
    words = (
        f"{record.line} {kind} {record.prompt} {record.cached} {record.output} {len(record.answer)}".encode()
    )
    head = b"%s %08x\n" % (words, zlib.crc32(record.answer, zlib.crc32(words)))
    return b"%s%s\n" % (head, record.answer), len(head)


def read(file: BinaryIO) -> Iterator[tuple[Record, int, int]]:
    """The whole records at the start of a binary file: each with where its answer begins and where it ends."""
    at = 0
    while True:
        head = file.readline(HEAD_MOST)
        found = _head(head)
        if found is None:
            return
        words, numbers, ok, crc = found
        answer = file.read(numbers[4])
        if len(answer) != numbers[4] or file.read(1) != b"\n":
            return
        if zlib.crc32(answer, zlib.crc32(words)) != crc:
            return
        offset = at + len(head)
        at = offset + len(answer) + 1
        line, prompt, cached, output, _ = numbers
        yield Record(line, ok, prompt, cached, output, answer), offset, at


def _head(head: bytes) -> tuple[bytes, list[int], bool, int] | None:
    words, space, crc = head.removesuffix(b"\n").rpartition(b" ")
    parts = words.split(b" ")
    if not head.endswith(b"\n") or not space or len(parts) != 6 or parts[1] not in (b"o", b"e"):
        return None
    digits = [parts[0], *parts[2:]]
    if not all(part.isdigit() for part in digits) or len(crc) != 8:
        return None
    try:
        return words, [int(part) for part in digits], parts[1] == b"o", int(crc, 16)
    except ValueError:
        return None


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        offset += done
        view = view[done:]


def _sync_folder(folder: Path) -> None:
    """A new name is only on disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
