"""The KV cache of one pretend engine: blocks that requests hold, and blocks that are kept in case they come again.

A prompt is a chain of blocks, each id standing for everything up to its end. A request *pins* its blocks; several may
pin the same. What nobody pins stays until room is needed, the least recently released first, and of one request the
end of its prompt before the beginning, as vLLM frees them (v1/core/kv_cache_manager.py: "free in reverse order").
So whatever is present has everything before it present, and the longest match is found by bisection. (`tests/simulate`
holds that against a cache that looks at every block.)

Layers with a sliding window keep only the last `window` tokens of a request, so a prompt can be taken up only where
some request's window lies: at the end of an earlier prompt, and nowhere before it. With `window_tokens` above 0 the
cache knows those *ends*: each costs that much room, is released before the blocks it belongs to, and a match goes
back to the last one. So it was found of Gemma 4 31B in vLLM (issue #48435: hits in the sliding layers need the whole
tail, which is also what is evicted first). The cache of all layers is counted in tokens of the layers that keep
everything.

Beside blocks a request holds *private* room: the rest of its prompt and its answer. When it ends, that stays as one
piece that nobody will ask for (traces give the next turn new ids), and is evicted like the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

END = 1 << 60  # added to a block's id: the window at its end


class Cache:
    """Room for `most` tokens, in blocks of `block_tokens`; `window_tokens` is what one request's windows take."""

    __slots__ = (
        "_rest", "block_tokens", "kept", "kept_tokens", "most", "pinned", "used_tokens", "window_tokens",
    )  # fmt: skip

    def __init__(self, most: int, block_tokens: int, window_tokens: float = 0.0) -> None:
        self.most = most
        self.block_tokens = block_tokens
        self.window_tokens = window_tokens
        self.pinned: dict[int, int] = {}  # block: how many requests hold it
        self.kept: OrderedDict[int, float] = OrderedDict()  # block: its tokens; the next to go first
        self.used_tokens = 0.0  # pinned and private
        self.kept_tokens = 0.0
        self._rest = 0

    @property
    def free_tokens(self) -> float:
        """Room for more, when everything is evicted that may be."""
        return self.most - self.used_tokens

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are present and can be taken up."""
        present = self._present(blocks)
        if not self.window_tokens:
            return present
        kept = self.kept
        return next((place for place in range(present, 0, -1) if blocks[place - 1] + END in kept), 0)

    def _present(self, blocks: Sequence[int]) -> int:
        pinned, kept = self.pinned, self.kept
        low, high = 0, len(blocks)
        if high and (blocks[high - 1] in pinned or blocks[high - 1] in kept):
            return high
        while low < high:
            middle = (low + high) // 2
            block = blocks[middle]
            if block in pinned or block in kept:
                low = middle + 1
            else:
                high = middle
        return low

    def pin(self, blocks: Sequence[int]) -> None:
        """Hold blocks, present or newly written."""
        pinned, kept, size = self.pinned, self.kept, self.block_tokens
        fresh = 0
        for block in blocks:
            if holders := pinned.get(block):
                pinned[block] = holders + 1
                continue
            pinned[block] = 1
            fresh += 1
            if kept.pop(block, None) is not None:
                self.kept_tokens -= size
        self.used_tokens += fresh * size
        self._evict()

    def pins(self, blocks: Sequence[int]) -> int:
        """How many tokens `pin` of these would take from `free_tokens`."""
        pinned = self.pinned
        return sum(1 for block in blocks if block not in pinned) * self.block_tokens

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks; what nobody else holds is kept in case it comes again."""
        pinned, kept, size = self.pinned, self.kept, self.block_tokens
        for block in reversed(blocks):
            holders = pinned[block]
            if holders > 1:
                pinned[block] = holders - 1
                continue
            del pinned[block]
            kept[block] = size
            self.used_tokens -= size
            self.kept_tokens += size
        self._evict()

    def take(self, tokens: float) -> None:
        """Private room."""
        self.used_tokens += tokens
        if self.used_tokens + self.kept_tokens > self.most:
            self._evict()

    def leave(self, tokens: float) -> None:
        """Private room of a request that has ended: what it wrote stays until it is evicted."""
        self.used_tokens -= tokens
        self._rest -= 1
        self.kept[self._rest] = tokens
        self.kept_tokens += tokens

    def end(self, blocks: Sequence[int]) -> None:
        """A request has ended that held these: its windows stay until they are evicted."""
        if not self.window_tokens:
            return
        self.used_tokens -= self.window_tokens
        if not blocks:
            return
        if blocks[-1] + END in self.kept:
            self.kept.move_to_end(blocks[-1] + END)
        else:
            self.kept[blocks[-1] + END] = self.window_tokens
            self.kept_tokens += self.window_tokens

    def clear(self) -> None:
        """The engine has restarted."""
        self.pinned.clear()
        self.kept.clear()
        self.used_tokens = self.kept_tokens = 0.0

    def _evict(self) -> None:
        over = self.used_tokens + self.kept_tokens - self.most
        kept = self.kept
        while over > 0 and kept:
            _, size = kept.popitem(last=False)
            self.kept_tokens -= size
            over -= size
