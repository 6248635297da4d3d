"""The generations of the secret behind prompt hashes: `hash-keys.json` in the ledger's folder, for its owner only.

The first generation is the secret in `hash.key`. `rotate` adds one, for all tenants or for one; hashes that were made
before keep the id of the key that made them, so a prompt can still be looked for among them (`gemstead audit
hash-prompt`). `forget` destroys a retired generation: then nobody, we included, can ever tie its hashes to a text.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gemstead.ledger.audit import KEY_ID_FIRST, HashKey
from gemstead.ledger.database import LedgerTrouble, plainly
from gemstead.ledger.secrets import secret_at

_BYTES = 32


def path_beside(first: Path) -> Path:
    """Where the generations are kept, beside `hash.key`."""
    return first.with_name("hash-keys.json")


def hash_keys(first: Path) -> tuple[HashKey, ...]:
    """All generations, the latest last. `first`: the path of `hash.key`, made if missing.

    Raises:
        LedgerTrouble: they cannot be read.
    """
    path = path_beside(first)
    with plainly(path):
        if path.exists():
            return _read(path)
    return (HashKey(id=KEY_ID_FIRST, secret=secret_at(first).hex()),)


def rotate(first: Path, tenant: str = "") -> HashKey:
    """A new generation, for all tenants or for one. A service that runs takes it at its next reload."""
    with _changing(first) as keys:
        return added(keys, tenant)


def forget(first: Path, key_id: str) -> None:
    """Destroy a generation that is no longer used.

    Raises:
        LedgerTrouble: there is none of that id, or it is in use.
    """
    with _changing(first) as keys:
        removed(keys, key_id)


def added(keys: list[HashKey], tenant: str) -> HashKey:
    """The new generation, which is now the last of `keys`."""
    new = HashKey(id=_next(keys), secret=secrets.token_hex(_BYTES), tenant=tenant)
    keys.append(new)
    return new


def removed(keys: list[HashKey], key_id: str) -> HashKey:
    """The generation that is no longer among `keys`.

    Raises:
        LedgerTrouble: there is none of that id, or it is in use.
    """
    gone = next((key for key in keys if key.id == key_id), None)
    if gone is None:
        raise LedgerTrouble(f"there is no hash key {key_id}: there are {', '.join(key.id for key in keys)}")
    if [key for key in keys if key.tenant == gone.tenant][-1] == gone:
        raise LedgerTrouble(f"hash key {key_id} is in use: `gemstead audit rotate-hash-key` first")
    keys.remove(gone)
    return gone


def _next(keys: list[HashKey]) -> str:
    return str(max((int(key.id) for key in keys if key.id.isdigit()), default=0) + 1)


def _read(path: Path) -> tuple[HashKey, ...]:
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=tuple[HashKey, ...])
        if not any(key.tenant == "" for key in keys) or any(
            len(bytes.fromhex(key.secret)) != _BYTES for key in keys
        ):
            raise ValueError(path)
    except (ValueError, msgspec.MsgspecError):
        raise LedgerTrouble(f"{path} does not hold hash keys: restore it from a backup") from None
    return keys


@contextmanager
def _changing(first: Path) -> Iterator[list[HashKey]]:
    """The generations, written back whole or not at all; one process at a time."""
    path = path_beside(first)
    with plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(hash_keys(first))
            yield keys
            draft = path.with_suffix(f".{secrets.token_hex(4)}")
            handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(keys) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            os.close(lock)
