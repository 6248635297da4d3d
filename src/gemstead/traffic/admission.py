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

While calls wait, those of tenants with more than their share of what runs (`heavy`, see `shares.py`) have less too: a
part of the places, and only engines that have next to nothing to read. So the calls of all others find room at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import UNBOUNDED, Endpoint
from gemstead.traffic.queue import Queue, Waiting
from gemstead.traffic.saturation import MOST_IN_FLIGHT

BACKLOG_S = (
    0.3  # at 3 times what 8 engines can do, others' p99 moved by a tenth (benchmarks/traffic/overload.py)
)
SHEDDABLE_SHARE: Final = 0.8  # of an endpoint's room that calls with a priority below zero may fill
# The same of tenants with too much. With less of it others feel them less, and less gets done: at three times what can
# be done, others' p99 was 1.8 s without this, 1.1 s at 0.8 and 0.24 s, 1.0 s at 0.8 and 0.1 s, 0.9 s at 0.7 and 0.
HEAVY_SHARE, HEAVY_BACKLOG_S = 0.8, 0.1


def room(endpoints: Sequence[Endpoint], now: float, priority: int = 0) -> int:
    """How many calls of this priority the endpoints together should be sent now."""
    total = 0
    for endpoint in endpoints:
        if endpoint.open_from <= now and endpoint.takes_calls:
            total += endpoint_room(endpoint, now, priority)
    return total


def next_one(queue: Queue, endpoints: Sequence[Endpoint], now: float, sharers: int = 1) -> Waiting | None:
    """The next call that there is room for, taken out of the queue; None where all have to wait on."""
    if not len(queue):
        return None
    priority, heavy = queue.priority, queue.next_is_heavy
    if has_room(endpoints, now, priority, sharers, heavy):
        return queue.take(now)[0]
    if heavy and queue.has_light and has_room(endpoints, now, priority, sharers):
        return queue.take(now, light=True)[0]
    return None


def has_room(
    endpoints: Sequence[Endpoint], now: float, priority: int = 0, sharers: int = 1, heavy: bool = False
) -> bool:
    """Whether any of them should be sent one more call of this priority now."""
    shut = True
    for endpoint in endpoints:
        if endpoint.open_from <= now:
            if endpoint_room(endpoint, now, priority, sharers, heavy) > 0:
                return True
            shut = False
    return shut  # where breakers shut out all, whoever is left is tried all the same


def endpoint_room(
    endpoint: Endpoint, now: float, priority: int = 0, sharers: int = 1, heavy: bool = False
) -> int:
    """How many calls of this priority one endpoint should be sent now.

    `sharers` send calls there, with us. `heavy`: of a tenant that has more than its share.
    """
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
    if heavy:
        most = max(1, int(most * HEAVY_SHARE))
        backlog_s, kv_share = HEAVY_BACKLOG_S, min(kv_share, HEAVY_SHARE)
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
