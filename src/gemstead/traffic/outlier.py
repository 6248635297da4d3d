"""Which endpoint of a pool fails so much more often than the others that it has to sit out.

The breaker (`breaker.py`) sees failures in a row. An engine that fails every other call, because one of its two
cards is broken, never has five in a row. It is found by comparison, with three rules that hold for small pools,
where means and deviations of all endpoints together say nothing:

- its own share of failures, over about its last 16 calls, is above `FAILED_MOST`;
- the others together are well: their mean share is below half of its own less a margin. When all fail, the fault is
  in what they have in common, and shutting some of them out only crowds the rest;
- fewer than half of the pool sit out already, so the last is never shut out: of two one may, of three one, of eight
  four.

An outlier's breaker opens, with the breaker's own back-off; a probe finds out when it is back. Slowness needs no
ejection: the picker's cost learns each endpoint's rate, and a slow one gets as much as it is good for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gemstead.traffic.breaker import State
from gemstead.traffic.endpoint import Endpoint

FAILED_FORGET: Final = 1 / 16
FAILED_MOST: Final = 0.3  # reached by 6 failures of 6, 8 of 12, or lastingly every third


def is_outlier(endpoint: Endpoint, pool: Iterable[Endpoint]) -> bool:
    """Whether `endpoint`, which has just failed a call, should sit out."""
    share = endpoint.failed_share
    if share < FAILED_MOST or endpoint.breaker.state is not State.CLOSED:
        return False
    count, out, others = 1, 0, 0.0
    for other in pool:
        if other is not endpoint and other.takes_calls:
            count += 1
            out += other.breaker.state is not State.CLOSED
            others += other.failed_share
    if count == 1 or 2 * (out + 1) > count:
        return False
    return others / (count - 1) < share / 2 - 0.05
