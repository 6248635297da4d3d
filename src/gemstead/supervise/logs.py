"""What engines and workers print, kept on disk within bounds, and read back while it grows.

A log is `NAME.log`, then `NAME.log.1` (the newest of the old) up to `NAME.log.N`. The supervisor writes; it
reads a process's output from a pipe, so that rotating never loses a line, and a full disk costs log lines
and nothing else. `follow` is for another process: it notices a rotation by the file's identity and finishes
the old file first.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

KEPT_LINES = 40  # in memory, to say why a process died
LONGEST_LINE = 16_384  # bytes; a longer line is reported cut, and stored whole


class RotatedLog:
    """A log file of bounded size, and its last lines in memory."""

    def __init__(
        self, path: Path, *, most_bytes: int, files: int, seen: Callable[[str], None] | None = None
    ) -> None:
        self.path, self._most, self._files, self._seen = path, most_bytes, files, seen
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self._file: IO[bytes] | None = None
        self._size = 0
        self._partial = b""

    def write(self, data: bytes) -> None:
        """Keep some output. Never raises: a log that cannot be written must not stop what it logs."""
        try:
            self._keep(data)
        except OSError:
            self.close()
        *lines, partial = (self._partial + data).split(b"\n")
        self._partial = partial[:LONGEST_LINE]
        for line in lines:
            text = line[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")
            self.recent.append(text)
            if self._seen is not None:
                self._seen(text)

    def say(self, sentence: str) -> None:
        """Put a line of our own between the process's lines."""
        start = "" if not self._partial else "\n"
        self.write(f"{start}[gemstead {time.strftime('%Y-%m-%dT%H:%M:%S%z')}] {sentence}\n".encode())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            self._open()
        if self._size + len(data) > self._most and self._size:
            cut = data.rfind(b"\n", 0, max(self._most - self._size, 0)) + 1  # a line stays in one file
            self._append(data[:cut])
            data = data[cut:]
            self._rotate()
        self._append(data)

    def _append(self, data: bytes) -> None:
        if self._file is not None and data:
            self._file.write(data)
            self._size += len(data)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size = self._file.tell() or self.path.stat().st_size

    def _rotate(self) -> None:
        self.close()
        oldest = numbered(self.path, self._files)
        oldest.unlink(missing_ok=True)
        for number in range(self._files - 1, 0, -1):
            if (older := numbered(self.path, number)).exists():
                older.rename(numbered(self.path, number + 1))
        self.path.rename(numbered(self.path, 1))
        self._open()


def numbered(path: Path, number: int) -> Path:
    """Where the `number`-th old log lies; 1 is the newest."""
    return path.with_name(f"{path.name}.{number}")


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a log, reaching into older files where the newest is short."""
    lines: deque[str] = deque(maxlen=count)
    number, files = 0, [path]
    while (older := numbered(path, number := number + 1)).exists():
        files.append(older)
    for file in reversed(files):
        if file.exists():
            lines.extend(file.read_text("utf-8", "replace").splitlines())
    return list(lines)


def follow(path: Path, *, wait: Callable[[], bool]) -> Iterator[str]:
    """Every line that is written to `path` from now on, across rotations.

    `wait` is called when there is nothing to read, and says whether to go on.
    """
    file = _opened(path)
    if file is not None:
        file.seek(0, os.SEEK_END)
    partial = b""
    while True:
        data = file.read(65_536) if file is not None else b""
        if data:
            *lines, partial = (partial + data).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
            continue
        if _moved(path, file) and (fresh := _opened(path)) is not None:
            if file is not None:
                partial += file.read()
                file.close()
            yield from (line.decode("utf-8", "replace") for line in partial.splitlines())
            file, partial = fresh, b""
            continue
        if not wait():
            return


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _moved(path: Path, file: BinaryIO | None) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return file is None or os.fstat(file.fileno()).st_ino != now.st_ino
