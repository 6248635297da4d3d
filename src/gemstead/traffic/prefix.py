"""Which endpoint has seen the beginning of this prompt before, so that its KV cache may hold it.

A prompt is cut into blocks of bytes, and each block's hash is chained to the one before it, so that equal
hashes mean equal prompts from the first byte on. Strictly contiguous: block n counts only if all blocks
before it do. Hashes are Python's own, keyed per process: they never leave it, and nobody outside can make
two prompts collide.

The index is one table for all endpoints: block hash to the set of endpoints (bits) that were sent it. It has
two generations. Blocks are written to the young one; when that is full it becomes the old one, and the old
one is dropped. So a block is remembered for at least half the table's capacity of later blocks since it was
last sent, nothing is ever swept, and the memory has a hard bound. Whole prompts are inserted, so that in each
generation a block is never present without the blocks before it; the set of endpoints can only shrink along
the prompt, and where it does is found by bisection. A 400 KB prompt costs a few lookups.

It does not know what an engine has evicted: a hit is a hint, and the picker bounds what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat

from gemstead.traffic.estimate import BYTES_PER_TOKEN

BLOCK_BYTES = 1024
BLOCK_TOKENS = BLOCK_BYTES // BYTES_PER_TOKEN
# Beyond this the prompt is not looked at: 512 KiB, or 131 072 tokens (the bound of llm-d's router).
MOST_BLOCKS = 512
# Upper bound of one entry's share of a table: a dict entry at its emptiest (60), the hash (36) and the set of
# endpoints (36), and the copy that a growing dict makes. Measured with tracemalloc in the tests.
BYTES_PER_ENTRY = 160
MOST_SLOTS = (
    1024  # bit positions before the index starts anew; reached only by a fleet that restarts endlessly
)


def chain(
    prompt: bytes, block_bytes: int = BLOCK_BYTES, most_blocks: int = MOST_BLOCKS, seed: int = 0
) -> tuple[int, ...]:
    """Chained hashes of the prompt's full blocks, first block first; a rest shorter than a block is left out.

    `seed` keeps apart prompts that share bytes and no cache, such as those for two adapters.
    """
    blocks = min(len(prompt) // block_bytes, most_blocks)
    if not blocks:
        return ()
    last, hashes = seed, []
    for start in range(0, blocks * block_bytes, block_bytes):
        last = hash((last, prompt[start : start + block_bytes]))
        hashes.append(last)
    return tuple(hashes)


class PrefixIndex:
    """Block hashes by endpoint, in at most `most_bytes` of memory (16 MiB: 50 to 100 MB of prompts)."""

    def __init__(self, most_bytes: int = 16 * 1024 * 1024) -> None:
        self.most_bytes = most_bytes
        self._most_young = max(1, most_bytes // (2 * BYTES_PER_ENTRY))
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._bits: dict[str, int] = {}
        self._every = 0  # all bits in use
        self._next_slot = 0
        self._free_slots: list[int] = []  # no generation holds their bit
        self._leaving: list[int] = []  # forgotten since the last rotation
        self._left: list[int] = []  # forgotten before it

    def __len__(self) -> int:
        """Entries held, at most `most_bytes / BYTES_PER_ENTRY`."""
        return len(self._young) + len(self._old)

    def insert(self, endpoint_name: str, prefix: Sequence[int]) -> None:
        """Remember that this endpoint is about to be sent these blocks. Call it before dispatch."""
        if not prefix:
            return
        bit = self._bits.get(endpoint_name) or self._new_bit(endpoint_name)
        if len(self._young) + len(prefix) > self._most_young:
            self._rotate()
            prefix = prefix[: self._most_young]
        young = self._young
        for block in prefix:
            young[block] = young.get(block, 0) | bit

    def match(self, prefix: Sequence[int], names: Sequence[str]) -> list[int]:
        """How many leading blocks each of `names` has been sent, in their order."""
        if not prefix or not (holders := self._holders(prefix[0])):
            return [0] * len(names)
        bits = list(map(self._bits.get, names, repeat(0)))
        every = self._every
        if holders & every == every and 0 not in bits and self._holders(prefix[-1]) & every == every:
            return [len(prefix)] * len(bits)  # a prompt that everybody has seen
        if len(prefix) == 1:
            return [1 if bit & holders else 0 for bit in bits]
        lengths = [0] * len(bits)
        for length, having in self._ends(prefix, holders):
            lengths = [
                length if bit & having else shorter for bit, shorter in zip(bits, lengths, strict=True)
            ]
        return lengths

    def knows(self, prefix: Sequence[int]) -> bool:
        """Whether any endpoint has been sent this prompt's first block."""
        return bool(prefix) and (prefix[0] in self._young or prefix[0] in self._old)

    def forget(self, endpoint_name: str) -> None:
        """Drop what is known of an endpoint: it has restarted, and its cache is empty, or it is gone."""
        if bit := self._bits.pop(endpoint_name, 0):
            self._leaving.append(bit)
            self._every &= ~bit

    def _holders(self, block: int) -> int:
        return self._young.get(block, 0) | self._old.get(block, 0)

    def _ends(self, prefix: Sequence[int], holders: int) -> Iterator[tuple[int, int]]:
        """(length, endpoints that hold at least so many blocks), shortest first, one for each change."""
        first, end = 0, len(prefix)
        while holders:
            low, high = first, end  # block `low` has these holders; block `high` has fewer, or is the end
            if self._holders(prefix[end - 1]) == holders:
                low = end - 1
            while low < high - 1:
                middle = (low + high) // 2
                if self._holders(prefix[middle]) == holders:
                    low = middle
                else:
                    high = middle
            yield high, holders
            if high == end:
                return
            first, holders = high, self._holders(prefix[high])

    def _rotate(self) -> None:
        self._young, self._old = {}, self._young
        self._free_slots += self._left
        self._left, self._leaving = self._leaving, []

    def _new_bit(self, endpoint_name: str) -> int:
        if self._free_slots:
            bit = self._free_slots.pop()
        else:
            if self._next_slot >= MOST_SLOTS:
                self._start_anew()
            bit = 1 << self._next_slot
            self._next_slot += 1
        self._bits[endpoint_name] = bit
        self._every |= bit
        return bit

    def _start_anew(self) -> None:
        self._young, self._old = {}, {}
        self._bits.clear()
        self._every = 0
        self._free_slots, self._leaving, self._left = [], [], []
        self._next_slot = 0
