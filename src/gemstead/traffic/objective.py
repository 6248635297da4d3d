"""How important a call is, and how soon it wants its answer.

A priority is an integer; more is more important, below zero may be shed. Three names stand for the usual ones, as in
the Gateway API Inference Extension's older `criticality`. Aims are what a model or a tenant has been promised: the
queue orders by them and gives up what can no longer meet them, and autoscaling holds them up against what is.
"""

from __future__ import annotations

from math import inf

import msgspec

PRIORITIES = {"critical": 1, "standard": 0, "sheddable": -1}


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; inf is no aim."""

    priority: int = 0
    ttft_s: float = inf  # from the request to the first token
    tpot_s: float = inf  # from one token to the next, on average


def priority_of(word: str | int) -> int:
    """The priority that a name or a number stands for.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(word, int):
        return word
    if (known := PRIORITIES.get(word.strip().casefold())) is not None:
        return known
    try:
        return int(word)
    except ValueError:
        names = ", ".join(PRIORITIES)
        raise ValueError(f"{word!r} is no priority: give a whole number or one of {names}") from None


def strictest(*objectives: Objective | None) -> Objective:
    """One objective for a call whose model, tenant and request each may have one.

    The highest priority that anybody gave, and the earliest of each aim.
    """
    given = [objective for objective in objectives if objective is not None]
    if not given:
        return Objective()
    return Objective(
        priority=max(objective.priority for objective in given),
        ttft_s=min(objective.ttft_s for objective in given),
        tpot_s=min(objective.tpot_s for objective in given),
    )
