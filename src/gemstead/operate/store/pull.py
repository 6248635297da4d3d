"""A model into the store, from wherever it is: the story, one stage a line in `pull`.

What is there and whole is never asked for again. Else, in order: what does the source have, does it agree with the
lock, is there room, are we alone, fetch, check, put in place. Nothing is in a snapshot before its sum was found right,
and there is no manifest before everything is; so a kill at any moment leaves something to go on with, and never
something that looks whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gemstead.catalog.addresses import Address
from gemstead.catalog.manifest import LOCK_FILE, Lock, Manifest, ManifestFile
from gemstead.catalog.sources import Want, chosen, redirect
from gemstead.operate.store import locks
from gemstead.operate.store.hub import HubSource
from gemstead.operate.store.local import LocalSource
from gemstead.operate.store.part import Part, begun
from gemstead.operate.store.place import Place
from gemstead.operate.store.shelf import PART, Shelf, sealed, stamp
from gemstead.operate.store.source import Found, Listing, Source, checked
from gemstead.operate.store.transfer import Bounds, Job, transfer
from gemstead.operate.store.trouble import ELSE, Passing, StoreTrouble, of_disk, size
from gemstead.operate.store.verify import damaged, git_sha1_of, held_to, sha256_of

Progress = Callable[[str, int, int], None]  # what, bytes done, bytes in all; what it raises ends the transfer


@dataclass(frozen=True, slots=True)
class Telling:
    """How a pull says what it does."""

    progress: Progress = lambda _what, _done, _total: None
    say: Callable[[str], None] = lambda _sentence: None


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is in the store."""

    address: Address  # where it came from, and at which revision it is
    path: Path  # the folder of its files
    manifest: Manifest
    fetched_bytes: int

    def file(self, path: str) -> Path:
        return self.path / path


def pull(
    want: Want,
    place: Place,
    *,
    lock: Lock | None = None,
    fresh: bool = True,
    telling: Telling | None = None,
) -> Pulled:
    """The model's files, fetched where they are not there yet. Blocks; call it in a thread.

    Args:
        want: what.
        place: the store.
        lock: revisions that are pinned.
        fresh: whether a branch or tag is looked up again; False takes what it meant last.
        telling: told what goes on; its `progress` may raise to end it.

    Raises:
        StoreTrouble: it cannot be had; the sentence says why and what to do.
        Refused: the place has no such file, or several of which one has to be named.
    """
    telling, lock = telling or Telling(), lock or Lock({})
    address = redirect(want.address, place.rules)
    address = address.at(lock.revision(address.key) or address.revision)
    want = replace(want, address=address)
    shelf = Shelf.of(place.path, address)
    if found := _there(want, shelf, place, lock, fresh, telling):
        return found
    _allowed(want, place)
    try:
        source, listing = _listed(want, place)
        wanted = _agreed(want, listing, lock)
        telling.say(_heading(want, listing, wanted))
        with locks.alone(
            shelf, "pull", lambda by: telling.say(_waiting(want, by)), lambda: telling.progress("", 0, 0)
        ):
            now = replace(want, address=address.at(listing.revision))
            if found := _there(now, shelf, place, lock, False, telling):
                return found
            return _fetched(want, listing, wanted, source, shelf, place, telling)
    except Passing as passing:
        raise passing.last or StoreTrouble("failed", str(passing)) from None
    except OSError as error:
        raise of_disk(error, place.path) or error from None


def source_of(want: Want, place: Place) -> Source:
    """The source that an address means."""
    scheme = want.address.scheme
    if scheme in ("s3", "gs"):
        from gemstead.operate.store.objects import BucketSource

        return BucketSource(want, place)
    if scheme == "oci":
        from gemstead.operate.store.oci import RegistrySource

        return RegistrySource(want, place)
    return LocalSource(want) if scheme == "file" else HubSource(want, place)


def _there(
    want: Want, shelf: Shelf, place: Place, lock: Lock, fresh: bool, telling: Telling
) -> Pulled | None:
    """What is in the store already, and whole. None: something is to be fetched."""
    said = want.address.revision
    known = shelf.revision(said)
    if fresh and known != said and not (place.offline or place.hub.offline):
        return None  # a branch: the source is to be asked what it means now
    manifest, off = shelf.manifest(known), place.offline or place.hub.offline
    paths = tuple(file.path for file in want.files)
    if any(manifest is None or manifest.file(path) is None for path in paths):
        manifest = _adopted(want, shelf, known, manifest, telling)
    elif manifest is None and off:
        manifest = _adopted_whole(want, shelf, known, telling)
    if manifest is None or (want.include and not off) or not (paths or off or _is_whole(shelf, known)):
        return None
    if place.verify != "off":
        damage = damaged(shelf, manifest, whole=place.verify == "full", only=paths, look=telling.progress)
        if damage and off:
            held_to(damage, want.address.text)
        if damage:
            return None
    for file in manifest.files:
        if contradiction := lock.contradiction(want.address.key, file.path, file.sha256, file.bytes):
            raise StoreTrouble("corrupt", _unlike_lock(want, contradiction))
    return Pulled(want.address.at(known), shelf.snapshot(known), manifest, 0)


