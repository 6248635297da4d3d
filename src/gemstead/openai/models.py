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
    @property
    def context_tokens(self) -> int: ...


class _Model(msgspec.Struct, gc=False, omit_defaults=True):
    id: str
    object: str
    created: int  # Unix seconds
    owned_by: str
    type: str  # the one field that Anthropic's clients expect here
    display_name: str
    aliases: tuple[str, ...]
    context_length: int | None = None  # longest prompt plus answer, in tokens; as OpenRouter names it
    max_model_len: int | None = None  # the same, as vLLM names it


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
    context = pool.context_tokens or None
    return _Model(
        pool.name, "model", pool.created, pool.owned_by, "model", pool.name, pool.aliases, context, context
    )
