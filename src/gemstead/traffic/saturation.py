"""How full a pool is.

1.0 is full. Each endpoint is judged by the worst of three: what this gateway worker has in flight there, how
many requests the engine reports waiting, and how full its KV cache is. In-flight comes first, because it is
exact and fresh; metrics can only make the judgement stricter. An engine that never offered metrics is judged
by in-flight alone. One that did and has gone silent counts as full as soon as one of our calls is there: a
missing figure is never a silent zero, and an idle endpoint is not full.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.endpoint import KV_FULL, MOST_WAITING, Endpoint

MOST_IN_FLIGHT = 100  # of an endpoint whose slots are unknown: llm-d-router v0.10's concurrency detector
BATCHES_DEEP = 2  # a known number of slots is full with one batch running and as many waiting


def endpoint_level(endpoint: Endpoint, now: float) -> float:
    """How full one endpoint is; above 1.0 it is overfull."""
    slots = endpoint.facts.slots
    level = endpoint.in_flight / (slots * BATCHES_DEEP if slots else MOST_IN_FLIGHT)
    if (load := endpoint.load) is None:
        return level
    if endpoint.is_stale(now):
        return max(level, 1.0) if endpoint.in_flight else level
    return max(level, (load.waiting or 0) / MOST_WAITING, (load.kv_used or 0.0) / KV_FULL)


def saturation(endpoints: Sequence[Endpoint], now: float) -> float:
    """How full the endpoints together are, from 0; 1.0 and above only when every one of them is full.

    An endpoint that takes no calls (not ready, draining) does not count; a pool of none is full.
    """
    levels = [endpoint_level(endpoint, now) for endpoint in endpoints if endpoint.takes_calls]
    if not levels:
        return 1.0
    if min(levels) < 1.0:
        levels = [min(level, 1.0) for level in levels]
    return sum(levels) / len(levels)
