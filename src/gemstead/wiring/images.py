"""The lock file of images on disk: where it lies, what is in it, and how a new one takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gemstead.refused import Reason, Refused
from gemstead.render.pins import NAME, Pin, read, written


class Wanted(Mapping[str, str]):
    """Digests that are known, and a note of every image that was asked for: how a bundle says what it uses."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known, self.asked = known, dict[str, None]()

    def __getitem__(self, image: str) -> str:
        self.asked[image] = None
        return self.known[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def lock_of(file: Path | None) -> Path:
    """Where the lock file lies: beside the one file, or here when there is none."""
    return (file.resolve().parent if file else Path.cwd()) / NAME


def pins(file: Path | None) -> dict[str, Pin]:
    """The pins beside the one file; none when there is no lock file.

    Raises:
        Refused: the lock file cannot be read, or says nothing that can be understood.
    """
    lock = lock_of(file)
    try:
        text = lock.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Reason.BAD_REQUEST, f"{lock}: cannot be read ({error})") from None
    return read(text, str(lock))


def keep(file: Path | None, pins: Mapping[str, Pin]) -> Path:
    """Write the lock file whole; where it lies.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = lock_of(file)
    draft = lock.with_name(f".{NAME}.{os.getpid()}")
    draft.write_text(written(pins), "utf-8")
    draft.replace(lock)
    return lock
