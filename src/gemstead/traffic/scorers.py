"""Scorers: how much we would like each endpoint to take this call.

A scorer is a plain function. It sees the call and the candidates together, and returns one score
per candidate, in order, from 0 (worst) to 1 (best). It never filters, never remembers, never looks
at a clock: what it needs to know is in its arguments. A figure that an endpoint does not report scores as the
worst that is known of the others: missing is never a silent zero.

The picker's own cost (`picker.py`) does not use them: they are what weighted blends are made of, as other
routers do it, for comparison and for gateways that ask for scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint


def short_queue(call: Call, endpoints: Sequence[Endpoint]) -> list[float]:
    """Prefer the endpoint whose engine reports the fewest requests waiting. Equal queues all score 1."""
    return _fewest([endpoint.load.waiting if endpoint.load else None for endpoint in endpoints])


def least_in_flight(call: Call, endpoints: Sequence[Endpoint]) -> list[float]:
    """Prefer the endpoint with the fewest calls of this gateway worker. Equal counts all score 1."""
    return _fewest([endpoint.in_flight for endpoint in endpoints])


def prefix_hit(call: Call, endpoints: Sequence[Endpoint]) -> list[float]:
    """The share of the prompt's blocks that the endpoint has seen from the first on; 0 without a prefix."""
    hits, blocks = call.hits, len(call.prefix)
    if not hits or not blocks:
        return [0.0] * len(endpoints)
    return [hits.get(endpoint.name, 0) / blocks for endpoint in endpoints]


def kv_free(call: Call, endpoints: Sequence[Endpoint]) -> list[float]:
    """The free share of the KV cache; an endpoint that does not report it scores as the fullest that does."""
    used = [endpoint.load.kv_used if endpoint.load else None for endpoint in endpoints]
    worst = max((share for share in used if share is not None), default=0.0)
    return [1.0 - min(max(worst if share is None else share, 0.0), 1.0) for share in used]


Scorer = Callable[[Call, Sequence[Endpoint]], list[float]]

SCORERS: dict[str, Scorer] = {
    "short_queue": short_queue,
    "least_in_flight": least_in_flight,
    "prefix_hit": prefix_hit,
    "kv_free": kv_free,
}


def _fewest(counts: Sequence[int | None]) -> list[float]:
    known = [count for count in counts if count is not None]
    most, spread = max(known, default=0), max(known, default=0) - min(known, default=0)
    return [(most - (most if n is None else n)) / spread if spread else 1.0 for n in counts]
