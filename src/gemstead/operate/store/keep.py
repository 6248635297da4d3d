"""What is in the store: told, looked at again, and removed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemstead.catalog import addresses, names, sources
from gemstead.catalog.manifest import Manifest
from gemstead.operate.store import locks
from gemstead.operate.store.adopt import Progress, adopted_whole
from gemstead.operate.store.place import Place
from gemstead.operate.store.shelf import Shelf, disk_bytes, shelves, source_of
from gemstead.operate.store.trouble import StoreTrouble, of_disk
from gemstead.operate.store.verify import Damage, damaged
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest


@dataclass(frozen=True, slots=True)
class Held:
    """One revision of one model in the store; no revision: only what a download left that did not end."""

    shelf: Shelf
    source: str  # an Address.key
    revision: str
    refs: tuple[str, ...]  # branches and tags that mean it
    manifest: Manifest | None  # None: another program fetched it
    bytes: int  # of its files
    unfinished_bytes: int  # of downloads that did not end, of whatever revision
    last_used: float | None  # seconds since 1970
    users: tuple[int, ...] | None  # processes that use it; None: nobody does

    @property
    def licence(self) -> str:
        return self.manifest.licence if self.manifest else sources.licence_of(addresses.of_key(self.source))

    @property
    def name(self) -> str:
        """As it can be typed."""
        return self.source.removeprefix("hf:") + (f"@{self.revision[:12]}" if self.revision else "")


def held(place: Place) -> list[Held]:
    """Everything in the store, by source."""
    found = [one for shelf in shelves(place.path) for one in _on(shelf)]
    return sorted(found, key=lambda one: (one.source, one.revision))


def matching(place: Place, name: str) -> list[Held]:
    """What a name means among what is in the store: a source, one revision of it (`@`), or a model of the catalogue.

    Raises:
        Refused: UNKNOWN_MODEL: nothing; with the nearest there is.
    """
    there = held(place)
    said, _, revision = name.strip().partition("@")
    key = addresses.parse(said).key if addresses.is_address(said) else said
    some = [one for one in there if key in (one.source, one.shelf.name)]
    if not some and not addresses.is_address(said):
        some = _of_catalogue(said, there)
    some = (
        [one for one in some if one.revision.startswith(revision) or revision in one.refs]
        if revision
        else some
    )
    if some:
        return some
    close = nearest(said[:200], [one.source.removeprefix("hf:") for one in there])
    hint = f" Did you mean `{close}`?" if close else " `gemstead models list` shows what is."
    raise Refused(
        Reason.UNKNOWN_MODEL,
        f"`{name[:120]}` is not in {place.path}.{hint}",
        param="model",
        code="model_not_found",
    )


def verified(one: Held, *, whole: bool, look: Progress) -> list[Damage]:
    """Every damaged file. Without a manifest files are held to the names that the hub's cache gave them."""
    manifest = one.manifest
    if manifest is None:
        manifest = adopted_whole(one.source, one.licence, one.shelf, one.revision, look)
        if manifest is None:
            return [Damage("(one or more files)", "are not what their names say; remove and pull it again")]
        return []
    return damaged(one.shelf, manifest, whole=whole, look=look)


def remove(some: Sequence[Held]) -> int:
    """Remove revisions, and what no other revision needs; the bytes of disk that came free.

    Raises:
        StoreTrouble: one is in use or being fetched; nothing of that model is removed.
    """
    freed = 0
    for shelf in dict.fromkeys(one.shelf for one in some):
        freed += _remove(shelf, {one.revision for one in some if one.shelf == shelf})
    return freed


def _remove(shelf: Shelf, revisions: set[str]) -> int:
    before = disk_bytes(shelf.path)
    try:
        descriptor = locks.removable(shelf)
    except StoreTrouble as trouble:
        raise StoreTrouble("used", f"{source_of(shelf)} is not removed: {trouble}") from None
    except OSError as error:
        raise of_disk(error, shelf.root) or error from None

    def busy(by: list[int]) -> None:
        who = f"process {', '.join(map(str, by))}" if by else "another process"
        raise StoreTrouble("used", f"{source_of(shelf)} is not removed: {who} is fetching it")

    try:
        with locks.alone(shelf, "pull", busy, lambda: None):
            if revisions >= set(shelf.revisions()):
                gone = shelf.root / f".removed-{secrets.token_hex(6)}"
                os.replace(shelf.path, gone)  # noqa: PTH105  at once: nobody sees half a model
                shutil.rmtree(gone, ignore_errors=True)
            else:
                for revision in revisions:
                    _remove_revision(shelf, revision)
                _sweep(shelf)
    except OSError as error:
        raise of_disk(error, shelf.root) or error from None
    finally:
        os.close(descriptor)
    return before - disk_bytes(shelf.path)


def _remove_revision(shelf: Shelf, revision: str) -> None:
    for ending in ("whole", "json", "seal"):
        (shelf.path / "gemstead" / f"{revision}.{ending}").unlink(missing_ok=True)
    for ref in _refs(shelf, revision):
        (shelf.path / "refs" / ref).unlink(missing_ok=True)
    shutil.rmtree(shelf.snapshot(revision), ignore_errors=True)


def _sweep(shelf: Shelf) -> None:
    """Remove contents that no snapshot leads to."""
    needed = {path.resolve().name for path in (shelf.path / "snapshots").rglob("*") if path.is_symlink()}
    for blob in shelf.blobs.iterdir():
        if blob.name not in needed:
            blob.unlink(missing_ok=True)


def _on(shelf: Shelf) -> list[Held]:
    source = source_of(shelf)
    users, used, parts = locks.users(shelf), locks.last_used(shelf), shelf.parts_bytes()
    by = None if users is None else tuple(users)
    found = []
    for revision in shelf.revisions():
        manifest, refs = shelf.manifest(revision), _refs(shelf, revision)
        size = manifest.bytes if manifest else _bytes(shelf.snapshot(revision))
        found.append(Held(shelf, source, revision, refs, manifest, size, parts, used, by))
    if not found and parts and source:
        found.append(Held(shelf, source, "", (), None, 0, parts, used, by))
    return found


def _refs(shelf: Shelf, revision: str) -> tuple[str, ...]:
    root = shelf.path / "refs"
    try:
        return tuple(
            sorted(
                path.relative_to(root).as_posix()
                for path in root.rglob("*")
                if path.is_file() and path.read_text("ascii").strip() == revision
            )
        )
    except (OSError, ValueError):
        return ()


def _bytes(snapshot: Path) -> int:
    return sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file())


def _of_catalogue(name: str, there: list[Held]) -> list[Held]:
    facts = names.find(name)
    return [one for one in there if sources.facts_of(addresses.of_key(one.source)) is facts]
