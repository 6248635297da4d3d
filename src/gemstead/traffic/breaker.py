"""A breaker keeps calls away from an endpoint that keeps failing, and finds out when it is back.

It is a step function over three states:

    closed     calls flow. `FAILURES_TO_OPEN` failures in a row open it, or a share of failures that is far above
               its neighbours' (`outlier.py`).
    open       no calls until `until`; the back-off doubles with every opening that was not followed by a
               call that ended well. What old calls report is not news, and passed over.
    half open  one call, the probe, finds out. An answer (its first token is enough) closes the breaker,
               the probe's failure opens it again for longer. A probe that ends without a verdict (its client
               left) makes room for the next one at once; one that says nothing for `PROBE_S` does so too.

A failure is a 5xx, a refused or reset connection, or no first token in time. A 4xx is the engine at work,
and counts as success. The breaker of one endpoint knows nothing of the others: that the last endpoints of a
pool are never shut out is the picker's business (`picker.py`), which can see them all.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

FAILURES_TO_OPEN: Final = 5  # Envoy's outlier detection: consecutive_5xx 5
FIRST_BACKOFF_S: Final = (
    1.0  # a supervised engine that crashed is back within seconds, so the first look is early
)
MOST_BACKOFF_S: Final = 60.0
PROBE_S: Final = 60.0  # after this, another call may probe although the first has not been heard of


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    TRY = "try"  # a call is about to be sent although the breaker is not closed
    ANSWERED = "answered"  # a first token, or an answer's headers
    SUCCEEDED = "succeeded"  # a call ended well
    FAILED = "failed"  # a call failed that was not the probe
    PROBE_FAILED = "probe_failed"
    PROBE_LEFT = "probe_left"  # the probe ended without a verdict
    EJECTED = "ejected"  # it fails far more often than its neighbours (outlier.py)


class Breaker(NamedTuple):
    """The state of one endpoint's breaker. A value: `step` returns the next one."""

    state: State = State.CLOSED
    failures: int = 0  # in a row, while closed
    openings: int = 0  # since a call last ended well
    shut_until: float = -inf  # calls are let through from this time on (seconds, the caller's clock)


CLOSED = Breaker()


def step(breaker: Breaker, event: Event, now: float) -> Breaker:
    """The breaker after `event`."""
    if breaker.state is State.CLOSED:
        return _step_closed(breaker, event, now)
    if event is Event.TRY:
        return breaker._replace(state=State.HALF_OPEN, shut_until=now + PROBE_S)
    if breaker.state is State.OPEN:
        return breaker
    return _step_half_open(breaker, event, now)


def _step_closed(breaker: Breaker, event: Event, now: float) -> Breaker:
    if event is Event.SUCCEEDED:
        return CLOSED
    if event is Event.EJECTED:
        return _opened(breaker, now)
    if event is Event.FAILED or event is Event.PROBE_FAILED:
        if breaker.failures + 1 >= FAILURES_TO_OPEN:
            return _opened(breaker, now)
        return breaker._replace(failures=breaker.failures + 1)
    return breaker


def _step_half_open(breaker: Breaker, event: Event, now: float) -> Breaker:
    if event is Event.SUCCEEDED:
        return CLOSED
    if event is Event.ANSWERED:  # the back-off is forgotten only once a call has ended well
        return Breaker(openings=breaker.openings)
    if event is Event.PROBE_FAILED:
        return _opened(breaker, now)
    if event is Event.PROBE_LEFT:
        return breaker._replace(state=State.OPEN, shut_until=now)
    return breaker


def _opened(breaker: Breaker, now: float) -> Breaker:
    backoff_s = min(FIRST_BACKOFF_S * 2.0 ** min(breaker.openings, 16), MOST_BACKOFF_S)
    return Breaker(State.OPEN, 0, breaker.openings + 1, now + backoff_s)
