"""How many more calls a pool should be sent now; the others wait in the queue (`queue.py`), where they can
still be ordered, be given to whoever is free first, and leave.

An engine that has all its slots taken, or enough prompts to read for `BACKLOG_S`, gains nothing from one more
call but a longer line that nobody can reorder. Below that it must not run dry: one that knows what is next
batches better. So an endpoint has room while

- its slots are not all taken, where their number is known;
- what stands before a new call is less than `BACKLOG_S` seconds of reading;
- its KV cache holds what is booked.

Metrics that are stale say that it is full as soon as anything of ours is there (`saturation.py`); an idle
endpoint is never full. Sheddable calls have less: a share is kept back for those that matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.saturation import MOST_IN_FLIGHT

BACKLOG_S = 1.0  # half of the usual aim of 2 s for a first token, the rest is the call's own prefill
SHEDDABLE_SHARE = 0.8  # of an endpoint's room that calls with a priority below zero may fill


def room(endpoints: Sequence[Endpoint], now: float, priority: int = 0) -> int:
    """How many calls of this priority the endpoints together should be sent now."""
    total = 0
    for endpoint in endpoints:
        if endpoint.open_from <= now and endpoint.takes_calls:
            total += endpoint_room(endpoint, now, priority)
    return total


def endpoint_room(endpoint: Endpoint, now: float, priority: int = 0) -> int:
    """How many calls of this priority one endpoint should be sent now."""
    calls = endpoint.in_flight + endpoint.calls_elsewhere
    if endpoint.wedged and calls:
        return 0
    most = endpoint.facts.slots or MOST_IN_FLIGHT
    backlog_s, kv_share = BACKLOG_S, 1.0
    if priority < 0:
        most = max(1, int(most * SHEDDABLE_SHARE))
        backlog_s, kv_share = BACKLOG_S * SHEDDABLE_SHARE, SHEDDABLE_SHARE
    if not endpoint.in_flight and calls < most:
        return max(1, most - calls) if not endpoint.calls_elsewhere else most - calls
    if calls >= most or endpoint.is_stale(now):
        return 0
    reading_s = (endpoint.prefill_tokens + endpoint.prefill_elsewhere) * endpoint.token_s
    if endpoint.waiting:
        reading_s -= min(now - endpoint.progress_at, endpoint.head_s)
    if reading_s >= backlog_s:
        return 0
    held = max(0.0, endpoint.kv_booked + endpoint.kv_elsewhere)
    if endpoint.facts.kv_tokens and held >= endpoint.facts.kv_tokens * kv_share:
        return 0
    return most - calls


def never_fits(call: Call, endpoints: Sequence[Endpoint]) -> int:
    """The longest context that any of the endpoints offers, if the prompt alone is longer than it; else 0.

    Only where all of them say what they offer. A prompt is estimated, so only what is beyond doubt is
    refused: twice it.
    """
    offered = [endpoint.facts.context_tokens for endpoint in endpoints]
    if not offered or not all(offered) or call.prompt_tokens < 2 * max(offered):
        return 0
    return max(offered)
