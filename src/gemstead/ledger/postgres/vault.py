"""The secrets that all gateways of a store need, kept in the store and sealed with one that is not.

The seal is AES-256-GCM under HMAC-SHA256(`ledger.secret`, a label); a value's name and number are part of its seal,
so none can be put in another's place. Whoever has only the database, or a dump of it, can neither guess at prompts from
their hashes nor sign a checkpoint.

- `pepper`: of key hashes; one, for good.
- `hash-keys`: the generations behind prompt hashes (`ledger/hashkeys.py`); one document, replaced as a whole.
- `signing`: private keys that sign checkpoints (`ledger/signing.py`); the last one signs, all verify.
- `known-keys`: public keys of those that signed before there was a store.
- `batch-files`: the key that seals files and answers of batches (`postgres/parts.py`); one, for good.
- `admin-password`: the hash of the break-glass password, with when it was set and first used (`wiring/password.py`).

`hand_out` writes them where a gateway's own code looks for them: beside its files, for their owner only.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gemstead.ledger import hashkeys
from gemstead.ledger.audit import KEY_ID_FIRST, HashKey
from gemstead.ledger.database import LedgerTrouble, plainly
from gemstead.ledger.postgres.link import Link
from gemstead.ledger.postgres.place import checked_secret
from gemstead.ledger.signing import Signer, key_id, new_pem, publish, publish_public

PEPPER, HASH_KEYS, SIGNING = "pepper", "hash-keys", "signing"
KNOWN, PASSWORD = "known-keys", "admin-password"
FILES = "batch-files"
_LABEL = b"gemstead store seal 1"
_NONCE_BYTES = 12
_BYTES = 32


class WrongSecret(LedgerTrouble):
    """The store was sealed with another secret."""


class Vault:
    """The sealed secrets of the store behind a link.

    Raises:
        LedgerTrouble: (every method) the store cannot be used, or was sealed with another secret.
    """

    def __init__(self, link: Link, secret: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._link = link
        self._seal = AESGCM(hmac.digest(checked_secret(secret).encode(), _LABEL, "sha256"))

    def pepper(self) -> bytes:
        """The pepper, made the first time."""
        return self._first(PEPPER, lambda: secrets.token_bytes(_BYTES))

    def hash_keys(self) -> tuple[HashKey, ...]:
        """The generations of the hash key, the latest last; the first is made the first time."""
        first = (HashKey(id=KEY_ID_FIRST, secret=secrets.token_hex(_BYTES)),)
        text = self._first(HASH_KEYS, lambda: msgspec.json.encode(first))
        return msgspec.json.decode(text, type=tuple[HashKey, ...])

    def change_hash_keys(self, change: Callable[[list[HashKey]], HashKey]) -> HashKey:
        """What `change` says, once its change is in the store."""
        self.hash_keys()
        with self._link.transaction():
            number, value = self._link.row(
                "SELECT number, value FROM gemstead_sealed WHERE name = $1 FOR UPDATE", HASH_KEYS
            ) or (0, b"")
            keys = list(msgspec.json.decode(self._opened(HASH_KEYS, number, value), type=tuple[HashKey, ...]))
            said = change(keys)
            self._link.do("DELETE FROM gemstead_sealed WHERE name = $1", HASH_KEYS)
            self._insert(HASH_KEYS, number + 1, msgspec.json.encode(keys))
            announce(self._link)
        return said

    def signing(self) -> list[bytes]:
        """The private keys that ever signed, as PEM, the present one last; one is made the first time."""
        self._first(SIGNING, new_pem)
        return [value for _, value in self._all(SIGNING)]

    def renew_signing(self) -> None:
        """Another key signs from now on."""
        number = len(self.signing()) + 1
        with self._link.transaction():
            self._insert(SIGNING, number, new_pem())
            announce(self._link)

    def files_key(self) -> bytes:
        """The key of files and answers of batches, made the first time."""
        return self._first(FILES, lambda: secrets.token_bytes(_BYTES))

    def known_keys(self) -> list[str]:
        """Public keys, as PEM, that only verify."""
        found = self._all(KNOWN)
        return msgspec.json.decode(found[-1][1], type=list[str]) if found else []

    def password(self) -> bytes | None:
        """What is kept of the break-glass password; None: none is set."""
        found = self._all(PASSWORD)
        return found[-1][1] if found else None

    def set_password(self, value: bytes) -> None:
        """Keep this of the break-glass password, for every gateway."""
        with self._link.transaction():
            self._link.do("LOCK TABLE gemstead_sealed IN EXCLUSIVE MODE")
            number = max((number for number, _ in self._all(PASSWORD)), default=0)
            self._link.do("DELETE FROM gemstead_sealed WHERE name = $1", PASSWORD)
            self._insert(PASSWORD, number + 1, value)
            announce(self._link)

    def reseal(self, secret: str) -> int:
        """Seal everything under another secret, or nothing; how many values.

        Raises:
            WrongSecret: they are not sealed under the present one. It says so if they are under the new one already.
        """
        new = Vault(self._link, secret)
        with self._link.transaction():
            self._link.do("LOCK TABLE gemstead_sealed IN EXCLUSIVE MODE")
            names = [name for (name,) in self._link.rows("SELECT DISTINCT name FROM gemstead_sealed")]
            try:
                held = [(name, number, value) for name in names for number, value in self._all(name)]
            except WrongSecret:
                for name in names:
                    new._all(name)  # raises in its turn
                raise LedgerTrouble(
                    "the store is sealed under the new secret already: have `ledger.secret` lead to it, and reload"
                ) from None
            self._link.do("DELETE FROM gemstead_sealed")
            for name, number, value in held:
                new._insert(name, number, value)
            announce(self._link)
        return len(held)

    def take_over(
        self,
        pepper: bytes,
        hash_keys: tuple[HashKey, ...],
        signing: bytes,
        known: list[str],
        password: bytes | None,
    ) -> None:
        """Begin with secrets that a gateway had before there was a store.

        Raises:
            LedgerTrouble: the store has some of its own already.
        """
        given = {PEPPER: pepper, HASH_KEYS: msgspec.json.encode(hash_keys), SIGNING: signing}
        given[KNOWN] = msgspec.json.encode(known)
        if password is not None:
            given[PASSWORD] = password
        with self._link.transaction():
            self._link.do("LOCK TABLE gemstead_sealed IN EXCLUSIVE MODE")
            if self._link.value("SELECT count(*) FROM gemstead_sealed"):
                raise LedgerTrouble(
                    "the store has secrets of its own already: only an empty store can take others over"
                )
            for name, value in given.items():
                self._insert(name, 1, value)
            announce(self._link)

    def _first(self, name: str, made: Callable[[], bytes]) -> bytes:
        if not (found := self._all(name)):
            with self._link.transaction():  # of gateways that begin at once, the first one's counts
                self._link.do("LOCK TABLE gemstead_sealed IN EXCLUSIVE MODE")
                if not self._all(name):
                    self._insert(name, 1, made())
            found = self._all(name)
        return found[-1][1]

    def _all(self, name: str) -> list[tuple[int, bytes]]:
        rows = self._link.rows(
            "SELECT number, value FROM gemstead_sealed WHERE name = $1 ORDER BY number", name
        )
        return [(number, self._opened(name, number, value)) for number, value in rows]

    def _insert(self, name: str, number: int, value: bytes) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._seal.encrypt(nonce, value, _said(name, number))
        self._link.do(
            "INSERT INTO gemstead_sealed (name, number, at, value) VALUES ($1, $2, $3, $4)",
            name,
            number,
            time.time(),
            sealed,
        )

    def _opened(self, name: str, number: int, value: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._seal.decrypt(value[:_NONCE_BYTES], value[_NONCE_BYTES:], _said(name, number))
        except InvalidTag:
            raise WrongSecret(
                f"the store at {self._link.name} was sealed with another secret than `ledger.secret` leads to: "
                "give all gateways the same"
            ) from None


def announce(link: Link) -> None:
    """Within a transaction: have every gateway look at keys and secrets again once it is done."""
    link.do("UPDATE gemstead_changes SET n = n + 1")
    link.do("SELECT pg_notify('gemstead_keys', '')")


def hand_out(vault: Vault, folder: Path) -> bool:
    """Write the secrets into a gateway's folder; whether the keys of prompt hashes are others than before.

    Raises:
        LedgerTrouble: they cannot be read or written.
    """
    pepper, hash_keys, signing = vault.pepper(), vault.hash_keys(), vault.signing()
    with plainly(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / "pepper", pepper.hex().encode() + b"\n")
        changed = _write(hashkeys.path_beside(folder / "hash.key"), msgspec.json.encode(hash_keys) + b"\n")
        _write(folder / "audit.key", signing[-1])
        if (password := vault.password()) is not None:
            _write(folder / "admin.password", password)
    for pem in signing[:-1]:
        publish(folder / "audit.key", pem)
    for public in vault.known_keys():
        publish_public(folder / "audit.key", public)
    Signer(folder / "audit.key")
    return changed


def handed_out(folder: Path) -> bool:
    """Whether a gateway has all it needs to go on without the store."""
    names = ("pepper", "hash-keys.json", "audit.key", "keys.db")
    return all((folder / name).exists() for name in names)


def signers(vault: Vault) -> list[str]:
    """The ids of the keys that ever signed, the present one last."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    keys = [load_pem_private_key(pem, None) for pem in vault.signing()]
    return [key_id(key.public_key()) for key in keys if isinstance(key, Ed25519PrivateKey)]


def _said(name: str, number: int) -> bytes:
    return f"{name}\n{number}".encode()


def _write(path: Path, value: bytes) -> bool:
    """Whole or not at all, for the owner only; whether it was not so before."""
    if path.exists() and path.read_bytes() == value:
        return False
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return True
