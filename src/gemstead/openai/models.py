"""The list of models, as OpenAI's clients read it. Anthropic's clients find what they need in it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Named(Protocol):
    """A model that callers can name (gateway.settings.Pool)."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def created(self) -> int: ...
    @property
    def owned_by(self) -> str: ...


class _Model(msgspec.Struct, gc=False):
    id: str
    object: str
    created: int  # Unix seconds
    owned_by: str
    type: str  # the one field that Anthropic's clients expect here
    display_name: str
    aliases: tuple[str, ...]


def listing(pools: Iterable[Named]) -> bytes:
    """The body of GET /v1/models."""
    models = [_model(pool) for pool in pools]
    ends = (
        {"first_id": models[0].id, "last_id": models[-1].id}
        if models
        else {"first_id": None, "last_id": None}
    )
    return msgspec.json.encode({"object": "list", "data": models, "has_more": False, **ends})


def one(pool: Named) -> bytes:
    """The body of GET /v1/models/{name}."""
    return msgspec.json.encode(_model(pool))


def _model(pool: Named) -> _Model:
    return _Model(pool.name, "model", pool.created, pool.owned_by, "model", pool.name, pool.aliases)
