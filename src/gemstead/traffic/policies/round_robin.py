"""`round-robin`: one after the other, whatever they have to do.

Source: the default of most load balancers, of vLLM's production stack and of sglang-router's `round_robin`. It begins
at a random place, so that several gateways do not march in step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named


class RoundRobin(Named):
    """Picks in turn."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__(choose)
        self._turn = choose(1 << 16)

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The next in line."""
        self._turn += 1
        return able[self._turn % len(able)]
