"""`sticky`: llm-d's default since August 2026, "sticky until saturated".

    S        endpoints that hold at least 0.80 of the prompt; all, when there is none
    wait     uncached prompt tokens sent there and not yet read / peak rate
    leave    S for this call, when its best wait is more than 18 s longer than the best outside
    then     the least (uncached tokens there + this call's uncached tokens), among equals any

The peak rate is one figure for the pool, from one calibration: what an engine reads in full steps. llm-d's default is
15,928 tokens a second (Qwen3-32B on two H100); here an endpoint's `prefill_tokens_s` is it where the plan knows one.
Tokens are charged at the pick, less the predicted hit, and given back at the first piece of the answer.

Source: llm-d-router plugins prefixcacheaffinity and token load in look-ahead mode, guide and blog of 2026-08-17. No
exploration, as by default; multimodal values (0.6, 36 s) are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named
from gemstead.traffic.policies.seen import Seen

MATCH = 0.80
GATE_S = 18.0
PEAK_TOKENS_S = 15_928.0


class Sticky(Named):
    """Picks among those that hold the prompt, until they are saturated."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__(choose)
        self._seen = Seen()

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The least loaded of those that hold the prompt, or of all."""
        seen = self._seen.match(call, able)
        size, prompt = call.block_tokens, call.prompt_tokens
        hits = [min(blocks * size, prompt) for blocks in seen]
        # Of the prompt's blocks: the last, partial one is in neither count.
        holding = [
            place for place, blocks in enumerate(seen) if blocks and blocks >= MATCH * len(call.prefix)
        ]
        places: Sequence[int] = range(len(able))
        if holding and len(holding) < len(able):
            peak = able[0].facts.prefill_tokens_s or PEAK_TOKENS_S
            inside = min(able[place].prefill_tokens for place in holding)
            others = set(places).difference(holding)
            outside = min(able[place].prefill_tokens for place in others)
            if (inside - outside) / peak <= GATE_S:
                places = holding
        candidates = [able[place] for place in places]
        loads = [able[place].prefill_tokens + prompt - hits[place] for place in places]
        best = self.least(candidates, loads)
        call.hit_tokens = hits[able.index(best)]
        return best

    def sent(self, endpoint: Endpoint, call: Call) -> None:
        """Remember the prompt there."""
        self._seen.insert(endpoint, call)

    def forget(self, endpoint_name: str) -> None:
        """Its cache is empty."""
        self._seen.forget(endpoint_name)
