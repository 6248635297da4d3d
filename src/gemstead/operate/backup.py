"""A copy of what a service must not lose, in one file; putting it back; and trying whether that would work (a drill).

What must not be lost: the ledger's SQLite files (keys, audit log, how far receivers are), the secrets without which
they are worth nothing (pepper, keys of prompt hashes, the log's signing key and its public keys), and the break-glass
password's hash. Not in it: files and results of batches, logs, models, and gemstead.yaml, which is yours.

Databases are copied with SQLite's own online backup, so each copy is whole while the service writes. The archive begins
with a manifest of sizes and sums, and nothing is taken out of it that is not in there. It holds secrets: mode 0600, and
sealed when there is a recipient or a passphrase (`operate/sealed.py`). A sealed one is opened into a folder that is
thrown away, for its owner only, and read from there.

What is written after a restore is of another chain (`ledger/acts.py`, `begin_chain`): it must not take the places of
records that were written after the backup, and that receivers may have.

A drill restores into a folder of its own, and looks: every sum, every database, the whole chain of the audit log with
its signatures, every secret. How long that took is what a restore takes; how old the backup is, is what would be lost.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from gemstead import __version__
from gemstead.ledger.acts import begin_chain
from gemstead.ledger.audittable import MIGRATIONS
from gemstead.ledger.database import LedgerTrouble, plainly, reading
from gemstead.ledger.hashkeys import hash_keys
from gemstead.ledger.keys import open_keys
from gemstead.ledger.proof import chains_of, verify
from gemstead.ledger.secrets import secret_at
from gemstead.ledger.signing import Signer, folder_beside, known_keys
from gemstead.operate.sealed import Locked, Sealing, SealTrouble, is_sealed
from gemstead.operate.sealed import opened as unsealing

MANIFEST = "manifest.json"
MANIFEST_MOST = 1 << 20
SECRETS = ("pepper", "hash.key", "hash-keys.json", "audit.key", "admin.password")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class LockedBackup(LedgerTrouble):
    """The key or passphrase of a sealed backup was not given, or another."""


class Piece(msgspec.Struct, frozen=True):
    """One file of a backup."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. Times in Unix seconds."""

    form: int = 1
    made: float
    gemstead: str
    chain: str = ""  # of the audit log
    last: int = 0  # its last record
    keys: int = 0
    files: dict[str, Piece]


class Drilled(msgspec.Struct, frozen=True, kw_only=True):
    """How a restore went. `trouble` is empty when all is there and right."""

    backup: str
    made: float
    age_s: float  # of the backup: what would be lost
    seconds: float  # that restoring and verifying took
    records: int
    keys: int
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seal:
    """For whom a backup is sealed, or what opens it. Nothing: it is not sealed."""

    recipients: tuple[X25519PublicKey, ...] = ()
    identities: tuple[X25519PrivateKey, ...] = ()
    passphrase: str = ""

    def __repr__(self) -> str:  # holds secrets
        return "Seal()"


OPEN = Seal()


def backup(ledger: Path, to: Path, now: float, seal: Seal = OPEN) -> Manifest:
    """Write a backup of the ledger's folder; a file that is there is not written over.

    Raises:
        LedgerTrouble: there is nothing to back up, or it cannot be read or written.
    """
    if not (ledger / "keys.db").exists() and not (ledger / "audit.db").exists():
        raise LedgerTrouble(f"there is no ledger in {ledger} yet: nothing to back up")
    with plainly(to), tempfile.TemporaryDirectory(prefix=".backup-", dir=to.absolute().parent) as name:
        folder = Path(name)
        for path in sorted(ledger.glob("*.db")):
            _copied(path, folder / path.name)
        for path in _secrets(ledger):
            target = folder / path.relative_to(ledger)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            target.write_bytes(path.read_bytes())
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        chain, last = _head(folder / "audit.db")
        manifest = Manifest(
            made=now,
            gemstead=__version__,
            chain=chain,
            last=last,
            keys=_keys(folder / "keys.db"),
            files={one: Piece((folder / one).stat().st_size, _sum(folder / one)) for one in names},
        )
        _pack(folder, manifest, to, seal)
    return manifest


def unpack(archive: Path, into: Path) -> Manifest:
    """Take a backup apart into an empty folder; what its manifest says.

    Raises:
        LedgerTrouble: it is no whole backup.
    """
    with plainly(archive), opened(archive) as (tar, manifest):
        left = dict(manifest.files)
        for member in tar:
            if member.offset == 0:  # the manifest
                continue
            piece = left.pop(member.name, None)
            source = tar.extractfile(member) if member.isreg() else None
            if piece is None or source is None or member.size != piece.bytes:
                raise LedgerTrouble(
                    f"{archive} is no whole backup: {member.name!r} is not as its manifest says"
                )
            target = into / member.name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                total = hashlib.sha256()
                while data := source.read(1 << 20):
                    total.update(data)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if total.hexdigest() != piece.sha256:
                raise LedgerTrouble(f"{archive} is damaged: the sum of {member.name} is another")
        if left:
            raise LedgerTrouble(f"{archive} is no whole backup: {', '.join(sorted(left))} is missing")
    return manifest


