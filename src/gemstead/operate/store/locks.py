"""Who has a model in hand. Kernel locks: they end with their holder, however it ends.

`pull` holds a model's files while they are fetched: a second one waits and says for whom. `use` is shared by every
service that runs the model: as long as one does, it cannot be removed. The time of the `use` lock is when the model
was last taken into use.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gemstead.operate.store.shelf import Shelf
from gemstead.operate.store.trouble import StoreTrouble, of_disk

LOOK_S = 0.2


class Use:
    """A model that is in use until `release` or our death."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def use(shelf: Shelf) -> Use:
    """Say that the model is in use. A store that cannot be written, which others share, is taken as it is."""
    path = shelf.lock("use")
    try:
        descriptor = _opened(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(path)
    except OSError:
        return Use(-1)
    return Use(descriptor)


def last_used(shelf: Shelf) -> float | None:
    """When a service last took the model into use, in seconds since 1970; None: never."""
    try:
        return shelf.lock("use").stat().st_mtime
    except OSError:
        return None


def users(shelf: Shelf) -> list[int] | None:
    """The processes that use the model; None: nobody does. Empty: somebody does, and cannot be named."""
    try:
        descriptor = os.open(shelf.lock("use"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return holders(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


@contextmanager
def alone(
    shelf: Shelf, what: str, waiting: Callable[[list[int]], None], look: Callable[[], None]
) -> Iterator[None]:
    """Hold a model's files. `waiting` is told once for whom we wait; `look` is called while we do and may raise.

    Raises:
        StoreTrouble: the store cannot be written.
    """
    path = shelf.lock(what)
    try:
        descriptor = _opened(path)
    except OSError as error:
        raise of_disk(error, shelf.root) or error from None
    try:
        said = False
        while not _taken(descriptor):
            if not said:
                waiting(holders(descriptor))
                said = True
            look()
            time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)


def holders(descriptor: int) -> list[int]:
    """The processes that hold the lock of an open file, as /proc/locks has them."""
    inode, me = os.fstat(descriptor).st_ino, os.getpid()
    found = []
    try:
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            words = line.split()
            if "->" in words or len(words) < 6:
                continue
            if words[5].rpartition(":")[2] == str(inode) and words[4].isdecimal():
                found.append(int(words[4]))
    except OSError:
        pass
    return sorted({pid for pid in found if pid != me})


def removable(shelf: Shelf) -> int:
    """Hold the model against new users; the descriptor to close afterwards.

    Raises:
        StoreTrouble: somebody uses it.
    """
    descriptor = _opened(shelf.lock("use"))
    if _taken(descriptor):
        return descriptor
    by = holders(descriptor)
    os.close(descriptor)
    who = f"process {', '.join(map(str, by))}" if by else "a running service"
    raise StoreTrouble(
        "used", f"it is in use by {who}; `gemstead stop` first, or take the model out of gemstead.yaml"
    )


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
