"""A counter beside keys.db that every worker can watch for the price of a memory read.

Eight bytes in a file, mapped into each process that reads it. Whoever changes keys adds one after the commit;
a reader compares the number with the one it last loaded at. The number means nothing else, and only
inequality is asked, so a torn read costs one needless reload.

The file is only ever written in place. Do not truncate it while the service runs (a backup need not hold it:
leave `keys.generation` out and it is made anew).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

_SIZE = 8


def path_beside(keys_db: Path) -> Path:
    """Where the counter of a keys file lives."""
    return keys_db.with_name("keys.generation")


def bump(path: Path) -> None:
    """Add one, whoever else adds at the same time.

    Raises:
        OSError: the file cannot be made or written.
    """
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number = int.from_bytes(os.pread(handle, _SIZE, 0), "little")
        os.pwrite(handle, ((number + 1) % 2**64).to_bytes(_SIZE, "little"), 0)
    finally:
        os.close(handle)


def watch(path: Path) -> memoryview:
    """The counter as `view[0]`, always current; a missing file is made. Release the view when done.

    Raises:
        OSError, ValueError: the file cannot be made or mapped.
    """
    handle = _open(path)
    try:
        return memoryview(mmap.mmap(handle, _SIZE, access=mmap.ACCESS_READ)).cast("Q")
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_size < _SIZE:
            os.pwrite(handle, (1).to_bytes(_SIZE, "little"), 0)
        fcntl.flock(handle, fcntl.LOCK_UN)
    except BaseException:
        os.close(handle)
        raise
    return handle
