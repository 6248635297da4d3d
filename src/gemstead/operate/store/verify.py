"""Whether files are what their manifest says: quickly by what the disk tells, or wholly by their sums.

Quick: a file whose size, time and inode are as when its sum was last found right has not been touched; one that was
copied elsewhere or touched is summed up again. Whole: every file is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gemstead.catalog.manifest import Manifest, ManifestFile
from gemstead.operate.store.shelf import Shelf, sealed, stamp
from gemstead.operate.store.trouble import StoreTrouble

BLOCK_BYTES = 4 << 20
Look = Callable[[str, int, int], None]  # file, bytes read, bytes in all; may raise


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what it should be, and how, as a clause."""

    path: str
    how: str


def damaged(
    shelf: Shelf,
    manifest: Manifest,
    *,
    whole: bool,
    only: tuple[str, ...] = (),
    look: Look = lambda _name, _done, _total: None,
) -> list[Damage]:
    """Every damaged file, in order; what was summed up and found right is sealed."""
    seal, found, summed = shelf.seal(manifest.revision), [], []
    for file in manifest.files:
        if only and file.path not in only:
            continue
        path = shelf.snapshot(manifest.revision) / file.path
        seen = stamp(path)
        if seen is None:
            found.append(Damage(file.path, "is missing"))
        elif seen[0] != file.bytes:
            found.append(Damage(file.path, f"has {seen[0]} bytes instead of {file.bytes}"))
        elif whole or seal.get(file.path) != seen:
            how = _sum_fault(path, file, look)
            if how:
                found.append(Damage(file.path, how))
            else:
                summed.append(file)
    if summed:
        try:
            shelf.keep_seal(manifest.revision, sealed(shelf, manifest, summed))
        except OSError:
            pass  # a store that others share and we only read
    return found


def held_to(damage: list[Damage], name: str) -> None:
    """Nothing, when there is no damage.

    Raises:
        StoreTrouble: with every file that is damaged and what to do.
    """
    if damage:
        files = "; ".join(f"{one.path} {one.how}" for one in damage)
        raise StoreTrouble(
            "corrupt", f"{name} is damaged: {files}. `gemstead models pull {name}` fetches it anew"
        )


def sha256_of(path: Path, look: Callable[[int], None] = lambda _done: None) -> str:
    """The SHA-256 of a file's content; `look` is told the bytes read so far."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        block = bytearray(BLOCK_BYTES)
        view = memoryview(block)
        while count := file.readinto(block):
            digest.update(view[:count])
            done += count
            look(done)
    return digest.hexdigest()


def git_sha1_of(path: Path, size: int) -> str:
    """The name that git gives a file's content, which is the hub's etag of small files."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _sum_fault(path: Path, file: ManifestFile, look: Look) -> str:
    try:
        found = sha256_of(path, lambda done: look(f"checking {file.path}", done, file.bytes))
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "" if found == file.sha256 else f"has SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"
