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
from pathlib import Path

from gemstead.catalog.addresses import Address
from gemstead.catalog.manifest import LOCK_FILE, Lock, Manifest, ManifestFile
from gemstead.catalog.sources import Want, chosen, redirect
from gemstead.operate.store import locks
from gemstead.operate.store.adopt import Progress, adopted, adopted_whole, now_text, summed
from gemstead.operate.store.hub import HubSource
from gemstead.operate.store.local import LocalSource
from gemstead.operate.store.part import Part, begun
from gemstead.operate.store.place import Place
from gemstead.operate.store.shelf import PART, Shelf, sealed, stamp
from gemstead.operate.store.source import Found, Listing, Source, checked
from gemstead.operate.store.transfer import Bounds, Job, transfer
from gemstead.operate.store.trouble import ELSE, Passing, StoreTrouble, of_disk, size
from gemstead.operate.store.verify import damaged, git_sha1_of, held_to, sha256_of


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
        _room_for_known(want, place)
        return take(want, source_of(want, place), place, lock=lock, telling=telling)
    except Passing as passing:
        raise passing.last or StoreTrouble("failed", str(passing)) from None
    except OSError as error:
        raise of_disk(error, place.path) or error from None


def take(want: Want, source: Source, place: Place, *, lock: Lock, telling: Telling) -> Pulled:
    """What a source has, into the store under the address of `want`.

    Raises:
        StoreTrouble, Refused, Passing, OSError: as `pull`, some of them not yet in words.
    """
    listing = checked(source.listing(), want.address.text)
    wanted = _agreed(want, listing, lock)
    telling.say(_heading(want, listing, wanted))
    shelf = Shelf.of(place.path, want.address)
    with locks.alone(
        shelf, "pull", lambda by: telling.say(_waiting(want, by)), lambda: telling.progress("", 0, 0)
    ):
        now = replace(want, address=want.address.at(listing.revision))
        if found := _there(now, shelf, place, lock, False, telling):
            shelf.remember(want.address.revision or "main", listing.revision)
            return found
        return _fetched(want, listing, wanted, source, shelf, place, telling)


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
        manifest = adopted(want, shelf, known, manifest, telling.progress)
    elif manifest is None and off:
        manifest = adopted_whole(want.address.key, want.licence, shelf, known, telling.progress)
    if manifest is None or (want.include and not off) or not (paths or off or shelf.is_whole(known)):
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


def _allowed(want: Want, place: Place) -> None:
    if place.offline or (want.address.scheme == "hf" and place.hub.offline):
        what = want.address.place + (f"/{want.files[0].path}" if want.files else "")
        raise StoreTrouble("offline", f"{what} is not in {place.path} and fetching is switched off{ELSE}")


def _room_for_known(want: Want, place: Place) -> None:
    """Refuse before anything is asked where sizes are known beforehand."""
    if want.files and all(file.bytes for file in want.files):
        room(place, want.address, sum(file.bytes for file in want.files), _begun(want, place))


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
    had = {file.path: present(file, shelf, listing.revision, telling) for file in wanted}
    for file in wanted:
        if found := had[file.path]:
            done[file.path] = found
    left = [file for file in wanted if file.path not in done]
    room(
        place, want.address, sum(f.bytes for f in left), sum(begun(parts[f.path].path, f.bytes) for f in left)
    )
    have = sum(done[path].bytes for path in done)

    def job(file: Found) -> Job:
        def finish() -> None:
            done[file.path] = placed(file, parts[file.path], shelf, want.address)

        return Job(file.path, parts[file.path], lambda begin, end: source.read(file, begin, end), finish)

    title = wanted[0].path if len(wanted) == 1 else want.address.place
    bounds = Bounds(place.concurrency, shelf.root, place.min_free_bytes, place.free)
    if left:
        transfer(
            [job(file) for file in left], bounds, lambda came: telling.progress(title, have + came, total)
        )
    manifest = Manifest(want.address.key, listing.revision, listing.licence or want.licence, now_text(), ())
    if before := shelf.manifest(listing.revision):
        manifest = manifest.with_files(before.files)
    manifest = manifest.with_files(done.values())
    for path, kept in done.items():
        shelf.link(listing.revision, path, shelf.blobs / kept.blob)
    shelf.keep(manifest, sealed(shelf, manifest, list(done.values())))
    if not want.files and not want.include:
        shelf.mark_whole(listing.revision)
    shelf.remember(want.address.revision or "main", listing.revision)
    return Pulled(
        want.address.at(listing.revision),
        shelf.snapshot(listing.revision),
        manifest,
        sum(f.bytes for f in left),
    )


def present(file: Found, shelf: Shelf, revision: str, telling: Telling) -> ManifestFile | None:
    """A file whose content is in the store already, of this revision or another, and right."""
    blobs = [shelf.blobs / name for name in (file.sha256, file.git_sha1) if name]
    before = shelf.manifest(revision)
    if not file.sha256 and before and (known := before.file(file.path)):
        blobs.append(shelf.blobs / known.blob)
    for blob in blobs:
        seen = stamp(blob)
        if seen is None or seen[0] != file.bytes:
            continue
        digest = summed(blob, file.path, file.bytes, telling.progress)
        right = digest == file.sha256 if file.sha256 else blob.name in (digest, git_sha1_of(blob, file.bytes))
        if right:
            return ManifestFile(file.path, file.bytes, digest, blob.name)
    return None


def placed(file: Found, part: Part, shelf: Shelf, address: Address) -> ManifestFile:
    """The file checked and moved to its blob."""
    digest = sha256_of(part.path) if part.size else sha256_of(_touched(part.path))
    problem = ""
    if file.sha256 and digest != file.sha256:
        problem = f"SHA-256 {digest[:12]}… instead of {file.sha256[:12]}…"
    elif file.git_sha1 and not file.sha256 and git_sha1_of(part.path, file.bytes) != file.git_sha1:
        problem = "its sum is not the hub's"
    if problem:
        part.discard()
        where = f"{address.place}/{file.path}"
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


def room(place: Place, address: Address, total: int, have: int) -> None:
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
