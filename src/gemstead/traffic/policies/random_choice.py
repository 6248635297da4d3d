"""`random`: any endpoint that can, each as likely.

Source: the baseline of llm-d's published comparisons (blog of 2025-09-24) and LiteLLM's `simple-shuffle` without
weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named


class RandomChoice(Named):
    """Picks blindly."""

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """Any of them."""
        return able[self._choose(len(able))]
