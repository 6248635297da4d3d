"""`least-outstanding`: the endpoint with the fewest of our calls in flight, among equals any.

Source: Envoy's LEAST_REQUEST over all hosts, AIBrix's `least-request`, LiteLLM's `least-busy`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named


class LeastOutstanding(Named):
    """Picks by the number of calls in flight."""

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The one with the fewest."""
        return self.least(able, [one.in_flight for one in able])
