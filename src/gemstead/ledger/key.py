"""A key without its secret: what it allows, and in which state it is. Values only.

    active ──rotate──> retiring ──(overlap over)──> expired
      │                    │
      └──(expiry)─> expired└──revoke──> revoked

A key may be revoked in any state, and stays revoked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gemstead.ledger.database import LedgerTrouble
from gemstead.traffic.caller import Caller, RateLimit

State = Literal["active", "retiring", "expired", "revoked"]

_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MOST_LETTERS = 128


class UnknownKey(LedgerTrouble):
    """There is no key with this id."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The rights that a new key shall have."""

    tenant: str = "default"
    app: str = ""
    user: str = ""
    roles: tuple[str, ...] = ("service",)
    priority: int = 0
    models: frozenset[str] | None = None  # None: all
    limit: RateLimit | None = None  # None: the gateway's default; RateLimit(): no limit
    note: str = ""
    expires: float | None = None  # Unix seconds
    networks: tuple[str, ...] = ()  # addresses that it may be used from, such as 10.0.0.0/8; (): any

    def check(self, now: float) -> None:
        """Refuses what no key may have.

        Raises:
            LedgerTrouble: a name is empty, too long or not plain; the expiry is past; a role or limit is not
            one.
        """
        if not self.tenant:
            raise LedgerTrouble("the tenant is empty: give it a name, such as `default`")
        for name in ("tenant", "app", "user", "note"):
            _check_words(name, getattr(self, name))
        for model in self.models or ():
            _check_words("model", model)
        for role in self.roles:
            if not _ROLE.fullmatch(role):
                raise LedgerTrouble(f"{role!r} is not a role: use lower-case letters, digits, `-` and `_`")
        for network in self.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise LedgerTrouble(f"{error}: write a network as 10.0.0.0/8 or 2001:db8::/32") from None
        if self.expires is not None and self.expires <= now:
            raise LedgerTrouble("the expiry is in the past: give a later one")
        if not -1_000_000 <= self.priority <= 1_000_000:
            raise LedgerTrouble(f"priority {self.priority} is out of range: use -1000000 to 1000000")
        limit = self.limit or RateLimit()
        for most in (limit.requests_per_minute, limit.tokens_per_minute, limit.concurrent):
            if most is not None and not 0 < most < 2**53:
                raise LedgerTrouble(f"a limit of {most} is out of range: use 1 or more, or leave it out")

    def key(self, key_id: str, last4: str, now: float) -> Key:
        """The key that has these rights from `now` on."""
        return Key(
            key_id=key_id,
            last4=last4,
            created=now,
            **{field: getattr(self, field) for field in Grant.__struct_fields__},
        )


def _check_words(name: str, words: str) -> None:
    if len(words) > _MOST_LETTERS or not all(letter.isprintable() for letter in words):
        raise LedgerTrouble(f"the {name} is too long or not plain text: use up to {_MOST_LETTERS} characters")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key. Times in Unix seconds. The order of the fields is that of the table's columns."""

    key_id: str
    last4: str
    tenant: str
    app: str
    user: str
    roles: tuple[str, ...]
    priority: int
    models: frozenset[str] | None
    limit: RateLimit | None
    note: str
    created: float
    expires: float | None
    revoked_at: float | None = None
    replaced_by: str | None = None
    last_used: float | None = None
    networks: tuple[str, ...] = ()

    def state(self, now: float) -> State:
        """In which state the key is; "active" and "retiring" are accepted."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires is not None and now >= self.expires:
            return "expired"
        return "active" if self.replaced_by is None else "retiring"

    def caller(self) -> Caller:
        """Who calls with this key."""
        return Caller(
            key_id=self.key_id,
            tenant=self.tenant,
            app=self.app,
            user=self.user,
            roles=self.roles,
            priority=self.priority,
            models=self.models,
            limit=self.limit,
        )

    def grant(self) -> Grant:
        """The rights of this key, to give another the same."""
        return Grant(**{field: getattr(self, field) for field in Grant.__struct_fields__})

    def check_may_rotate(self, now: float) -> None:
        """Only an active key has a successor.

        Raises:
            LedgerTrouble: the key is over, or has been rotated already.
        """
        state = self.state(now)
        if state == "active":
            return
        if self.replaced_by is not None and state != "revoked":
            raise LedgerTrouble(f"{self.key_id} was already replaced by {self.replaced_by}: rotate that one")
        raise LedgerTrouble(f"{self.key_id} is {state}: make a new key with `gemstead keys create`")


class Minted(msgspec.Struct, frozen=True, kw_only=True):
    """A new key with its secret, which is shown once and kept nowhere."""

    secret: str
    key: Key

    def __repr__(self) -> str:
        return f"Minted({self.key.key_id})"


def living_of(
    keys: Iterable[Key],
    now: float,
    *,
    tenant: str | None = None,
    user: str | None = None,
    app: str | None = None,
) -> list[Key]:
    """Those of the keys that are accepted now and fit all that is said."""
    return [
        key
        for key in keys
        if key.state(now) in ("active", "retiring")
        and tenant in (None, key.tenant)
        and user in (None, key.user)
        and app in (None, key.app)
    ]


def made_by(key_id: str) -> str:
    """The note of a key that somebody made for himself, by his identity such as `okta:00u1`."""
    return f"made by {key_id}"[:_MOST_LETTERS]


def is_made_by(note: str, issuer: str, subject: str) -> bool:
    """Whether a key's note says that this subject made it. `issuer`: "*" for any."""
    if issuer != "*":
        return note == made_by(f"{issuer}:{subject}")
    return note.startswith("made by ") and note.endswith(f":{subject}")


def date(when: float) -> str:
    """A time as people read it, in UTC, such as `2026-11-21 03:00:00Z`."""
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "never"
