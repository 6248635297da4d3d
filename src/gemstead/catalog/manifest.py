"""What was fetched, file by file: the paper that goes with a model's files wherever they are carried.

A manifest says where the files came from, at which revision, under which licence and when, and each file's size and
SHA-256. A lock says which revision a service wants, and what the files of that revision must be. Both are JSON with
sorted keys, so that the same thing is the same bytes and a version control shows what changed.

Nothing is read or hashed here: what was found is handed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemstead.catalog.addresses import safe

FORM = "gemstead-manifest-1"
LOCK_FORM = "gemstead-lock-1"
LOCK_FILE = "gemstead.lock"


class BadManifest(ValueError):
    """Not a manifest, or one that names files outside its folder."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a model."""

    path: str  # below the model's folder, with /
    bytes: int
    sha256: str
    blob: str  # what the store calls the content: the hub's etag for the hub's small files, else the SHA-256


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one revision of one model, sorted by path."""

    source: str  # an Address.key
    revision: str
    licence: str  # as the source says it, such as "apache-2.0"; empty: it does not say
    pulled: str  # UTC, ISO 8601
    files: tuple[ManifestFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Over paths, sizes and sums: equal when and only when the files are."""
        lines = "".join(f"{file.sha256} {file.bytes} {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def file(self, path: str) -> ManifestFile | None:
        """The file of this path."""
        return next((file for file in self.files if file.path == path), None)

    def with_files(self, more: Iterable[ManifestFile]) -> Manifest:
        """With further files; the newer of two of one path counts."""
        files = {file.path: file for file in self.files} | {file.path: file for file in more}
        return replace(self, files=tuple(files[path] for path in sorted(files)))


def text(manifest: Manifest) -> str:
    """The manifest as JSON."""
    return json.dumps(as_json(manifest), indent=1, sort_keys=True) + "\n"


def as_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain values."""
    files = [
        {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "blob": file.blob}
        for file in manifest.files
    ]
    return {
        "form": FORM,
        "source": manifest.source,
        "revision": manifest.revision,
        "licence": manifest.licence,
        "pulled": manifest.pulled,
        "files": files,
    }


def read(said: str | bytes) -> Manifest:
    """The manifest of a JSON text.

    Raises:
        BadManifest: it is none, or a path or a name in it leads elsewhere.
    """
    try:
        return of_json(json.loads(said))
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"no manifest: {error}") from None


def of_json(value: Any) -> Manifest:
    """As `read`, of plain values."""
    try:
        if value["form"] != FORM:
            raise BadManifest(f"the form is {str(value['form'])[:40]!r}, and {FORM!r} is understood here")
        files = tuple(
            ManifestFile(str(one["path"]), int(one["bytes"]), str(one["sha256"]), str(one["blob"]))
            for one in value["files"]
        )
        manifest = Manifest(
            str(value["source"]), str(value["revision"]), str(value["licence"]), str(value["pulled"]), files
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadManifest):
            raise
        raise BadManifest(f"no manifest: {type(error).__name__} {error}") from None
    _check(manifest)
    return replace(manifest, files=tuple(sorted(files, key=lambda file: file.path)))


def _check(manifest: Manifest) -> None:
    if not safe(manifest.revision) or "/" in manifest.revision:
        raise BadManifest("the revision is no name")
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        raise BadManifest("a file is named twice")
    for file in manifest.files:
        if not safe(file.path):
            raise BadManifest(f"the path {file.path[:80]!r} leads out of the folder")
        if not _hex(file.sha256, 64) or not (_hex(file.blob, 64) or _hex(file.blob, 40)) or file.bytes < 0:
            raise BadManifest(f"{file.path}: size or sum is none")


def _hex(word: str, length: int) -> bool:
    return len(word) == length and not set(word) - set("0123456789abcdef")


# The lock.


@dataclass(frozen=True, slots=True)
class Lock:
    """The revisions that a service wants, by `Address.key`."""

    pins: Mapping[str, Manifest]

    def revision(self, key: str) -> str:
        """The pinned revision; empty when there is none."""
        return self.pins[key].revision if key in self.pins else ""

    def pinned(self, manifest: Manifest) -> Lock:
        """With this manifest in place of what was pinned for its source."""
        return Lock({**self.pins, manifest.source: manifest})

    def without(self, key: str) -> Lock:
        """Without what was pinned for a source."""
        return Lock({name: pin for name, pin in self.pins.items() if name != key})

    def contradiction(self, key: str, path: str, sha256: str, size: int) -> str:
        """How a file differs from the pinned one, as a clause; empty: it does not, or nothing is known of it."""
        pin = self.pins[key].file(path) if key in self.pins else None
        if pin is None or (pin.sha256, pin.bytes) == (sha256, size):
            return ""
        return f"{path} is {sha256[:12]}… of {size} bytes, and {LOCK_FILE} wants {pin.sha256[:12]}… of {pin.bytes}"


def lock_text(lock: Lock) -> str:
    """The lock as JSON."""
    pins = {key: as_json(pin) for key, pin in lock.pins.items()}
    return json.dumps({"form": LOCK_FORM, "models": pins}, indent=1, sort_keys=True) + "\n"


def read_lock(said: str) -> Lock:
    """The lock of a JSON text; an empty text is an empty lock.

    Raises:
        BadManifest: it is none.
    """
    if not said.strip():
        return Lock({})
    try:
        value = json.loads(said)
        if value["form"] != LOCK_FORM:
            raise BadManifest(
                f"the form is {str(value['form'])[:40]!r}, and {LOCK_FORM!r} is understood here"
            )
        return Lock({str(key): of_json(pin) for key, pin in value["models"].items()})
    except BadManifest:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadManifest(f"no lock: {type(error).__name__} {error}") from None