@contextmanager
def opened(archive: Path) -> Iterator[tuple[tarfile.TarFile, Manifest]]:
    """The archive behind its manifest.

    Raises:
        LedgerTrouble: it is no backup.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            first = tar.next()
            held = tar.extractfile(first) if first is not None and first.isreg() else None
            if first is None or held is None or first.name != MANIFEST or first.size > MANIFEST_MOST:
                raise LedgerTrouble(f"{archive} is no backup: `gemstead backup` writes them")
            manifest = msgspec.json.decode(held.read(), type=Manifest)
            if manifest.form != 1 or not all(_NAME.fullmatch(name) for name in manifest.files):
                raise LedgerTrouble(f"{archive} is a backup of a form that this Gemstead does not know")
            yield tar, manifest
    except (tarfile.TarError, msgspec.MsgspecError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise LedgerTrouble(f"{archive} is no whole backup: {error}") from None


def inspect(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a ledger that was unpacked; nothing: a service can go on with it."""
    wrong = []
    for path in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            try:
                [said] = connection.execute("PRAGMA integrity_check").fetchone()
            except sqlite3.Error as error:
                said = str(error)
        if said != "ok":
            wrong.append(f"{path.name}: {said}")
    for check in (_wrong_chain, _wrong_keys, _wrong_secrets):
        try:
            wrong += check(folder, manifest)
        except LedgerTrouble as trouble:
            wrong.append(str(trouble))
    return wrong


