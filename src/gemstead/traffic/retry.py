"""How many calls may be made a second time: again elsewhere after a failure, or beside the first one as a
hedge.

Retries save a call when one endpoint fails and drown a pool when all do. So each call that is made puts a
part of a retry aside, and each retry takes a whole one; a few a second are always allowed, so that a quiet
pool can retry at all. This is Finagle's `RetryBudget` (20 per cent, 10 a second, remembered for 10 s), with
one leaking balance in place of its windows.

A retry is for a call of which no byte has reached its caller, and never goes where the call has failed
(`Call.tried`; the picker sees to it).

A hedge is a second copy sent before the first has failed: when it has had no first byte for longer than
nearly all calls like it take, and another endpoint has nothing to do. The slower copy is aborted. `Patience`
learns how late is late: it follows the 99th percentile of observed over expected time to the first token, by
steps up and down that balance there (Ma, Muthukrishnan, Sandler, "Frugal streaming", 2013). Hedges have a
budget of their own, of a few per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint

RETRY_SHARE: Final = 0.2
RETRY_FLOOR_PER_S: Final = 10.0
MEMORY_S: Final = 10.0
HEDGE_SHARE: Final = 0.02
HEDGE_FLOOR_PER_S: Final = 0.0
LATE_SHARE: Final = 0.01  # calls that are later than `Patience.times`
FIRST_TIMES: Final = 4.0
LEAST_TIMES, MOST_TIMES = 1.5, 100.0
STEP_UP: Final = 1.05  # for a late call; the step down is so small that 99 of them undo it
LEAST_HEDGE_S: Final = 0.25  # no hedge before this: a first token is rarely worth less


class Budget:
    """A balance of second tries: `share` of one for each call, and `floor_per_s` whatever comes."""

    def __init__(self, share: float = RETRY_SHARE, floor_per_s: float = RETRY_FLOOR_PER_S) -> None:
        self.share = share
        self._floor_per_s = floor_per_s
        self._most_floor = floor_per_s * MEMORY_S
        self._earned = 0.0
        self._floor = self._most_floor
        self._at = -inf

    def call(self, now: float, calls: int = 1) -> None:
        """Calls are made."""
        self._pass(now)
        self._earned += self.share * calls

    def take(self, now: float) -> bool:
        """Whether there may be one more second try now; it is counted."""
        self._pass(now)
        if self._earned >= 1.0:
            self._earned -= 1.0
        elif self._floor >= 1.0:
            self._floor -= 1.0
        else:
            return False
        return True

    def _pass(self, now: float) -> None:
        """What was earned fades within `MEMORY_S`; the floor fills up."""
        if self._at != -inf and (passed := now - self._at) > 0.0:
            self._earned *= max(0.0, 1.0 - passed / MEMORY_S)
            self._floor = min(self._most_floor, self._floor + passed * self._floor_per_s)
        self._at = max(self._at, now)


class Patience:
    """How many times the expected time to the first token nearly all calls stay within."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times = FIRST_TIMES

    def learn(self, expected_s: float, seconds: float) -> None:
        """A first token came after `seconds`."""
        if seconds > self.times * expected_s:
            self.times = min(self.times * STEP_UP, MOST_TIMES)
        else:
            self.times = max(self.times / STEP_UP ** (LATE_SHARE / (1 - LATE_SHARE)), LEAST_TIMES)


class Hedge:
    """Decides on second copies for one pool."""

    def __init__(self, share: float = HEDGE_SHARE) -> None:
        self.patience = Patience()
        self.budget = Budget(share, HEDGE_FLOOR_PER_S)

    def when(self, call: Call) -> float:
        """When to ask `where` for a call that has been charged and has no first token by then."""
        return call.charged_at + max(call.due_s * self.patience.times, LEAST_HEDGE_S)

    def where(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint | None:
        """The idle endpoint that should have a second copy, or None. A copy is counted in the budget.

        The copy is a `Call` of its own (`copy_of`), to be charged there; whichever has no first token when
        the other has one is aborted and settled with None.
        """
        first = call.charged_to
        if first is None or call.first_at >= 0.0 or now < self.when(call):
            return None
        idle = [
            endpoint
            for endpoint in endpoints
            if endpoint is not first
            and endpoint.in_flight + endpoint.calls_elsewhere == 0
            and endpoint.open_from <= now < endpoint.well_until
            and not endpoint.wedged
            and endpoint.name not in call.tried
        ]
        if not idle or not self.budget.take(now):
            return None
        return min(idle, key=_token_s)


def copy_of(call: Call) -> Call:
    """A second copy of a call, with nothing booked."""
    return Call(
        model=call.model,
        tenant=call.tenant,
        priority=call.priority,
        prompt_tokens=call.prompt_tokens,
        most_tokens=call.most_tokens,
        prefix=call.prefix,
        block_tokens=call.block_tokens,
        adapter=call.adapter,
        session=call.session,
        tried=call.tried,
        streams=call.streams,
    )


def _token_s(endpoint: Endpoint) -> float:
    return endpoint.token_s
