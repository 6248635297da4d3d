"""The key that signs checkpoints of the audit log: Ed25519, in a file beside the ledger and never in the database.

`audit.key` is the private key (PKCS #8 PEM, mode 0600), made the first time. `audit-keys/ID.pem` are public keys, also
of earlier private keys, so that old checkpoints stay verifiable; hand a copy to whoever verifies. A key's id is the
first 16 hex digits of the SHA-256 of its 32 raw bytes.

Everything that imports the cryptography library is in this file, inside functions.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.database import LedgerTrouble, plainly

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PublicKeys = dict[str, "Ed25519PublicKey"]


class Signer:
    """The private key at `path`, made the first time.

    Raises:
        LedgerTrouble: it cannot be read or made, or is no Ed25519 key.
    """

    def __init__(self, path: Path) -> None:
        with plainly(path):
            if not path.exists():
                _make(path)
            self._key = _private(path)
        public = self._key.public_key()
        self.key_id = key_id(public)
        self.public_pem = _pem(public)
        with plainly(path):
            _publish(folder_beside(path) / f"{self.key_id}.pem", self.public_pem)

    def sign(self, one: Checkpoint) -> Checkpoint:
        """The checkpoint with this key's id and signature."""
        named = msgspec.structs.replace(one, key_id=self.key_id)
        return msgspec.structs.replace(named, signature=self._key.sign(named.statement()).hex())


def folder_beside(path: Path) -> Path:
    """Where the public keys lie."""
    return path.with_name("audit-keys")


def renew(path: Path) -> Signer:
    """A new private key in the place of the old one, whose public key stays known.

    Raises:
        LedgerTrouble: it cannot be made.
    """
    Signer(path)  # its public key is published
    with plainly(path):
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        _make(draft)
        draft.replace(path)
    return Signer(path)


def public_keys(paths: Iterable[Path]) -> PublicKeys:
    """Public keys by their id.

    Raises:
        LedgerTrouble: a file holds none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = {}
    for path in paths:
        with plainly(path):
            pem = path.read_bytes()
        try:
            key = load_pem_public_key(pem)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise LedgerTrouble(f"{path} is no Ed25519 public key in PEM: `gemstead audit key` prints it")
        keys[key_id(key)] = key
    return keys


def known_keys(path: Path) -> PublicKeys:
    """The public keys that lie beside the private key at `path`."""
    folder = folder_beside(path)
    return public_keys(sorted(folder.glob("*.pem"))) if folder.is_dir() else {}


def holds(one: Checkpoint, keys: PublicKeys) -> bool | None:
    """Whether the signature is good; None when its key is not among these."""
    from cryptography.exceptions import InvalidSignature

    key = keys.get(one.key_id)
    if key is None:
        return None
    try:
        key.verify(bytes.fromhex(one.signature), one.statement())
    except (InvalidSignature, ValueError):
        return False
    return True


def publish(path: Path, private_pem: bytes) -> None:
    """Put the public key of an earlier private key where those of `path` lie.

    Raises:
        LedgerTrouble: it cannot be written, or is no Ed25519 key.
    """
    public = _loaded(private_pem, path).public_key()
    with plainly(path):
        _publish(folder_beside(path) / f"{key_id(public)}.pem", _pem(public))


def publish_public(path: Path, pem: str) -> None:
    """Put a public key where those of `path` lie.

    Raises:
        LedgerTrouble: it cannot be written, or is no Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(pem.encode())
    if not isinstance(key, Ed25519PublicKey):
        raise LedgerTrouble("this is no Ed25519 public key")
    with plainly(path):
        _publish(folder_beside(path) / f"{key_id(key)}.pem", pem)


def new_pem() -> bytes:
    """A new private key, as PKCS #8 PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the key's raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _pem(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private(path: Path) -> Ed25519PrivateKey:
    return _loaded(path.read_bytes(), path)


def _loaded(pem: bytes, path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerTrouble(f"{path} is no Ed25519 private key in PEM: restore it from a backup")
    return key


def _make(path: Path) -> None:
    """A new key, whole or not at all; of two processes that start together one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(new_pem())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _publish(path: Path, pem: str) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{secrets.token_hex(4)}")
    draft.write_text(pem, "ascii")
    draft.replace(path)
