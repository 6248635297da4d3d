"""`cache-aware`: sglang's. Balance the calls in flight when they are out of balance, else follow the longest match.

    out of balance     most - least > 64, and most > 1.5 x least   ->  the fewest in flight
    match > 0.3        of the prompt                               ->  the endpoint that matches most
    else                                                           ->  the smallest tree

The smallest tree is the endpoint that has been sent the fewest different tokens. It ignores what is in flight, which is
how one endpoint can be loaded without end (sglang pull requests #14305 and #14532); its newer code sends a miss to
where the fewest are in flight. The tree of an endpoint forgets its least recently used blocks above
2^26 characters.

Source: sglang-router 0.3.2, policy `cache_aware`: command-line defaults cache threshold 0.3, balance 64 and 1.5, tree
2^26 characters, which are 2^24 tokens at 4 characters each. Characters of the prompt are counted in blocks here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.estimate import BYTES_PER_TOKEN
from gemstead.traffic.policies.books import Named

THRESHOLD = 0.3
BALANCE_ABS = 64
BALANCE_REL = 1.5
TREE_TOKENS = (1 << 26) // BYTES_PER_TOKEN


class CacheAware(Named):
    """Picks by balance, match and tree size."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__(choose)
        self._trees: dict[str, OrderedDict[int, None]] = {}  # blocks by age

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The fewest in flight when out of balance, else the best match, else the smallest tree."""
        flying = [one.in_flight for one in able]
        most, fewest = max(flying), min(flying)
        if most - fewest > BALANCE_ABS and most > BALANCE_REL * fewest:
            return self.least(able, flying)
        matches = [self._match(one, call) for one in able]
        longest = max(matches)
        if call.prompt_tokens and longest * call.block_tokens / call.prompt_tokens > THRESHOLD:
            best = self.least(able, [-match for match in matches])
            call.hit_tokens = min(longest * call.block_tokens, call.prompt_tokens)
            return best
        return self.least(able, [len(self._trees.get(one.name, ())) for one in able])

    def sent(self, endpoint: Endpoint, call: Call) -> None:
        """Put the prompt into the endpoint's tree."""
        tree = self._trees.setdefault(endpoint.name, OrderedDict())
        for block in call.prefix:
            if block in tree:
                tree.move_to_end(block)
            else:
                tree[block] = None
        most = TREE_TOKENS // call.block_tokens
        while len(tree) > most:
            tree.popitem(last=False)

    def forget(self, endpoint_name: str) -> None:
        """Its cache is empty."""
        self._trees.pop(endpoint_name, None)

    def _match(self, endpoint: Endpoint, call: Call) -> int:
        """Leading blocks in the endpoint's tree, by bisection: beginnings are never older than what follows."""
        tree = self._trees.get(endpoint.name)
        if not tree or not call.prefix or call.prefix[0] not in tree:
            return 0
        low, high = 1, len(call.prefix)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if call.prefix[middle - 1] in tree else (low, middle - 1)
        return low
