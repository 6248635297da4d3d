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

from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import CLOSED, Event, State, step
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.prefix import BLOCK_TOKENS, PrefixIndex
from gemstead.traffic.saturation import KV_FULL

# So many tokens of prefill weigh as much as one more call in flight. Dynamo's KV router weighs a token to be
# prefilled like one of a running sequence (cost = prefill + decode blocks); 512 is a short chat's context.
CALL_TOKENS = 512
CALLS_PER_TOKEN = 1 / CALL_TOKENS
# AIBrix's prefix router falls back to the least loaded at an imbalance of 8 requests, sglang's at a relative
# one of 1.5: a hit may cost so many calls more than the least loaded endpoint has, plus half of what it has.
DETOUR_CALLS = 8.0
DETOUR_SHARE = 0.5
NEAR_CALLS = 0.25  # costs so close to the best count as equal; half of what one block's hit saves
RETRY_AFTER_S = 2.0  # an engine that restarts is asked for again soon; long starts are seen in /readyz


class Picker:
    """Picks endpoints and keeps their books. `choose(n)` returns a random number in range(n)."""

    def __init__(self, index: PrefixIndex, choose: Callable[[int], int]) -> None:
        self.index = index
        self._choose = choose

    def pick(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT, when all are starting, draining or tried.
        """
        tried = call.tried
        if len(endpoints) == 1:
            only = endpoints[0]
            facts = only.facts
            if facts.ready and not facts.draining and only.name not in tried:
                return only
            raise self._nobody(call, endpoints)
        able = [
            endpoint
            for endpoint in endpoints
            if endpoint.breaker.shut_until <= now
            and endpoint.facts.ready
            and not endpoint.facts.draining
            and endpoint.name not in tried
        ]
        if not able:
            able = self._whoever_is_left(call, endpoints)
        if len(able) == 1:
            return able[0]
        return self._cheapest(call, self._without_vetoed(able, now), now)

    def charge(self, endpoint: Endpoint, call: Call, now: float = 0.0) -> None:
        """Book the call on the endpoint it is about to be sent to, and remember the prompt there."""
        if call.charged_to is not None:  # moved on without being settled: no verdict
            self.settle(call.charged_to, call, None, now)
        hit_tokens = call.hits.get(endpoint.name, 0) * BLOCK_TOKENS if call.hits else 0
        call.charged_to = endpoint
        call.charged_tokens = tokens = max(call.prompt_tokens - hit_tokens, 0)
        endpoint.in_flight += 1
        endpoint.prefill_tokens += tokens
        if call.prefix:
            self.index.insert(endpoint.name, call.prefix)
        if endpoint.breaker.state is not State.CLOSED and endpoint.breaker.shut_until <= now:
            endpoint.breaker = step(endpoint.breaker, Event.TRY, now)
            endpoint.probe = call

    def first_token(self, endpoint: Endpoint, call: Call, now: float = 0.0) -> None:
        """The endpoint has begun to answer: its prefill is done, and it is alive."""
        if call.charged_to is not endpoint:
            return
        endpoint.prefill_tokens -= call.charged_tokens
        call.charged_tokens = 0
        if endpoint.breaker.state is not State.CLOSED:
            endpoint.breaker = step(endpoint.breaker, Event.ANSWERED, now)

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
        if ok:
            endpoint.served += 1
            if endpoint.breaker is not CLOSED:
                endpoint.breaker = step(endpoint.breaker, Event.SUCCEEDED, now)
        else:
            self._ended_badly(endpoint, call, ok, now)
        if endpoint.probe is call:
            endpoint.probe = None

    def _ended_badly(self, endpoint: Endpoint, call: Call, ok: bool | None, now: float) -> None:
        probe = endpoint.probe is call
        if ok is None:
            if probe:
                endpoint.breaker = step(endpoint.breaker, Event.PROBE_LEFT, now)
            return
        endpoint.failures += 1
        endpoint.breaker = step(endpoint.breaker, Event.PROBE_FAILED if probe else Event.FAILED, now)

    def _whoever_is_left(self, call: Call, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        left = [
            endpoint
            for endpoint in endpoints
            if endpoint.facts.ready and not endpoint.facts.draining and endpoint.name not in call.tried
        ]
        if not left:
            raise self._nobody(call, endpoints)
        return left

    def _without_vetoed(self, able: list[Endpoint], now: float) -> list[Endpoint]:
        well = [
            endpoint
            for endpoint in able
            if endpoint.load is None
            or (now < endpoint.fresh_until and (endpoint.load.kv_used or 0.0) < KV_FULL)
        ]
        return well or able

    def _cheapest(self, call: Call, able: list[Endpoint], now: float) -> Endpoint:
        costs = [
            endpoint.in_flight
            + endpoint.prefill_tokens * CALLS_PER_TOKEN
            + (endpoint.elsewhere if now < endpoint.fresh_until else 0.0)
            for endpoint in able
        ]
        call.hits = None
        if call.prefix and self.index.knows(call.prefix):
            self._discount(call, able, costs)
        best = min(costs) + NEAR_CALLS
        near = [index for index, cost in enumerate(costs) if cost <= best]
        return able[near[0] if len(near) == 1 else near[self._choose(len(near))]]

    def _discount(self, call: Call, able: list[Endpoint], costs: list[float]) -> None:
        names = [endpoint.name for endpoint in able]
        hits = self.index.match(call.prefix, names)
        call.hits = dict(zip(names, hits, strict=True))
        most_saved = DETOUR_CALLS + DETOUR_SHARE * min(costs)
        for index, blocks in enumerate(hits):
            if blocks:
                costs[index] -= min(blocks * BLOCK_TOKENS * CALLS_PER_TOKEN, most_saved)

    def _nobody(self, call: Call, endpoints: Sequence[Endpoint]) -> Refused:
        if not endpoints:
            message = f"No engine serves {call.model} at the moment; try again shortly."
        elif any(endpoint.name in call.tried for endpoint in endpoints):
            message = f"No other engine of {call.model} can take this call; try again shortly."
        else:
            message = f"{call.model} is starting or stopping and takes no calls yet; try again shortly."
        return Refused(Reason.NO_ENDPOINT, message, retry_after_s=RETRY_AFTER_S)
