"""What a worker is told of the issuers and certificates that it believes: plain values, from the Spec by `wiring`.

The signing keys themselves (`Signing`) come later and again and again: the head fetches them.
"""

from __future__ import annotations

import msgspec


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """JMESPath expressions over claims."""

    tenant: str = "'default'"
    user: str = "sub"
    app: str = "azp || client_id || ''"
    groups: str = "groups || `[]`"
    roles: str = ""
    models: str = ""


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """One whose tokens are believed."""

    name: str
    issuer: str  # exactly the `iss` of its tokens
    audience: tuple[str, ...]
    kind: str = "access"  # or "id", "service_account"
    strict: bool = False  # only RFC 9068 access tokens
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "ES384", "Ed25519", "EdDSA")
    leeway_s: float = 30.0
    refetch_s: float = 30.0  # least time between two fetches for keys that are not known
    claims: Claims = Claims()
    grants: tuple[tuple[str, str], ...] = ()  # group, role
    default_roles: tuple[str, ...] = ()
    jwks: str = ""  # keys at the start, where they are known already


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Client certificates that stand for a caller: expressions over their names."""

    name: str
    when: str
    claims: Claims
    roles: tuple[str, ...] = ("service",)


class Signing(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer's keys as the head last has them."""

    jwks: str = ""  # JSON; "": none could be fetched yet
    attempt: int = 0  # counts fetches, those that failed too


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call besides holders of an API key, and the roles of the file."""

    issuers: tuple[Issuer, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    roles: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}  # by name: what it extends, rights it adds


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose token or certificate was verified, and what the file made of it."""

    who: str  # issuer:subject, as calls are recorded
    kind: str  # "token" or "certificate"
    tenant: str
    user: str
    roles: tuple[str, ...]
    groups: tuple[str, ...] = ()  # of theirs, those that gave roles
