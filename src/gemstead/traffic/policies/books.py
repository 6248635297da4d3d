"""What all named policies share: who may be sent a call at all, and what is in flight.

The published policies differ in whom they prefer. Passing over what is not ready, what a breaker shuts out and what has
already failed this call is the same for each, and is done here as the product's own picker does it, so that a
comparison shows the choosing and nothing else. Their vetoes by load, where they publish one, are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import CLOSED, Event, State, step
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policy import NO_TIME, UNKNOWN

RETRY_AFTER_S = 2.0


class Named:
    """A policy that says which of the able endpoints it prefers. `choose(n)` returns a random number in range(n)."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._now = -inf

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call, of at least two that can. It may set `call.hit_tokens`."""
        raise NotImplementedError

    def sent(self, endpoint: Endpoint, call: Call) -> None:
        """The call is about to be sent there: what this policy remembers of it."""

    def read_s(self, call: Call, endpoints: Sequence[Endpoint]) -> float:
        """Not asked of these: what waits goes in the order of its arrival."""
        return 0.0

    def pick(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT, when all are starting, draining or tried.
        """
        self._now = now
        call.hit_tokens = 0
        left = [one for one in endpoints if one.takes_calls and one.name not in call.tried]
        able = [one for one in left if one.open_from <= now] or left
        if not able:
            message = f"No engine takes calls of {call.model} now; try again shortly."
            raise Refused(Reason.NO_ENDPOINT, message, retry_after_s=RETRY_AFTER_S)
        return able[0] if len(able) == 1 else self.prefer(call, able, now)

    def charge(self, endpoint: Endpoint, call: Call) -> None:
        """Book the call on the endpoint that was just picked for it."""
        if call.charged_to is not None:
            self.settle(call.charged_to, call, None, self._now)
        call.charged_to = endpoint
        call.charged_tokens = max(call.prompt_tokens - call.hit_tokens, 0)
        endpoint.in_flight += 1
        endpoint.prefill_tokens += call.charged_tokens
        self.sent(endpoint, call)
        breaker = endpoint.breaker
        if breaker.state is not State.CLOSED and (endpoint.probe is None or breaker.shut_until <= self._now):
            endpoint.breaker = step(breaker, Event.TRY, self._now)
            endpoint.probe = call

    def first_token(self, endpoint: Endpoint, call: Call, now: float = NO_TIME) -> None:
        """The endpoint has begun to answer: the prompt has been read."""
        if call.charged_to is not endpoint:
            return
        endpoint.prefill_tokens -= call.charged_tokens
        call.charged_tokens = 0
        if endpoint.breaker is not CLOSED:
            endpoint.breaker = step(endpoint.breaker, Event.ANSWERED, self._now if now == NO_TIME else now)

    def settle(
        self,
        endpoint: Endpoint,
        call: Call,
        ok: bool | None,
        now: float,
        output_tokens: int = UNKNOWN,
        cached_tokens: int = UNKNOWN,
    ) -> None:
        """Close the books of a call that has ended; said twice it counts once."""
        if call.charged_to is not endpoint:
            return
        call.charged_to = None
        endpoint.in_flight -= 1
        endpoint.prefill_tokens -= call.charged_tokens
        call.charged_tokens = 0
        probe = endpoint.probe is call
        if ok:
            endpoint.served += 1
            if endpoint.breaker is not CLOSED:
                endpoint.breaker = step(endpoint.breaker, Event.SUCCEEDED, now)
        elif ok is not None:
            endpoint.failures += 1
            event = Event.PROBE_FAILED if probe else Event.FAILED
            endpoint.breaker = step(endpoint.breaker, event, now)
        elif probe:
            endpoint.breaker = step(endpoint.breaker, Event.PROBE_LEFT, now)
        if probe:
            endpoint.probe = None

    def passed(self, now: float) -> None:
        """Time has passed without a pick."""

    def forget(self, endpoint_name: str) -> None:
        """The endpoint is gone, or its cache is empty."""

    def least(self, able: Sequence[Endpoint], costs: Sequence[float]) -> Endpoint:
        """The endpoint with the lowest cost, among equal ones at random."""
        best = min(costs)
        places = [place for place, cost in enumerate(costs) if cost == best]
        return able[places[0] if len(places) == 1 else places[self._choose(len(places))]]
