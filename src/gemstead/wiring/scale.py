"""More or fewer replicas of a model than the file says, until the file says otherwise.

Replicas that run keep their shape (context, slots, threads): scaling adds and removes engines and changes none. The
planner then says whether they all fit. When the model's entry in the file changes, the file counts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemstead.plan.deploy import pool_name
from gemstead.plan.values import Replica
from gemstead.spec.model import ModelSpec, Spec
from gemstead.wiring.secrets import CannotRun
from gemstead.wiring.wanted import Wanted

MOST = 64


@dataclass(frozen=True, slots=True)
class Scaled:
    """A model's entry as it was when it was scaled, and as it is to count."""

    entry: ModelSpec
    instead: ModelSpec


def scaled(spec: Spec, pool: str, count: int, now: Wanted | None, before: Scaled | None = None) -> Scaled:
    """The model's entry with so many replicas, in the shape that its engines have now; else as it was `before`.

    Raises:
        CannotRun: somebody else runs it, or there are too many.
    """
    entry = next((model for model in spec.models if pool_name(model) == pool), None)
    if entry is None:
        raise CannotRun(f"the file has no model {pool}")
    if entry.endpoints:
        raise CannotRun("someone else runs its engines; add them to its `endpoints` in the file")
    if count > MOST:
        raise CannotRun(f"at most {MOST} replicas of a model run on one machine")
    changes: dict[str, Any] = {"replicas": count}
    for seat in now.seats if now else ():
        shape = seat.same[0] if isinstance(seat.same, tuple) else None
        if seat.pool == pool and isinstance(shape, Replica):
            changes |= {"context": shape.context_tokens, "slots": shape.slots}
            changes |= {"threads": shape.threads} if shape.threads > 0 else {}
            break
    instead = before.instead if before is not None and before.entry == entry else entry
    return Scaled(entry, instead.model_copy(update=changes))


def with_scales(spec: Spec, scales: Mapping[str, Scaled]) -> Spec:
    """The Spec with the scales that still hold."""
    instead = {pool: one.instead for pool, one in scales.items() if one.entry in spec.models}
    if not instead:
        return spec  # as it was read: a copy would say that somebody had chosen its models
    models = tuple(instead.get(pool_name(model), model) for model in spec.models)
    return spec.model_copy(update={"models": models})
