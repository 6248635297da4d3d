"""Who is calling, as far as decisions need to know."""

from __future__ import annotations

import msgspec


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How much one key may take. None: no limit. With several workers each enforces its share."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The identity behind a request."""

    key_id: str  # public identifier of the key; "" when keys are off
    tenant: str = "default"
    app: str = ""
    user: str = ""
    roles: tuple[str, ...] = ()
    priority: int = 0  # below zero may be shed
    models: frozenset[str] | None = None  # pools that may be called; None: all
    limit: RateLimit | None = None  # None: the gateway's default


ANYONE = Caller(key_id="", tenant="default", roles=("service",))
