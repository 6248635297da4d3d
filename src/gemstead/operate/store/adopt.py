"""Files that another program fetched into the hub's cache become ours: only after their sums were found right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gemstead.catalog.manifest import Manifest, ManifestFile
from gemstead.catalog.sources import Want
from gemstead.operate.store.shelf import Shelf, sealed, stamp
from gemstead.operate.store.verify import git_sha1_of, sha256_of

Progress = Callable[[str, int, int], None]  # what, bytes done, bytes in all; what it raises ends the work


def adopted(
    want: Want, shelf: Shelf, revision: str, before: Manifest | None, look: Progress
) -> Manifest | None:
    """The manifest with files that another program fetched into the hub's cache, when their sums are the known ones."""
    files = []
    for known in want.files:
        if before and before.file(known.path):
            continue
        path = shelf.snapshot(revision) / known.path
        seen = stamp(path)
        if seen is None or not known.sha256 or (known.bytes and seen[0] != known.bytes):
            return None
        if summed(path, known.path, seen[0], look) != known.sha256:
            return None
        files.append(ManifestFile(known.path, seen[0], known.sha256, known.sha256))
    manifest = before or Manifest(want.address.key, revision, want.licence, now_text(), ())
    return _kept(shelf, manifest.with_files(files), files)


def adopted_whole(key: str, licence: str, shelf: Shelf, revision: str, look: Progress) -> Manifest | None:
    """A manifest for a snapshot of another program where nobody can be asked: as the hub's cache names a file's content
    by its sum, every file can be held to its own name."""
    files, root = [], shelf.snapshot(revision)
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        seen, blob, name = stamp(path), path.resolve().name, path.relative_to(root).as_posix()
        if seen is None:
            return None
        digest = summed(path, name, seen[0], look)
        if blob != digest and blob != git_sha1_of(path, seen[0]):
            return None
        files.append(ManifestFile(name, seen[0], digest, blob))
    if not files:
        return None
    manifest = Manifest(key, revision, licence, now_text(), ()).with_files(files)
    return _kept(shelf, manifest, files)


def _kept(shelf: Shelf, manifest: Manifest, files: list[ManifestFile]) -> Manifest:
    try:
        shelf.keep(manifest, sealed(shelf, manifest, files))
    except OSError:
        pass  # a store that others share and we only read
    return manifest


def summed(path: Path, name: str, whole: int, look: Progress) -> str:
    """A file's SHA-256, telling how far it is."""
    return sha256_of(path, lambda done: look(f"checking {name}", done, whole))


def now_text() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
