"""What llama.cpp says while it loads: passed on at once, kept for the sentence that explains a failure.

Loading happens inside one native call that holds Python's lock, for minutes with a large model; no thread of ours
runs meanwhile. So a small forked process stands in: it copies what is written to stderr, and, since llama.cpp no
longer says how far it is, prints how much of the model has become resident (Linux). It ends when loading does.
It must be made before any thread exists and before llama.cpp is imported.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
from pathlib import Path

KEPT_BYTES = 1 << 20
WORTH_SHOWING_BYTES = 128 << 20  # smaller models are there before a figure helps
EVERY_S = 0.5


class Witness:
    """Stands in from its making until `dismiss`."""

    def __init__(self, model: str) -> None:
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115
        self._stderr = os.dup(2)
        read, write = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(write)
            _stand_in(read, self._stderr, self._kept.fileno(), os.getppid(), _size(model))
        os.close(read)
        os.dup2(write, 2)
        os.close(write)

    def dismiss(self) -> str:
        """Stderr is ours again; what was said."""
        sys.stderr.flush()
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        os.waitpid(self._child, 0)
        self._kept.seek(0)
        with self._kept:
            return self._kept.read().decode("utf-8", "replace")


def _stand_in(read: int, out: int, kept: int, parent: int, size: int) -> None:
    """The child's whole life. Ends when every copy of the pipe's other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    done, room = -1, KEPT_BYTES
    try:
        while True:
            if select.select([read], [], [], EVERY_S)[0]:
                data = os.read(read, 65_536)
                if not data:
                    break
                os.write(out, data)
                os.write(kept, data[:room])
                room -= min(room, len(data))
            elif size >= WORTH_SHOWING_BYTES and (now := _percent(parent, size)) > done:
                done = now
                os.write(out, b"gemstead: loading %d %%\n" % done)
    except OSError:
        pass
    finally:
        os._exit(0)


def _percent(process: int, size: int) -> int:
    """How much of `size` the process holds in memory, 0 to 99; -1 where that cannot be read."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return -1
    return min(99, pages * os.sysconf("SC_PAGE_SIZE") * 100 // size)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