@contextmanager
def unsealed(archive: Path, seal: Seal) -> Iterator[Path]:
    """The backup as it was before it was sealed, if it was.

    Raises:
        LedgerTrouble: it was sealed for somebody else, or is damaged, or there is no room.
    """
    with plainly(archive), archive.open("rb") as file:
        sealed = is_sealed(file)
    if not sealed:
        yield archive
        return
    with tempfile.TemporaryDirectory(prefix="gemstead-opened-") as name:
        plain = Path(name) / archive.name
        handle = os.open(plain, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with plainly(plain), archive.open("rb") as file, os.fdopen(handle, "wb") as to:
            try:
                for piece in unsealing(file, seal.identities, seal.passphrase):
                    to.write(piece)
            except SealTrouble as trouble:
                kind = LockedBackup if isinstance(trouble, Locked) else LedgerTrouble
                raise kind(f"{archive} cannot be opened: {trouble}") from None
        yield plain


def drill(archive: Path, now: float, seal: Seal = OPEN) -> Drilled:
    """Restore a backup into a folder that is thrown away, and look whether a service could go on with it.

    Raises:
        LedgerTrouble: the file is not there, or sealed for somebody else, or there is no room to unpack it.
    """
    began = time.monotonic()
    with plainly(archive):
        size = archive.stat().st_size
    wrong: list[str] = []
    manifest = Manifest(made=archive.stat().st_mtime, gemstead="", files={})
    with tempfile.TemporaryDirectory(prefix="gemstead-drill-") as name:
        try:
            with unsealed(archive, seal) as plain:
                manifest = unpack(plain, Path(name))
            wrong = inspect(Path(name), manifest)
        except LockedBackup:  # tells nothing of the backup
            raise
        except LedgerTrouble as trouble:
            wrong = [str(trouble)]
    return Drilled(
        backup=f"{archive.name} ({size} bytes)",
        made=manifest.made,
        age_s=max(now - manifest.made, 0.0),
        seconds=time.monotonic() - began,
        records=manifest.last,
        keys=manifest.keys,
        trouble=tuple(wrong),
    )


def restore(archive: Path, ledger: Path, now: float, seal: Seal = OPEN) -> tuple[Drilled, Path | None]:
    """Put a backup in the place of the ledger, which no service may have open; also the folder of what was there.

    Raises:
        LedgerTrouble: the backup is not whole, or cannot be put there; then nothing has changed.
    """
    began = time.monotonic()
    with plainly(ledger):
        ledger.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = ledger / f".restore-{secrets.token_hex(4)}"
        draft.mkdir(mode=0o700)
    try:
        with unsealed(archive, seal) as plain:
            manifest = unpack(plain, draft)
        if wrong := inspect(draft, manifest):
            raise LedgerTrouble(f"{archive} is not restored, its ledger is not whole: {'; '.join(wrong)}")
        if manifest.chain:
            missing = _missing(ledger / "audit.db", draft / "audit.db")
            detail = {"backup": archive.name, "made": manifest.made, "missing": missing}
            begin_chain(draft / "audit.db", Signer(draft / "audit.key"), now, detail)
        with plainly(ledger):
            before = _set_aside(ledger, now)
            for path in sorted(draft.iterdir()):
                if not path.name.endswith(("-wal", "-shm")):
                    path.rename(ledger / path.name)
            (ledger / "keys.generation").unlink(missing_ok=True)  # workers count it anew
            _synced(ledger)
    finally:
        _removed(draft)
    done = Drilled(
        backup=archive.name,
        made=manifest.made,
        age_s=max(now - manifest.made, 0.0),
        seconds=time.monotonic() - began,
        records=manifest.last,
        keys=manifest.keys,
    )
    return done, before


# -- pieces -----------------------------------------------------------------------------------------------------


def _secrets(ledger: Path) -> list[Path]:
    found = [ledger / name for name in SECRETS if (ledger / name).is_file()]
    return found + sorted(folder_beside(ledger / "audit.key").glob("*.pem"))


def _copied(path: Path, to: Path) -> None:
    """A database as it is at one moment."""
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as source,
            closing(sqlite3.connect(to)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise LedgerTrouble(f"{path} cannot be copied: {error}") from None


def _pack(folder: Path, manifest: Manifest, to: Path, seal: Seal) -> None:
    """The archive, whole or not at all."""
    draft = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            sealing = _sealing(file, seal)
            into: Any = sealing or file
            with tarfile.open(fileobj=into, mode="w:gz") as tar:
                said = msgspec.json.format(msgspec.json.encode(manifest))
                head = tarfile.TarInfo(MANIFEST)
                head.size, head.mode, head.mtime = len(said), 0o600, int(manifest.made)
                tar.addfile(head, io.BytesIO(said))
                for name in manifest.files:
                    one = tarfile.TarInfo(name)
                    one.size, one.mode, one.mtime = manifest.files[name].bytes, 0o600, int(manifest.made)
                    with (folder / name).open("rb") as source:
                        tar.addfile(one, source)
            if sealing is not None:
                sealing.close()
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, to)
        except FileExistsError:
            raise LedgerTrouble(f"{to} is there already: give the backup another name") from None
    finally:
        draft.unlink()
    _synced(to.absolute().parent)


def _sealing(file: BinaryIO, seal: Seal) -> Sealing | None:
    if not seal.recipients and not seal.passphrase:
        return None
    return Sealing(file, seal.recipients, seal.passphrase)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _head(audit: Path) -> tuple[str, int]:
    """The chain's name and last place."""
    return _one(audit, "SELECT name, head_seq FROM chain") or ("", 0)


def _missing(present: Path, restored: Path) -> list[dict[str, Any]]:
    """Which records the present log has that the restored one lacks, as far as there is one and it can be read."""
    try:
        here, there = _chains(present), {name: head for name, _, head in _chains(restored)}
    except LedgerTrouble:
        return []
    begun = ((name, max(base, there.get(name, 0)) + 1, head) for name, base, head in here)
    return [{"chain": name, "from": first, "to": last} for name, first, last in begun if last >= first]


def _chains(audit: Path) -> list[tuple[str, int, int]]:
    """Name, first and last place of each chain, the present one last."""
    with reading(audit, MIGRATIONS) as connection:
        if connection is None:
            return []
        return [
            (one.name, one.base_seq, one.head_seq) for one in (each.ends() for each in chains_of(connection))
        ]


def _keys(path: Path) -> int:
    found = _one(path, "SELECT count(*) FROM keys")
    return int(found[0]) if found else 0


def _one(path: Path, query: str) -> tuple[str, int] | None:
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as connection:
            found: tuple[str, int] | None = connection.execute(query).fetchone()
            return found
    except sqlite3.Error as error:
        raise LedgerTrouble(f"{path.name} cannot be read: {error}") from None


def _wrong_chain(folder: Path, manifest: Manifest) -> list[str]:
    if not manifest.chain:
        return []
    found = verify(folder / "audit.db", known_keys(folder / "audit.key"))
    if found.fault is not None:
        return [f"the audit log is broken at record {found.fault.seq}: {found.fault.what}"]
    if (found.chain, found.last) != (manifest.chain, manifest.last):
        return [f"the audit log ends at record {found.last} of {found.chain}, not at {manifest.last}"]
    return []


def _wrong_keys(folder: Path, manifest: Manifest) -> list[str]:
    if not manifest.keys:
        return []
    if "pepper" not in manifest.files:
        return ["the pepper is missing: no API key would be known"]
    count = len(open_keys(folder / "keys.db", secret_at(folder / "pepper")).list())
    return [] if count == manifest.keys else [f"{count} API keys are there, not {manifest.keys}"]


def _wrong_secrets(folder: Path, manifest: Manifest) -> list[str]:
    for name in ("pepper", "hash.key"):
        if name in manifest.files:
            secret_at(folder / name)
    if "hash.key" in manifest.files or "hash-keys.json" in manifest.files:
        hash_keys(folder / "hash.key")
    if "audit.key" in manifest.files:
        Signer(folder / "audit.key")
    return []


def _set_aside(ledger: Path, now: float) -> Path | None:
    """Move a ledger that is there out of the way."""
    mine = [path for path in ledger.iterdir() if _is_ledgers(path)]
    if not mine:
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    before = ledger / f"before-restore-{stamp}-{secrets.token_hex(2)}"
    before.mkdir(mode=0o700)
    for path in mine:
        path.rename(before / path.name)
    return before


def _is_ledgers(path: Path) -> bool:
    name = path.name
    return name in (*SECRETS, "audit-keys") or name.endswith((".db", ".db-wal", ".db-shm"))


def _removed(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _synced(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
