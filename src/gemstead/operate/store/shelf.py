"""Where a model lies in the store. The layout is the hub client's own, so engines and tools find what we fetched:

    models--google--gemma-4-E2B-it/
      blobs/<sum>                     a file's content, once, however many revisions have it
      blobs/<sum>.part, .part.done    a file on its way, and which ranges of it have come
      snapshots/<revision>/<path>     a link to the content
      refs/<branch>                   the revision that a branch or tag meant last
      gemstead/<revision>.json        the manifest
      gemstead/<revision>.seal        size, time and inode of each file when its sum was last found right

What comes from elsewhere than the hub lies the same way in a folder of another name. `Address.folder` gives it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemstead.catalog import manifest as manifests
from gemstead.catalog.addresses import Address
from gemstead.catalog.manifest import BadManifest, Manifest, ManifestFile

PART = ".part"
Seal = dict[str, tuple[int, int, int]]  # path -> size, mtime in ns, inode


@dataclass(frozen=True, slots=True)
class Shelf:
    """One model's folder."""

    root: Path
    name: str

    @staticmethod
    def of(root: Path, address: Address) -> Shelf:
        return Shelf(root, address.folder)

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    def snapshot(self, revision: str) -> Path:
        return self.path / "snapshots" / revision

    def lock(self, what: str) -> Path:
        return self.root / ".locks" / self.name / f"gemstead.{what}.lock"

    def revision(self, said: str) -> str:
        """The revision that a branch or tag means here; what was said when nothing is known of it."""
        try:
            return (self.path / "refs" / (said or "main")).read_text("ascii").strip() or said
        except (OSError, ValueError):
            return said

    def remember(self, said: str, revision: str) -> None:
        """That a branch or tag means this revision."""
        if said and said != revision:
            _write(self.path / "refs" / said, revision)

    def revisions(self) -> list[str]:
        """The revisions that have a manifest or files, sorted."""
        found = {path.stem for path in (self.path / "gemstead").glob("*.json")}
        try:
            found |= {path.name for path in (self.path / "snapshots").iterdir() if path.is_dir()}
        except OSError:
            pass
        return sorted(found)

    def manifest(self, revision: str) -> Manifest | None:
        """The manifest of a revision; None when there is none that can be read."""
        if not revision:
            return None
        try:
            return manifests.read((self.path / "gemstead" / f"{revision}.json").read_bytes())
        except (OSError, BadManifest):
            return None

    def keep(self, manifest: Manifest, sealed: Seal) -> None:
        """Write the manifest and its seal, each whole or not at all."""
        _write(self.path / "gemstead" / f"{manifest.revision}.json", manifests.text(manifest))
        self.keep_seal(manifest.revision, sealed)

    def seal(self, revision: str) -> Seal:
        """When the files' sums were last found right; empty when nobody knows."""
        try:
            said = json.loads((self.path / "gemstead" / f"{revision}.seal").read_bytes())
            return {str(path): (int(a), int(b), int(c)) for path, (a, b, c) in said.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep_seal(self, revision: str, sealed: Seal) -> None:
        _write(self.path / "gemstead" / f"{revision}.seal", json.dumps(sealed, sort_keys=True))

    def is_whole(self, revision: str) -> bool:
        """Whether everything that belongs to the model was fetched, and not only single files of it."""
        return (self.path / "gemstead" / f"{revision}.whole").exists()

    def mark_whole(self, revision: str) -> None:
        (self.path / "gemstead" / f"{revision}.whole").touch()

    def link(self, revision: str, path: str, blob: Path) -> Path:
        """The file's place in the snapshot, leading to its content."""
        link = self.snapshot(revision) / path
        link.parent.mkdir(parents=True, exist_ok=True)
        to = os.path.relpath(blob, link.parent)
        if link.is_symlink() and str(link.readlink()) == to:
            return link
        draft = link.with_name(f".{secrets.token_hex(6)}")
        draft.symlink_to(to)
        draft.replace(link)
        return link

    def parts_bytes(self) -> int:
        """What downloads that did not end have left."""
        return sum(_stored(part) for part in self.blobs.glob(f"*{PART}"))


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Size, time and inode of a file; None when it is not there."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns, seen.st_ino


def sealed(shelf: Shelf, manifest: Manifest, files: list[ManifestFile] | None = None) -> Seal:
    """The seal of files whose sums were just found right, with what was sealed before for the others."""
    seal = {} if files is None else shelf.seal(manifest.revision)
    for file in manifest.files if files is None else files:
        if found := stamp(shelf.snapshot(manifest.revision) / file.path):
            seal[file.path] = found
    return {file.path: seal[file.path] for file in manifest.files if file.path in seal}


def shelves(root: Path) -> Iterator[Shelf]:
    """Every model's folder in a store, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError:
        return
    for name in names:
        if name.startswith(("models--", "s3--", "gs--", "oci--", "file--")):
            yield Shelf(root, name)


def source_of(shelf: Shelf) -> str:
    """The `Address.key` of what lies here: as a manifest says, else as the folder's name does."""
    for revision in shelf.revisions():
        if manifest := shelf.manifest(revision):
            return manifest.source
    return (
        "hf:" + shelf.name.removeprefix("models--").replace("--", "/")
        if shelf.name.startswith("models--")
        else ""
    )


def disk_bytes(path: Path) -> int:
    """What a folder takes on the disk, links not followed; 0 when it is not there."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            total += _stored(Path(folder) / name)
    return total


def _stored(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _write(path: Path, content: str) -> None:
    """Whole or not at all, and on the disk before it counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
