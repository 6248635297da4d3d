"""Models carried to where there is no network: a folder or one tar, with a manifest before each model's files.

    <folder of the model>/<revision>/gemstead-manifest.json
    <folder of the model>/<revision>/<path> ...

The same model is the same tar, byte for byte, so an export that was broken off goes on where it was; each file's sum
is looked at while it is written. An import trusts nothing: a file is taken when its sum is the manifest's, what is
there already is passed over, and what came before a break is kept. A folder of this form can also be copied into a
bucket and is then a source with sums (`objects.py`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gemstead.catalog import manifest as manifests
from gemstead.catalog.addresses import Address, of_key, safe
from gemstead.catalog.manifest import Manifest, ManifestFile
from gemstead.catalog.sources import Want
from gemstead.operate.store import locks
from gemstead.operate.store.adopt import Progress
from gemstead.operate.store.keep import Held
from gemstead.operate.store.local import LocalSource
from gemstead.operate.store.objects import MANIFEST
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import Telling, room, take
from gemstead.operate.store.shelf import Shelf, sealed, stamp
from gemstead.operate.store.trouble import Passing, StoreTrouble, of_disk, size
from gemstead.operate.store.verify import sha256_of

BLOCK_BYTES = 4 << 20
MOST_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Member:
    name: str  # in the export
    size: int  # bytes
    path: Path | None  # where the content is; None: `text`
    text: bytes = b""
    sha256: str = ""


def export(models: Sequence[Held], to: Path, place: Place, progress: Progress) -> Path:
    """Write models to a folder, a `.tar`, a `.tar.zst`, or (`-`) to standard output; where it is.

    Raises:
        StoreTrouble: a file is damaged, the disk is full, or the target is something else.
    """
    members = [member for one in models for member in _members(one)]
    total = sum(member.size for member in members)
    try:
        if str(to) == "-":
            _tar(members, sys.stdout.buffer, 0, _counting(progress, "writing the export", total))
        elif to.name.endswith((".tar", ".tar.zst", ".tzst")):
            _to_file(members, to, place, _counting(progress, f"writing {to.name}", total))
        else:
            _to_folder(members, to, place, _counting(progress, f"writing {to.name}", total))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise of_disk(error, to.parent) or error from None
    return to


def bring(source: Path, place: Place, telling: Telling) -> list[Manifest]:
    """Take the models of an export: a folder, a tar, or (`-`) standard input.

    Raises:
        StoreTrouble: it ends early, is damaged, or is no export; what was right before is kept.
    """
    try:
        if str(source) == "-":
            return _from_tar(sys.stdin.buffer, "standard input", place, telling)
        if not source.exists():
            raise StoreTrouble("missing", f"there is no file or folder {source}")
        if source.is_dir():
            return _from_folder(source, place, telling)
        with _decompressed(source) as stream:
            return _from_tar(stream, source.name, place, telling)
    except OSError as error:
        raise of_disk(error, place.path) or error from None


def bring_as(source: Path, name: str, place: Place, telling: Telling) -> Manifest:
    """Take a folder or file that is no export, such as a fine-tune of one's own, under a name (`acme/gemma-support`).

    Raises:
        StoreTrouble: it cannot be read or kept.
    """
    want = Want(Address("hf", name))
    try:
        taken = take(
            want,
            LocalSource(Want(Address("file", str(source)))),
            place,
            lock=manifests.Lock({}),
            telling=telling,
        )
    except Passing as passing:
        raise passing.last or StoreTrouble("failed", str(passing)) from None
    except OSError as error:
        raise of_disk(error, place.path) or error from None
    return taken.manifest


# Out.


def _members(one: Held) -> Iterator[_Member]:
    if one.manifest is None:
        raise StoreTrouble(
            "failed", f"{one.name} was fetched by another program: `gemstead models verify {one.name}` first"
        )
    prefix = f"{one.shelf.name}/{one.revision}"
    said = manifests.as_json(one.manifest) | {
        "whole": one.shelf.is_whole(one.revision),
        "refs": list(one.refs),
    }
    text = (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()
    yield _Member(f"{prefix}/{MANIFEST}", len(text), None, text)
    for file in one.manifest.files:
        path = one.shelf.snapshot(one.revision) / file.path
        seen = stamp(path)
        if seen is None or seen[0] != file.bytes:
            raise StoreTrouble(
                "corrupt", f"{file.path} of {one.name} is missing or damaged: `gemstead models verify`"
            )
        yield _Member(f"{prefix}/{file.path}", file.bytes, path, sha256=file.sha256)


def _content(member: _Member) -> Iterator[bytes]:
    """The member's bytes.

    Raises:
        StoreTrouble: at the end, when they are not what the manifest says.
    """
    if member.path is None:
        yield member.text
        return
    digest = hashlib.sha256()
    with member.path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            digest.update(data)
            yield data
    if digest.hexdigest() != member.sha256:
        raise StoreTrouble(
            "corrupt",
            f"{member.name} is damaged in the store and was not exported; `gemstead models verify` says more",
        )


def _header(member: _Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size, info.mode = member.size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _tar(members: Sequence[_Member], out: Any, skip: int, came: Callable[[int], None]) -> None:
    """Write the members after the first `skip`, and the end."""
    for number, member in enumerate(members):
        if number < skip:
            came(member.size)
            continue
        out.write(_header(member))
        for data in _content(member):
            out.write(data)
            came(len(data))
        out.write(bytes(-member.size % 512))
    out.write(bytes(1024))
    out.flush()


def _to_file(members: Sequence[_Member], to: Path, place: Place, came: Callable[[int], None]) -> None:
    part = to.with_name(to.name + ".part")
    to.parent.mkdir(parents=True, exist_ok=True)
    if not to.name.endswith(".tar"):
        with part.open("wb") as raw, _compressed(raw) as out:
            _tar(members, out, 0, came)
    else:
        with part.open("r+b" if part.exists() else "w+b") as file:
            skip, at = _begun(members, file)
            total = sum(member.size for member in members)
            _room_at(to.parent, total - at, place)
            file.truncate(at)
            file.seek(at)
            _tar(members, file, skip, came)
            os.fsync(file.fileno())
    part.replace(to)


def _begun(members: Sequence[_Member], file: IO[bytes]) -> tuple[int, int]:
    """How many members an export that was broken off has whole, and where they end."""
    end, at = file.seek(0, io.SEEK_END), 0
    for number, member in enumerate(members):
        header = _header(member)
        after = at + len(header) + member.size + -member.size % 512
        file.seek(at)
        if after > end or file.read(len(header)) != header:
            return number, at
        at = after
    return len(members), at


def _to_folder(members: Sequence[_Member], to: Path, place: Place, came: Callable[[int], None]) -> None:
    if to.exists() and not to.is_dir():
        raise StoreTrouble("failed", f"{to} is a file; name a folder, or a file that ends in .tar")
    left = [member for member in members if not _is_there(to / member.name, member)]
    _room_at(to, sum(member.size for member in left), place)
    for member in members:
        if member not in left:
            came(member.size)
            continue
        path = to / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            for data in _content(member):
                file.write(data)
                came(len(data))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _is_there(path: Path, member: _Member) -> bool:
    seen = stamp(path)
    if seen is None or seen[0] != member.size:
        return False
    return path.read_bytes() == member.text if member.path is None else sha256_of(path) == member.sha256


def _room_at(folder: Path, need: int, place: Place) -> None:
    free = place.free(folder)
    if need > free:
        raise StoreTrouble("space", f"the export needs {size(need)} more, and {folder} has {size(free)} free")


# In.


class _Arriving:
    """One model that comes file by file."""

    def __init__(self, said: bytes, place: Place, telling: Telling) -> None:
        try:
            extra = json.loads(said)
            self.manifest = manifests.of_json(extra)
            self.address = of_key(self.manifest.source)
        except (ValueError, RecursionError) as error:
            raise StoreTrouble("corrupt", f"the export's {MANIFEST} is {error}") from None
        self.whole = extra.get("whole") is True
        refs = extra.get("refs")
        self.refs = (
            [ref for ref in refs if isinstance(ref, str) and safe(ref)] if isinstance(refs, list) else []
        )
        self.shelf, self.place, self.telling = Shelf.of(place.path, self.address), place, telling
        self.came: dict[str, ManifestFile] = {}
        self.done = 0
        self.telling.say(
            f"{self.manifest.source} at {self.manifest.revision[:12]}: {len(self.manifest.files)} files, "
            f"{size(self.manifest.bytes)}, licence {self.manifest.licence or 'not said'}"
        )
        left = [file for file in self.manifest.files if not self._have(file)]
        room(place, self.address, sum(file.bytes for file in left), 0)

    def _have(self, file: ManifestFile) -> bool:
        seen = stamp(self.shelf.blobs / file.blob)  # named by its sum when that was found right
        return seen is not None and seen[0] == file.bytes

    def take(self, path: str, read: Callable[[int], bytes]) -> None:
        """One file's content."""
        file = self.manifest.file(path)
        if file is None:
            raise StoreTrouble("corrupt", f"the export has a file that its manifest lacks: {path[:80]!r}")
        if not self._have(file):
            self._write(file, read)
        self.done += file.bytes
        self.came[path] = file
        self.telling.progress(f"reading {self.address.place}", self.done, self.manifest.bytes)

    def _write(self, file: ManifestFile, read: Callable[[int], bytes]) -> None:
        blob, digest, came = self.shelf.blobs / file.blob, hashlib.sha256(), 0
        part = blob.with_name(f"{file.blob}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.with_name(part.name + ".done").unlink(missing_ok=True)
        try:
            with part.open("wb") as out:
                while data := read(BLOCK_BYTES):
                    digest.update(data)
                    out.write(data)
                    came += len(data)
                    self.telling.progress(
                        f"reading {self.address.place}", self.done + came, self.manifest.bytes
                    )
                out.flush()
                os.fsync(out.fileno())
            if came < file.bytes:
                raise StoreTrouble(
                    "corrupt", f"the export ends within {file.path}; what came before it is kept"
                )
            if digest.hexdigest() != file.sha256:
                raise StoreTrouble(
                    "corrupt",
                    f"{file.path} of {self.address.key} is damaged in the export (SHA-256 {digest.hexdigest()[:12]}… "
                    f"instead of {file.sha256[:12]}…); export it again. What was right is kept",
                )
            part.replace(blob)
        finally:
            part.unlink(missing_ok=True)

    def end(self) -> Manifest:
        """Put everything in place, when everything is there."""
        lacking = [file.path for file in self.manifest.files if file.path not in self.came]
        if lacking:
            raise StoreTrouble(
                "corrupt",
                f"the export lacks {', '.join(lacking[:5])} of {self.address.key}; what came is kept, export it again",
            )
        shelf, revision = self.shelf, self.manifest.revision
        for file in self.manifest.files:
            shelf.link(revision, file.path, shelf.blobs / file.blob)
        before = shelf.manifest(revision)
        manifest = before.with_files(self.manifest.files) if before else self.manifest
        shelf.keep(manifest, sealed(shelf, manifest, list(self.manifest.files)))
        if self.whole:
            shelf.mark_whole(revision)
        for ref in self.refs:
            shelf.remember(ref, revision)
        return manifest


@contextmanager
def _arriving(said: bytes, place: Place, telling: Telling) -> Iterator[_Arriving]:
    model = _Arriving(said, place, telling)

    def wait(by: list[int]) -> None:
        telling.say(f"process {', '.join(map(str, by))} has {model.address.key} in hand; waiting for it")

    with locks.alone(model.shelf, "pull", wait, lambda: telling.progress("", 0, 0)):
        yield model


def _from_folder(folder: Path, place: Place, telling: Telling) -> list[Manifest]:
    found = sorted({*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*/*/{MANIFEST}")})
    if not found:
        raise StoreTrouble(
            "failed",
            f"{folder} is no export of ours (no {MANIFEST}). To take a model's folder as it is, give it a name: "
            f"`gemstead models import {folder} --as you/model`",
        )
    taken = []
    for path in found:
        with _arriving(path.read_bytes(), place, telling) as model:
            for file in model.manifest.files:
                source = path.parent / file.path
                if not source.is_file():
                    continue
                with source.open("rb") as stream:
                    model.take(file.path, stream.read)
            taken.append(model.end())
    return taken


def _from_tar(stream: Any, name: str, place: Place, telling: Telling) -> list[Manifest]:
    taken: list[Manifest] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            members = iter(tar)
            entry = next(members, None)
            while entry is not None:
                prefix, _, last = entry.name.rpartition("/")
                content = tar.extractfile(entry) if entry.isfile() else None
                if last != MANIFEST or content is None or entry.size > MOST_MANIFEST_BYTES:
                    raise StoreTrouble(
                        "failed", f"{name} is no export of ours: {entry.name[:80]!r} comes first"
                    )
                with _arriving(content.read(), place, telling) as model:
                    entry = next(members, None)
                    while (
                        entry is not None
                        and entry.name.startswith(f"{prefix}/")
                        and not _is_manifest(entry.name)
                    ):
                        content = tar.extractfile(entry) if entry.isfile() else None
                        if content is None:
                            raise StoreTrouble(
                                "corrupt", f"{name} has something that is no file: {entry.name[:80]!r}"
                            )
                        model.take(entry.name.removeprefix(f"{prefix}/"), content.read)
                        entry = next(members, None)
                    taken.append(model.end())
    except (tarfile.TarError, EOFError) as error:
        raise StoreTrouble(
            "corrupt", f"{name} ends early or is no tar ({error}); what came before is kept. Copy it again"
        ) from None
    if not taken:
        raise StoreTrouble("failed", f"{name} holds no model")
    return taken


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] == MANIFEST


# Zstandard, where it is wanted: weights hardly get smaller.


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise StoreTrouble(
            "failed",
            "a .zst needs pip install 'gemstead[zstd]'; weights hardly get smaller, a .tar does as well",
        ) from None
    return zstandard


@contextmanager
def _compressed(raw: IO[bytes]) -> Iterator[Any]:
    with _zstandard().ZstdCompressor(level=1, threads=-1).stream_writer(raw, closefd=False) as out:
        yield out


@contextmanager
def _decompressed(source: Path) -> Iterator[Any]:
    with source.open("rb") as raw:
        if raw.read(4) != b"\x28\xb5\x2f\xfd":
            raw.seek(0)
            yield raw
            return
        raw.seek(0)
        zstandard = _zstandard()
        try:
            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                yield stream
        except zstandard.ZstdError as error:
            raise StoreTrouble("corrupt", f"{source.name} is damaged ({error})") from None


def _counting(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    came = 0

    def count(more: int) -> None:
        nonlocal came
        came += more
        progress(what, came, total)

    return count
