"""How many more calls a pool should be sent now; the others wait in the queue (`queue.py`), where they can
still be ordered, be given to whoever is free first, and leave.

An engine that has as many calls as it gains from, or enough prompts to read for `BACKLOG_S`, gains nothing from one
more call but a longer line that nobody can reorder. Below that it must not run dry: one that knows what is next
batches better. So an endpoint has room while

- it has fewer calls than its knee (`Endpoint.knee`: its slots, or fewer where the plan foresees that more at once
  only make each slower); where that is unknown, than it had when it last said that calls wait in it;
- what stands before a new call is less than `BACKLOG_S` seconds of reading;
- its KV cache holds what is booked.

Others may send calls there too: further workers of this gateway, further gateways. Whoever asks may always fill its
part (`sharers`), so that nobody waits for ever behind somebody else's calls.

Sheddable calls have less: a share is kept back for those that matter, and metrics that are stale say that it is full
as soon as anything of ours is there (`saturation.py`). Other calls then go by our own books, which are exact: that a
head is silent for some seconds must not empty engines that are well. An idle endpoint is never full.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import UNBOUNDED, Endpoint
from gemstead.traffic.saturation import MOST_IN_FLIGHT

BACKLOG_S = (
    0.3  # at 3 times what 8 engines can do, others' p99 moved by a tenth (benchmarks/traffic/overload.py)
)
SHEDDABLE_SHARE = 0.8  # of an endpoint's room that calls with a priority below zero may fill


def room(endpoints: Sequence[Endpoint], now: float, priority: int = 0) -> int:
    """How many calls of this priority the endpoints together should be sent now."""
    total = 0
    for endpoint in endpoints:
        if endpoint.open_from <= now and endpoint.takes_calls:
            total += endpoint_room(endpoint, now, priority)
    return total


def has_room(endpoints: Sequence[Endpoint], now: float, priority: int = 0, sharers: int = 1) -> bool:
    """Whether any of them should be sent one more call of this priority now."""
    shut = True
    for endpoint in endpoints:
        if endpoint.open_from <= now:
            if endpoint_room(endpoint, now, priority, sharers) > 0:
                return True
            shut = False
    return shut  # where breakers shut out all, whoever is left is tried all the same


def endpoint_room(endpoint: Endpoint, now: float, priority: int = 0, sharers: int = 1) -> int:
    """How many calls of this priority one endpoint should be sent now. `sharers` send calls there, with us."""
    mine = endpoint.in_flight
    calls = mine + endpoint.calls_elsewhere
    if endpoint.wedged and calls:
        return 0
    most = endpoint.knee or endpoint.took or UNBOUNDED
    backlog_s, kv_share = BACKLOG_S, 1.0
    if priority < 0:
        if mine and endpoint.is_stale(now):
            return 0
        most = max(1, int(min(most, endpoint.knee or MOST_IN_FLIGHT) * SHEDDABLE_SHARE))
        backlog_s, kv_share = BACKLOG_S * SHEDDABLE_SHARE, SHEDDABLE_SHARE
    left = most - calls
    if left <= 0:
        left = min(most - mine, max(1, most // max(sharers, 2)) - mine)
    if left <= 0 or not mine:
        return max(left, 0)
    if endpoint.waiting and reading_s(endpoint, now) >= backlog_s:
        return 0
    held = max(0.0, endpoint.kv_booked + endpoint.kv_elsewhere)
    if endpoint.facts.kv_tokens and held >= endpoint.facts.kv_tokens * kv_share:
        return 0
    return left


def reading_s(endpoint: Endpoint, now: float) -> float:
    """What an engine has to read before a new call's prompt."""
    tokens = endpoint.prefill_tokens + endpoint.prefill_elsewhere
    return tokens * endpoint.token_s - min(now - endpoint.progress_at, endpoint.head_s)


def never_fits(call: Call, endpoints: Sequence[Endpoint]) -> int:
    """The longest context that any of the endpoints offers, if the prompt alone is longer than it; else 0.

    Only where all of them say what they offer. A prompt is estimated, so only what is beyond doubt is
    refused: twice it.
    """
    offered = [endpoint.facts.context_tokens for endpoint in endpoints]
    if not offered or not all(offered) or call.prompt_tokens < 2 * max(offered):
        return 0
    return max(offered)
