"""`power-of-two`: of two endpoints drawn at random the one with fewer of our calls in flight.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); Envoy's LEAST_REQUEST with its
default of two choices; sglang-router's `power_of_two`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named


class PowerOfTwo(Named):
    """Picks the better of two."""

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The less busy of two different ones; the first drawn when they are equal."""
        first = self._choose(len(able))
        second = self._choose(len(able) - 1)
        one, other = able[first], able[second + (second >= first)]
        return other if other.in_flight < one.in_flight else one
