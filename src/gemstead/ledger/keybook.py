"""Lookups of keys, for the request path: the whole table in memory, checked against a mapped counter each
time.

A lookup reads eight bytes of shared memory (`generation.py`); only when they moved is the file read again, so
a revocation holds at the next lookup of every worker. Once a second a lookup also asks the file itself:
whether it was replaced (a restore), and whether it changed without the counter (a process died between commit
and bump).

What was found is remembered by the SHA-256 of the secret, so that a second lookup needs no HMAC; only good
keys are remembered, so there are never more entries than keys, and expiry is asked at every lookup.

When the file or the counter cannot be read, the last good table goes on serving, `trouble` says why, and each
second it is tried again. A book belongs to one thread.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec

from gemstead.ledger import generation, keyform
from gemstead.ledger.database import LedgerTrouble, open_to_read, trouble
from gemstead.ledger.denials import NONE_DENIED, Denials, read_denials
from gemstead.ledger.key import Key, date
from gemstead.ledger.keytable import MIGRATIONS, check_pepper, hash_key, read_changes, read_rows
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

POLL_S = 1.0
_ADDRESSES_MOST = 1024  # of clients, remembered for one key

_HOW = "send `Authorization: Bearer <key>`, with a key from `gemstead keys create`"


_STALE = (
    "The service cannot tell whether this key still counts: its store of keys has been away too long. "
    "Try again soon."
)
_STALE_LOG = (
    "the store has been away longer than `ledger.stale_keys_after_s`, so no caller is let in until it is back"
)


class _Known:
    """One accepted key."""

    __slots__ = ("allowed", "caller", "hash", "key", "networks", "until", "used")

    def __init__(self, key: Key, key_hash: bytes) -> None:
        self.key = key
        self.hash = key_hash
        self.caller = key.caller()
        self.until = math.inf if key.expires is None else key.expires
        self.used = 0.0  # when last found, since `used()` was last asked
        self.networks = [ipaddress.ip_network(network) for network in key.networks]
        self.allowed: dict[str, bool] = {}  # clients' addresses, whether they are in one of these

    def lets_in(self, client: str) -> bool:
        """Whether the key may be used from this address."""
        if (allowed := self.allowed.get(client)) is None:
            if len(self.allowed) >= _ADDRESSES_MOST:
                self.allowed.clear()
            allowed = self.allowed[client] = _inside(client, self.networks)
        return allowed


class KeyBook:
    """The keys of one file, for one worker.

    Args:
        path: keys.db; it may not exist yet.
        pepper: the secret of key hashes.
        on_trouble: told once, in one sentence, when keys can no longer be read.

    `most_age_s` may be set at any time: of a copy of a store's keys, how long it counts since it was last known to be
    the same as the store's (`store.json` beside it); 0: for ever. Beyond that nobody is let in, whatever is shown.
    """

    def __init__(self, path: Path, pepper: bytes, *, on_trouble: Callable[[str], None] | None = None) -> None:
        self.trouble = ""
        self.denials: Denials = NONE_DENIED
        self.most_age_s = 0.0
        self._stale = False
        self._path = path
        self._pepper = pepper
        self._on_trouble = on_trouble
        self._keys: dict[str, _Known] = {}  # by public id
        self._found: dict[bytes, _Known] = {}  # by SHA-256 of the secret
        self._used: dict[str, float] = {}
        self._counter: memoryview | tuple[int] = (0,)
        self._seen = -1  # the counter when the table was read
        self._changes = -1  # the file's own count at that time
        self._polled = -math.inf
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # which file is open, which is mapped
        self._counter_file: tuple[int, int] | None = None

    def find(self, secret: bytes, now: float, client: str = "") -> Caller:
        """Who calls with this secret, from this address. `now` is wall time in Unix seconds.

        Raises:
            Refused: UNAUTHENTICATED, saying whether it is missing, mistyped, unknown, expired or revoked; FORBIDDEN,
            it may not be used from there.
        """
        if self._counter[0] != self._seen or not 0.0 <= now - self._polled < POLL_S:
            self._refresh(now)
        known = self._found.get(sha256(secret).digest())
        if known is None:
            known = self._look_up(secret)
        if now >= known.until:
            raise _no(_over(known.key))
        if known.networks and not known.lets_in(client):
            raise Refused(
                Reason.FORBIDDEN, f"The API key {known.key.key_id} may not be used from the address {client}."
            )
        known.used = now
        return known.caller

    def again(self, caller: Caller, now: float, client: str = "") -> Caller | None:
        """The caller that `find` gave for a secret, if `find` would give it again for the same one; else None."""
        if self._counter[0] != self._seen or not 0.0 <= now - self._polled < POLL_S:
            self._refresh(now)
        known = self._keys.get(caller.key_id)
        if known is None or known.caller is not caller or now >= known.until or known.networks:
            return None
        known.used = now
        return caller

    def denied(self, now: float) -> Denials:
        """What is refused although it is signed, as it stands now."""
        if self._counter[0] != self._seen or not 0.0 <= now - self._polled < POLL_S:
            self._refresh(now)
        if self._stale:
            raise Refused(Reason.LEDGER_UNAVAILABLE, _STALE, retry_after_s=5.0)
        return self.denials

    def check(self, key_id: str, now: float) -> None:
        """Whether a key that was found earlier still counts; one that is not in the book is not judged.

        Raises:
            Refused: UNAUTHENTICATED, it was revoked or has expired.
        """
        if self._counter[0] != self._seen or not 0.0 <= now - self._polled < POLL_S:
            self._refresh(now)
        if self._stale:
            raise Refused(Reason.LEDGER_UNAVAILABLE, _STALE, retry_after_s=5.0)
        known = self._keys.get(key_id)
        if known is None:
            return
        if known.key.revoked_at is not None:
            raise _no(f"the API key {key_id} was revoked on {date(known.key.revoked_at)}: ask for a new one")
        if now >= known.until:
            raise _no(_over(known.key))

    def used(self) -> dict[str, float]:
        """When each key was last found, for keys found since the last ask (for `KeyStore.touch`)."""
        self._gather_used()
        used, self._used = self._used, {}
        return used

    def __len__(self) -> int:
        return len(self._keys)

    def close(self) -> None:
        """Lets go of the files."""
        self._unmap()
        self._disconnect()

    def _look_up(self, secret: bytes) -> _Known:
        if not secret:
            raise _no(f"no API key was given: {_HOW}")
        if not keyform.looks_like_a_key(secret):
            raise _no(f"this is not a key of this service (those start with `{keyform.PREFIX}`): {_HOW}")
        if not keyform.is_well_formed(secret):
            raise _no("the API key is mistyped or cut short (its checksum is wrong): copy it again in full")
        digest = hash_key(secret, self._pepper)
        known = self._keys.get(keyform.key_id_of(secret.decode("ascii")))
        if not hmac.compare_digest(digest, known.hash if known else b"\0" * len(digest)) or known is None:
            if self._stale:
                raise Refused(Reason.LEDGER_UNAVAILABLE, _STALE, retry_after_s=5.0)
            if not self._keys and self.trouble:
                raise Refused(Reason.LEDGER_UNAVAILABLE, "the service cannot read its keys now: see its log")
            if not self._keys:
                raise _no("this service has no keys yet: make one with `gemstead keys create`")
            raise _no(f"this API key is not known here: check that it is for this service, or {_HOW}")
        if known.key.revoked_at is not None:
            when = date(known.key.revoked_at)
            raise _no(f"the API key {known.key.key_id} was revoked on {when}: ask for a new one")
        self._found[sha256(secret).digest()] = known
        return known

    def _refresh(self, now: float) -> None:
        """Bring the table up to date, or keep it and say why not."""
        self._polled = now
        words = self._follow_counter()
        self._seen = self._counter[0]  # before the read: a change during it is seen at the next lookup
        try:
            self._load()
        except (sqlite3.Error, OSError, ValueError, LedgerTrouble) as error:
            self._disconnect()
            words = str(trouble(self._path, error))
        self._stale = self.most_age_s > 0.0 and now - copied_at(self._path) > self.most_age_s
        if self._stale:  # no key is known: that costs calls nothing while all is well
            self._gather_used()
            self._keys, self._found, self._changes = {}, {}, -1
            words = _STALE_LOG
        if words and not self.trouble and self._on_trouble is not None:
            self._on_trouble(words)
        self.trouble = words

    def _load(self) -> None:
        """Read the table if it changed since, from a file opened anew if it was replaced since."""
        if (file := _identity(self._path)) != self._file:
            self._disconnect()
            self._file = file
        if self._connection is None:
            self._changes = -1
            self._connection = open_to_read(self._path, MIGRATIONS, timeout_s=0.2)
        if self._connection is None:
            if self._keys:
                raise LedgerTrouble(
                    f"{self._path} is gone, the keys read before still count: restore the file"
                )
            return
        if (changes := read_changes(self._connection)) != self._changes:
            check_pepper(self._connection, self._path, self._pepper)
            keys = {key.key_id: _Known(key, key_hash) for key, key_hash in read_rows(self._connection)}
            self._gather_used()
            self.denials = read_denials(self._connection)
            self._keys, self._found, self._changes = keys, {}, changes

    def _follow_counter(self) -> str:
        """Map the counter, again if it was replaced since. What is wrong with it, or ""."""
        path = generation.path_beside(self._path)
        if not path.parent.exists():
            return ""
        try:
            if (file := _identity(path)) is None or file != self._counter_file:
                self._unmap()
                self._counter = generation.watch(path)
                self._counter_file = _identity(path)
        except (OSError, ValueError) as error:
            return f"{trouble(path, error)}; until then a change of keys takes up to {POLL_S:.0f} s to hold"
        return ""

    def _gather_used(self) -> None:
        for key_id, known in self._keys.items():
            if known.used:
                self._used[key_id] = known.used
                known.used = 0.0

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unmap(self) -> None:
        if isinstance(self._counter, memoryview):
            self._counter.release()
        self._counter = (0,)


class _Copied(msgspec.Struct):
    at: float = 0.0


def copied_at(keys_db: Path) -> float:
    """When a copy of a store's keys was last known to be the same as the store's, Unix seconds; 0: never.

    Written by whoever keeps it in step (`ledger/postgres/pull.py`).
    """
    try:
        return msgspec.json.decode(keys_db.with_name("store.json").read_bytes(), type=_Copied).at
    except (OSError, msgspec.MsgspecError):
        return 0.0


def _inside(client: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _over(key: Key) -> str:
    until = date(key.expires or 0.0)
    if key.replaced_by is not None:
        return f"the API key {key.key_id} was replaced and ended on {until}: use {key.replaced_by}"
    return f"the API key {key.key_id} expired on {until}: ask for a new one"


def _no(message: str) -> Refused:
    return Refused(Reason.UNAUTHENTICATED, message, code="invalid_api_key")
