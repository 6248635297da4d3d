"""Where engines of ours have sockets: a folder for their owner only, with a path that is short enough for one."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path

from gemstead.wiring.secrets import CannotRun

LONGEST = 90  # bytes of the folder's path: a socket's whole path has at most 107 (sockaddr_un)


def sockets(state: Path) -> Path:
    """The folder for a service with this state; it is made.

    Raises:
        CannotRun: somebody else has it.
    """
    folder = state / "sockets"
    if len(os.fsencode(folder)) > LONGEST:
        name = f"gemstead-{os.getuid()}-{sha256(os.fsencode(state)).hexdigest()[:12]}"
        folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    seen = folder.lstat()
    if seen.st_uid != os.getuid() or folder.is_symlink() or seen.st_mode & 0o077:
        raise CannotRun(f"{folder} is not ours alone: remove it, or make `state_dir` a shorter path")
    return folder
