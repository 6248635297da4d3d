"""What the head tells the process beside the store, and what that process says."""

from __future__ import annotations

import msgspec


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    """Where everything is. A reload is a new one."""

    folder: str  # of the gateway's own files
    url: str
    secret: str
    node: str
    kept_s: float = 600.0  # how long a record stays in the spool after the store has it

    def __repr__(self) -> str:  # holds secrets
        return f"StoreSettings({self.folder} as {self.node})"


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """Bring what is still here into the store, for so long at most, and end."""

    within_s: float = 5.0


class StoreState(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """How it stands."""

    up: bool  # whether the store answers
    since: float  # Unix seconds: since when that is so
    keys_at: float  # when the keys here were last known to be the store's
    waiting: int  # audit records that the store does not have yet
    trouble: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """Something that the operator should hear."""

    sentence: str


class Renewed(msgspec.Struct, frozen=True, kw_only=True, tag="renewed"):
    """The keys of prompt hashes are others now: take them with a reload."""


ToProcess = StoreSettings | Finish
ToHead = StoreState | Told | Renewed
