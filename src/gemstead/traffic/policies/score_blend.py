"""`score-blend`: three scores added with weights, 3 for the prefix, 2 for the queue, 2 for free cache.

    prefix  blocks seen there / blocks of the prompt
    queue   (longest - its own) / (longest - shortest), of requests waiting as the engine says; 1 when all are equal
    cache   1 - share in use, as the engine says

The highest sum wins, among equals any. A figure that an engine has not given counts as the worst that is known.

Source: llm-d-router and Gateway API Inference Extension, defaults of the chart (queue 2, KV utilisation 2, prefix 3),
the "3:2:2" of llm-d's predicted-latency posts. Its figures are scraped every 50 ms (`SCRAPE_S`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named
from gemstead.traffic.policies.seen import Seen
from gemstead.traffic.scorers import kv_free, short_queue

PREFIX, QUEUE, CACHE = 3.0, 2.0, 2.0
SCRAPE_S = 0.05


class ScoreBlend(Named):
    """Picks by a weighted sum of scores."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__(choose)
        self._seen = Seen()

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The one with the highest sum."""
        seen, blocks = self._seen.match(call, able), max(len(call.prefix), 1)
        queue, cache = short_queue(call, able), kv_free(call, able)
        costs = [
            -(PREFIX * seen[place] / blocks + QUEUE * queue[place] + CACHE * cache[place])
            for place in range(len(able))
        ]
        best = self.least(able, costs)
        call.hit_tokens = min(seen[able.index(best)] * call.block_tokens, call.prompt_tokens)
        return best

    def sent(self, endpoint: Endpoint, call: Call) -> None:
        """Remember the prompt there."""
        self._seen.insert(endpoint, call)

    def forget(self, endpoint_name: str) -> None:
        """Its cache is empty."""
        self._seen.forget(endpoint_name)
