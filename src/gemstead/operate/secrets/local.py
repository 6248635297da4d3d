"""Secrets of this machine: the environment, and files.

A file that any user of the machine can read holds no secret, so it is refused. `/run/secrets` is where container
tools mount theirs, readable by all inside a container that has one user: there the container is the fence.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gemstead.operate.secrets.reference import NoSecret, Reference

MOUNTED = ("/run/secrets/", "/var/run/secrets/")
OTHERS = 0o027  # the group may not write, others may do nothing
MOST_BYTES = 65_536


def from_environment(reference: Reference, environ: Mapping[str, str]) -> str:
    """The variable's value.

    Raises:
        NoSecret: it is not set.
    """
    value = environ.get(reference.name, "")
    if not value:
        raise NoSecret(f"the environment variable {reference.name} is not set; set it and start again")
    return value


def from_file(reference: Reference, *, private: bool) -> str:
    """The file's text without the space around it.

    Args:
        private: refuse a file that others can read.

    Raises:
        NoSecret: it cannot be read, is empty, or others can read it.
    """
    path = Path(reference.name).expanduser()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and stat.S_ISREG(mode) and mode & OTHERS and not str(path).startswith(MOUNTED):
                raise NoSecret(
                    f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): `chmod 600 {path}`, "
                    "or say secrets.file_mode: any"
                )
            text = file.read(MOST_BYTES).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoSecret(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}"
        ) from None
    if not text:
        raise NoSecret(f"{path} is empty; put the secret into it")
    return text


def state_of(reference: Reference) -> tuple[int, ...]:
    """What changes when the file does; empty while there is none."""
    try:
        found = Path(reference.name).expanduser().stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
