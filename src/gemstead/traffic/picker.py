"""Which endpoint of a pool takes this call, and the books that every choice is made from.

Each candidate gets a cost, counted in calls, and the cheapest wins:

    in flight + what the engine reports beyond that (`Endpoint.elsewhere`) + prefill on its way
    - prefill that a prefix hit saves, bounded by the load

`CALL_TOKENS` turns prefill into calls. There is no threshold below which a hit counts as nothing: saved work
is the benefit. There is a bound above which it stops counting: a hit is never worth more than `DETOUR_CALLS`
plus `DETOUR_SHARE` of the least load, so affinity does not pile everything on one replica, which then has
the prefix on two, and so on. Among the near-equal, chance decides; it is handed in.

Before that, endpoints are passed over in three steps. Not ready, draining or already tried by this call:
never. Breaker open: unless nothing else is left, because a pool whose every endpoint is shut out serves
nobody, and a call that is sent all the same may find out that the engine is back. Metrics stale or KV cache
full: unless all are.

Booking is synchronous with the pick, before dispatch: `charge`, then `first_token`, then `settle`, however
the call ends. A call knows what is booked for it, so each can be said twice, or left out, and the counters
stay exact.

Later the unit becomes seconds, with rates learned for each endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter

from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import CLOSED, Event, State, step
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import CALLS_PER_TOKEN, Endpoint
from gemstead.traffic.prefix import BLOCK_TOKENS, PrefixIndex
from gemstead.traffic.roster import Roster

# AIBrix's prefix router falls back to the least loaded at an imbalance of 8 requests, sglang's at a relative
# one of 1.5: a hit may cost so many calls more than the least loaded endpoint has, plus half of what it has.
DETOUR_CALLS = 8.0
DETOUR_SHARE = 0.5
NEAR_CALLS = 0.25  # costs so close to the best count as equal; half of what one block's hit saves
BLOCK_CALLS = BLOCK_TOKENS * CALLS_PER_TOKEN  # what one block's hit saves
RETRY_AFTER_S = 2.0  # an engine that restarts is asked for again soon; long starts are seen in /readyz


_BUSY, _NAME = attrgetter("busy"), attrgetter("name")


class Picker:
    """Picks endpoints and keeps their books. `choose(n)` returns a random number in range(n)."""

    def __init__(self, index: PrefixIndex, choose: Callable[[int], int]) -> None:
        self.index = index
        self._choose = choose
        self._now = -inf  # of the last pick, which a charge follows at once

    def pick(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT, when all are starting, draining or tried.
        """
        self._now = now
        call.hit_tokens = 0
        if len(endpoints) == 1:
            only = endpoints[0]
            if only.takes_calls and only.name not in call.tried:
                return only
            raise _nobody(call, endpoints)
        if type(endpoints) is Roster and not call.tried:
            able = endpoints.able if now < endpoints.good_until else endpoints.able_at(now)
        else:
            endpoints = [endpoint for endpoint in endpoints if endpoint.name not in call.tried]
            able = [endpoint for endpoint in endpoints if endpoint.open_from <= now < endpoint.well_until]
        if not able:
            able = _whoever_is_left(call, endpoints, now)
        if len(able) == 1:
            return able[0]
        return self._cheapest(call, able)

    def charge(self, endpoint: Endpoint, call: Call) -> None:
        """Book the call on the endpoint that was just picked for it, and remember the prompt there."""
        if call.charged_to is not None:  # moved on without being settled: no verdict
            self.settle(call.charged_to, call, None, self._now)
        call.charged_to = endpoint
        call.charged_tokens = tokens = max(call.prompt_tokens - call.hit_tokens, 0)
        endpoint.in_flight += 1
        endpoint.prefill_tokens += tokens
        endpoint.weigh()
        if call.prefix:
            self.index.insert(endpoint.name, call.prefix)
        if endpoint.breaker is not CLOSED:
            self._probe(endpoint, call)

    def first_token(self, endpoint: Endpoint, call: Call) -> None:
        """The endpoint has begun to answer: its prefill is done, and it is alive."""
        if call.charged_to is not endpoint:
            return
        endpoint.prefill_tokens -= call.charged_tokens
        call.charged_tokens = 0
        endpoint.weigh()
        if endpoint.breaker is not CLOSED:
            endpoint.breaker = step(endpoint.breaker, Event.ANSWERED, self._now)

    def settle(self, endpoint: Endpoint, call: Call, ok: bool | None, now: float) -> None:
        """Close the books of a call that has ended.

        `ok`: False for a 5xx, a refused or reset connection or a missed first token; True for anything that
        shows the engine at work, a 4xx too; None when nothing was learned, because the client left early.
        """
        if call.charged_to is not endpoint:
            return
        call.charged_to = None
        endpoint.in_flight -= 1
        endpoint.prefill_tokens -= call.charged_tokens
        call.charged_tokens = 0
        endpoint.weigh()
        if ok:
            endpoint.served += 1
            if endpoint.breaker is not CLOSED:
                endpoint.breaker = step(endpoint.breaker, Event.SUCCEEDED, now)
        else:
            _ended_badly(endpoint, call, ok, now)
        if endpoint.probe is call:
            endpoint.probe = None

    def forget(self, endpoint_name: str) -> None:
        """An endpoint is gone or has restarted: its cache is empty."""
        self.index.forget(endpoint_name)

    def _probe(self, endpoint: Endpoint, call: Call) -> None:
        if endpoint.breaker.state is State.CLOSED:
            return
        if endpoint.probe is None or endpoint.breaker.shut_until <= self._now:
            endpoint.breaker = step(endpoint.breaker, Event.TRY, self._now)
            endpoint.probe = call

    def _cheapest(self, call: Call, able: Sequence[Endpoint]) -> Endpoint:
        costs = list(map(_BUSY, able))
        hits = self.index.match(call.prefix, list(map(_NAME, able))) if call.prefix else None
        if hits and hits.count(hits[0]) != len(hits):  # what all have makes no difference
            saved_most = DETOUR_CALLS + DETOUR_SHARE * min(costs)
            for place, blocks in enumerate(hits):
                if blocks:
                    costs[place] -= min(blocks * BLOCK_CALLS, saved_most)
        best = min(costs) + NEAR_CALLS
        near = [place for place, cost in enumerate(costs) if cost <= best]
        place = near[0] if len(near) == 1 else near[self._choose(len(near))]
        if hits:
            call.hit_tokens = hits[place] * BLOCK_TOKENS
        return able[place]


def _whoever_is_left(call: Call, endpoints: Sequence[Endpoint], now: float) -> list[Endpoint]:
    """The vetoed, else those that a breaker shuts out."""
    able = [endpoint for endpoint in endpoints if endpoint.open_from <= now]
    if able := able or [endpoint for endpoint in endpoints if endpoint.takes_calls]:
        return able
    raise _nobody(call, endpoints)


def _ended_badly(endpoint: Endpoint, call: Call, ok: bool | None, now: float) -> None:
    probe = endpoint.probe is call
    if ok is None:
        if probe:
            endpoint.breaker = step(endpoint.breaker, Event.PROBE_LEFT, now)
        return
    endpoint.failures += 1
    endpoint.breaker = step(endpoint.breaker, Event.PROBE_FAILED if probe else Event.FAILED, now)


def _nobody(call: Call, endpoints: Sequence[Endpoint]) -> Refused:
    if call.tried:
        message = f"No other engine of {call.model} can take this call now; try again shortly."
    elif endpoints:
        message = f"{call.model} is starting or stopping and takes no calls yet; try again shortly."
    else:
        message = f"No engine serves {call.model} now; try again shortly."
    return Refused(Reason.NO_ENDPOINT, message, retry_after_s=RETRY_AFTER_S)
