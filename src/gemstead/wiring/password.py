"""The break-glass password: kept as argon2id, tried slowly, good for one emergency.

One file of mode 0600 beside the keys holds the hash, when it was set and when it was first used. `judge` decides what a
right password is good for: a password older than the file allows, or one first used longer ago than `AFTER_USE_S`,
opens nothing but its own change. Whoever can write the state folder can set a new one (`gemstead admin set-password`).

With a store that several gateways share the password is one for all: the same bytes lie there, sealed, and each gateway
has a copy. A new password needs the store; the present one opens every gateway also while the store is away.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from gemstead.ledger.database import LedgerTrouble

LEAST_LETTERS = 15  # NIST SP 800-63B-4, 3.1.1.2: of a password that is the only factor
MOST_LETTERS = 256
AFTER_USE_S = 12 * 3600.0
TRIES, TRIES_WITHIN_S = 5, 900.0
DAY_S = 86_400.0


class BadPassword(Exception):
    """This cannot be a password, or is not the one. A sentence for the user."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds. Times in Unix seconds."""

    hash: str
    set_at: float
    used_at: float | None = None  # first use


def judge(kept: Kept, now: float, most_s: float) -> bool:
    """Whether the right password opens the service; False: it must be changed first."""
    if now - kept.set_at >= most_s:
        return False
    return kept.used_at is None or now - kept.used_at < AFTER_USE_S


class SharedTries(Protocol):
    """The tries at all gateways of a store (`ledger/postgres/tries.py`).

    Raises:
        LedgerTrouble: (both) the store cannot be used.
    """

    def take(self, most: int, within_s: float, since: float) -> float:
        """Begin a try, which counts as wrong until `clear`: 0, or the seconds until there may be one."""

    def clear(self) -> None:
        """Forget all."""


class Tries:
    """How often it may be tried: `TRIES` failures within `TRIES_WITHIN_S`, whoever tries, and at whichever gateway.

    While a store is away each gateway goes by the tries at itself: an emergency may well be one of the store.
    """

    def __init__(self, shared: SharedTries | None = None) -> None:
        self._failed: deque[float] = deque()
        self._shared = shared

    def begin(self, now: float, since: float = 0.0) -> float:
        """Seconds until the next try is allowed; 0: it has begun. Waits for a store.

        Args:
            since: when the present password was set; earlier tries were of another.
        """
        while self._failed and self._failed[0] <= since:
            self._failed.popleft()
        if (wait_s := self.wait_s(now)) > 0 or self._shared is None:
            return wait_s
        try:
            return self._shared.take(TRIES, TRIES_WITHIN_S, since)
        except LedgerTrouble:
            return 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next try is allowed; 0: now."""
        while self._failed and not now - TRIES_WITHIN_S < self._failed[0] <= now:
            self._failed.popleft()
        return 0.0 if len(self._failed) < TRIES else self._failed[0] + TRIES_WITHIN_S - now

    def failed(self, now: float) -> None:
        self._failed.append(now)

    def right(self) -> None:
        """The password was right: all are forgotten. Waits for a store."""
        self._failed.clear()
        if self._shared is not None:
            try:
                self._shared.clear()
            except LedgerTrouble:
                pass  # they run out by themselves


class PasswordFile:
    """The file. Slow: call its methods away from an event loop.

    Args:
        share: gives what is kept to all other gateways, where there are any; raises LedgerTrouble when it cannot.
        tries: counts the tries at all of them.
    """

    def __init__(
        self,
        path: Path,
        share: Callable[[bytes], None] | None = None,
        tries: SharedTries | None = None,
    ) -> None:
        self.path, self._share, self.tries = path, share, tries

    def exists(self) -> bool:
        return self.path.exists()

    def set_at(self) -> float | None:
        """When the present one was set, in Unix seconds; None: there is none that can be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Kept).set_at
        except (OSError, msgspec.MsgspecError):
            return None

    def set(self, password: str, now: float) -> None:
        """Take a new password.

        Raises:
            BadPassword: it is too short, too long, or the present one.
            OSError: it cannot be written.
            LedgerTrouble: the other gateways cannot be told of it; nothing has changed.
        """
        from argon2 import PasswordHasher

        if not LEAST_LETTERS <= len(password) <= MOST_LETTERS:
            raise BadPassword(f"a password has {LEAST_LETTERS} to {MOST_LETTERS} characters")
        if self.exists() and self.matches(password) is not None:
            raise BadPassword("this is the present password: take another")
        kept = Kept(hash=PasswordHasher().hash(password), set_at=now)
        if self._share is not None:
            self._share(_text(kept))
        self._write(kept)

    def matches(self, password: str) -> Kept | None:
        """What is kept, if this is the password.

        Raises:
            BadPassword: none is set, or the file is damaged.
        """
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError

        try:
            kept = msgspec.json.decode(self.path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            raise BadPassword("no password is set: `gemstead admin set-password` sets one") from None
        try:
            PasswordHasher().verify(kept.hash, password[: MOST_LETTERS + 1])
        except (Argon2Error, InvalidHashError):
            return None
        return kept

    def used(self, kept: Kept, now: float) -> None:
        """Remember the first use."""
        if kept.used_at is None:
            kept = msgspec.structs.replace(kept, used_at=now)
            self._write(kept)
            if self._share is not None:
                try:
                    self._share(_text(kept))
                except LedgerTrouble:
                    pass  # an emergency may well be one of the store; this gateway remembers

    def _write(self, kept: Kept) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, _text(kept))
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.replace(self.path)


def _text(kept: Kept) -> bytes:
    return msgspec.json.encode(kept) + b"\n"
