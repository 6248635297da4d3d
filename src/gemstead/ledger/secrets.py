"""The two secrets of an installation: the pepper of key hashes and the key of prompt hashes.

Each is 32 random bytes in a file of mode 0600, written as hex, made once and never printed. Losing the pepper
makes every API key unknown; losing the hash key makes old and new prompt hashes incomparable. Back both up.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gemstead.ledger.database import LedgerTrouble, plainly

_BYTES = 32


def secret_at(path: Path) -> bytes:
    """The 32 bytes kept at `path`, made at random the first time, whoever comes first.

    Raises:
        LedgerTrouble: the file cannot be read or made, or holds something else.
    """
    with plainly(path):
        if not path.exists():
            _make(path)
        text = path.read_text("ascii", errors="replace").strip()
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != _BYTES:
        raise LedgerTrouble(f"{path} does not hold {_BYTES} bytes in hex: restore it from a backup")
    return secret


def _make(path: Path) -> None:
    # Written whole under another name, then linked: a reader never sees half a secret, and of two processes
    # that start together one wins and both read the winner's.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(handle, secrets.token_hex(_BYTES).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