def _adopted(
    want: Want, shelf: Shelf, revision: str, before: Manifest | None, telling: Telling
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
        if _summed(path, known.path, seen[0], telling) != known.sha256:
            return None
        files.append(ManifestFile(known.path, seen[0], known.sha256, known.sha256))
    manifest = before or Manifest(want.address.key, revision, want.licence, _now(), ())
    return _kept(shelf, manifest.with_files(files), files)


def _adopted_whole(want: Want, shelf: Shelf, revision: str, telling: Telling) -> Manifest | None:
    """A manifest for a snapshot of another program where nobody can be asked: as the hub's cache names a file's content
    by its sum, every file can be held to its own name."""
    files, root = [], shelf.snapshot(revision)
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        seen, blob, name = stamp(path), path.resolve().name, path.relative_to(root).as_posix()
        if seen is None:
            return None
        digest = _summed(path, name, seen[0], telling)
        if blob != digest and blob != git_sha1_of(path, seen[0]):
            return None
        files.append(ManifestFile(name, seen[0], digest, blob))
    if not files:
        return None
    manifest = Manifest(want.address.key, revision, want.licence, _now(), ()).with_files(files)
    return _kept(shelf, manifest, files)


def _kept(shelf: Shelf, manifest: Manifest, files: list[ManifestFile]) -> Manifest:
    try:
        shelf.keep(manifest, sealed(shelf, manifest, files))
    except OSError:
        pass  # a store that others share and we only read
    return manifest


def _summed(path: Path, name: str, whole: int, telling: Telling) -> str:
    return sha256_of(path, lambda done: telling.progress(name, done, whole))


def _is_whole(shelf: Shelf, revision: str) -> bool:
    """Whether everything that belongs to the model was fetched, and not only single files of it."""
    return (shelf.path / "gemstead" / f"{revision}.whole").exists()


def _allowed(want: Want, place: Place) -> None:
    if place.offline or (want.address.scheme == "hf" and place.hub.offline):
        what = want.address.place + (f"/{want.files[0].path}" if want.files else "")
        raise StoreTrouble("offline", f"{what} is not in {place.path} and fetching is switched off{ELSE}")


def _listed(want: Want, place: Place) -> tuple[Source, Listing]:
    if want.address.scheme == "hf" and want.files and all(file.bytes for file in want.files):
        _room(place, want.address, sum(file.bytes for file in want.files), _begun(want, place))
    source = source_of(want, place)
    return source, checked(source.listing(), want.address.text)


def _agreed(want: Want, listing: Listing, lock: Lock) -> tuple[Found, ...]:
    """The files to fetch, none of which contradicts the lock or what was known."""
    names = chosen([file.path for file in listing.files], want)
    by_path = {file.path: file for file in listing.files}
    known = {file.path: file for file in want.files}
    pin = lock.pins.get(want.address.key)
    if pin and pin.revision != listing.revision:
        raise StoreTrouble("corrupt", _unlike_lock(want, f"it has revision {listing.revision[:12]}"))
    wanted = []
    for path in names:
        file = by_path[path]
        expected = (pin.file(path) if pin else None) or known.get(path)
        if expected and expected.sha256:
            other = file.sha256 and file.sha256 != expected.sha256
            if other or (expected.bytes and file.bytes != expected.bytes):
                clause = f"{path} has SHA-256 {file.sha256[:12]}… and {file.bytes} bytes"
                raise StoreTrouble(
                    "corrupt", _unlike_lock(want, clause) if pin else _unlike_catalogue(want, clause)
                )
            file = replace(file, sha256=expected.sha256)
        wanted.append(file)
    return tuple(wanted)


def _fetched(
    want: Want,
    listing: Listing,
    wanted: Sequence[Found],
    source: Source,
    shelf: Shelf,
    place: Place,
    telling: Telling,
) -> Pulled:
    total = sum(file.bytes for file in wanted)
    done: dict[str, ManifestFile] = {}
    parts = {file.path: Part(shelf.blobs / f"{_part_name(file)}{PART}", file.bytes) for file in wanted}
    present = {file.path: _present(file, shelf, listing.revision, telling) for file in wanted}
    for file in wanted:
        if found := present[file.path]:
            done[file.path] = found
    left = [file for file in wanted if file.path not in done]
    _room(
        place, want.address, sum(f.bytes for f in left), sum(begun(parts[f.path].path, f.bytes) for f in left)
    )
    have = sum(done[path].bytes for path in done)

    def job(file: Found) -> Job:
        def finish() -> None:
            done[file.path] = _placed(file, parts[file.path], shelf, listing.revision, want)

        return Job(file.path, parts[file.path], lambda begin, end: source.read(file, begin, end), finish)

    title = wanted[0].path if len(wanted) == 1 else want.address.place
    bounds = Bounds(place.concurrency, shelf.root, place.min_free_bytes, place.free)
    if left:
        transfer(
            [job(file) for file in left], bounds, lambda came: telling.progress(title, have + came, total)
        )
    manifest = Manifest(want.address.key, listing.revision, listing.licence or want.licence, _now(), ())
    if before := shelf.manifest(listing.revision):
        manifest = manifest.with_files(before.files)
    manifest = manifest.with_files(done.values())
    for path, placed in done.items():
        shelf.link(listing.revision, path, shelf.blobs / placed.blob)
    shelf.keep(manifest, sealed(shelf, manifest, list(done.values())))
    if not want.files and not want.include:
        (shelf.path / "gemstead" / f"{listing.revision}.whole").touch()
    shelf.remember(want.address.revision or "main", listing.revision)
    return Pulled(
        want.address.at(listing.revision),
        shelf.snapshot(listing.revision),
        manifest,
        sum(f.bytes for f in left),
    )


def _present(file: Found, shelf: Shelf, revision: str, telling: Telling) -> ManifestFile | None:
    """A file whose content is in the store already, of this revision or another, and right."""
    blobs = [shelf.blobs / name for name in (file.sha256, file.git_sha1) if name]
    before = shelf.manifest(revision)
    if not file.sha256 and before and (known := before.file(file.path)):
        blobs.append(shelf.blobs / known.blob)
    for blob in blobs:
        seen = stamp(blob)
        if seen is None or seen[0] != file.bytes:
            continue
        digest = _summed(blob, file.path, file.bytes, telling)
        right = digest == file.sha256 if file.sha256 else blob.name in (digest, git_sha1_of(blob, file.bytes))
        if right:
            return ManifestFile(file.path, file.bytes, digest, blob.name)
    return None


def _placed(file: Found, part: Part, shelf: Shelf, revision: str, want: Want) -> ManifestFile:
    """The file checked and moved to its blob."""
    digest = sha256_of(part.path) if part.size else sha256_of(_touched(part.path))
    problem = ""
    if file.sha256 and digest != file.sha256:
        problem = f"SHA-256 {digest[:12]}… instead of {file.sha256[:12]}…"
    elif file.git_sha1 and not file.sha256 and git_sha1_of(part.path, file.bytes) != file.git_sha1:
        problem = "its sum is not the hub's"
    if problem:
        part.discard()
        where = f"{want.address.place}/{file.path}"
        raise StoreTrouble(
            "corrupt", f"{where} came damaged ({problem}) and was deleted; run it again to fetch it anew"
        )
    blob = shelf.blobs / (file.git_sha1 if file.git_sha1 and not file.sha256 else digest)
    os.replace(part.path, blob)  # noqa: PTH105
    part.journal.unlink(missing_ok=True)
    return ManifestFile(file.path, file.bytes, digest, blob.name)


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _part_name(file: Found) -> str:
    return file.sha256 or file.git_sha1 or file.identity


def _begun(want: Want, place: Place) -> int:
    blobs = Shelf.of(place.path, want.address).blobs
    return sum(begun(blobs / f"{file.sha256}{PART}", file.bytes) for file in want.files if file.sha256) + sum(
        file.bytes for file in want.files if file.sha256 and (blobs / file.sha256).exists()
    )


def _room(place: Place, address: Address, total: int, have: int) -> None:
    need, free = total - have, place.free(place.path)
    if need > 0 and need + place.min_free_bytes > free:
        keep = (
            f", {size(place.min_free_bytes)} of which stay free (`store.min_free_gb`)"
            if place.min_free_bytes
            else ""
        )
        raise StoreTrouble(
            "space",
            f"{address.place} needs {size(need)} of disk and {place.path} has {size(free)} free{keep}; make room "
            "(`gemstead models list`, `gemstead models rm`), or set `store.path` or HF_HOME to another disk",
        )


def _heading(want: Want, listing: Listing, wanted: Sequence[Found]) -> str:
    licence = listing.licence or want.licence or "not said"
    count = f"{len(wanted)} files" if len(wanted) > 1 else wanted[0].path
    total = size(sum(file.bytes for file in wanted))
    return f"{want.address.key} at {listing.revision[:12]}: {count}, {total}, licence {licence}"


def _waiting(want: Want, by: list[int]) -> str:
    who = f"process {', '.join(map(str, by))}" if by else "another process"
    return f"{who} is fetching {want.address.key}; waiting for it"


def _unlike_lock(want: Want, clause: str) -> str:
    return (
        f"{want.address.key} is not what {LOCK_FILE} pins: {clause}. If the change is meant, pin it anew: "
        f"`gemstead models pin {want.address.key}`"
    )


def _unlike_catalogue(want: Want, clause: str) -> str:
    return f"{want.address.key} is not what the catalogue knows: {clause}. Nothing was fetched"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
