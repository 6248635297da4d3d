"""What goes wrong with model files, as sentences that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path

ELSE = "; give the model's file with `file:`, or try `gemstead serve --demo`"


class StoreTrouble(Exception):
    """A model cannot be had, kept or carried. The text is for the user.

    `kind` is one of offline, gated, missing, busy, space, corrupt, used, failed.
    """

    for_user = True

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Passing(Exception):
    """It did not work now, and may in a moment: a connection broke, a server is busy."""

    def __init__(self, why: str, after_s: float = 0.0, last: StoreTrouble | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s  # what the server asked for
        self.last = last  # what to say when it never works


def of_disk(error: OSError, folder: Path) -> StoreTrouble | None:
    """What an error of the disk means; None: it is none."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreTrouble(
            "space",
            f"the disk of {folder} is full. What came is kept: make room (`gemstead models list` shows what is there, "
            "`gemstead models rm` removes), or set `store.path` to another disk, and run it again",
        )
    if error.errno == errno.EFBIG:
        return StoreTrouble(
            "space",
            f"{folder} takes no file this large (a limit of the file system, or `ulimit -f`). What came is kept: lift "
            "the limit, or set `store.path` to another disk, and run it again",
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StoreTrouble(
            "failed", f"{folder} cannot be written; set `store.path` (or HF_HOME) to a folder that can"
        )
    if error.errno == errno.EIO:
        return StoreTrouble("failed", f"the disk of {folder} fails (input/output error); look at `dmesg`")
    return None


def size(count: int) -> str:
    """Bytes for people, in powers of ten: 3.3 GB."""
    amount = float(max(count, 0))
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
