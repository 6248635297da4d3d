"""Who may call: the one door to keys.

A key is a row of rights and a keyed hash; the secret itself is shown once and kept nowhere. Two parties use
this:

- `KeyStore`, for whoever changes keys (`gemstead keys`, the console). Few methods, so that PostgreSQL can
  take SQLite's place; `open_keys` gives the one for a path.
- `KeyBook`, for whoever checks keys (each gateway worker): the whole table in memory, right within one lookup
  after any change.

The parts: `keyform` (what a key looks like), `key` (its rights and states), `keytable` (rows), `denials`
(tokens that are refused), `generation` (how workers learn of a change), `keybook` (lookups).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gemstead.ledger.denials import Denial
from gemstead.ledger.key import Grant, Key, Minted, State, UnknownKey
from gemstead.ledger.keybook import KeyBook
from gemstead.ledger.keytable import SqliteKeys

__all__ = ["Denial", "Grant", "Key", "KeyBook", "KeyStore", "Minted", "State", "UnknownKey", "open_keys"]


class KeyStore(Protocol):
    """What changes keys. Times are Unix seconds. Every method may raise LedgerTrouble, with what to do."""

    def create(self, grant: Grant, *, now: float) -> Minted: ...
    def first(self, grant: Grant, *, now: float) -> Minted | None: ...
    def list(self) -> list[Key]: ...
    def get(self, key_id: str) -> Key: ...
    def revoke(self, key_id: str, *, now: float) -> Key: ...
    def rotate(self, key_id: str, *, now: float, overlap_s: float) -> Minted: ...
    def deny(self, entry: Denial) -> None: ...
    def lift(self, issuer: str, kind: str, value: str) -> bool: ...
    def denied(self) -> tuple[Denial, ...]: ...
    def touch(self, used: Mapping[str, float]) -> None: ...


def open_keys(path: Path, pepper: bytes) -> KeyStore:
    """The keys kept at `path`; the file is made at the first use."""
    return SqliteKeys(path, pepper)
