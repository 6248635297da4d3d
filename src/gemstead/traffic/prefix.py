"""Which endpoint has seen the beginning of this prompt before, so that its KV cache may hold it.

A prompt is cut into blocks of bytes, and each block's hash is chained to the one before it, so that equal
hashes mean equal prompts from the first byte on. Strictly contiguous: block n counts only if all blocks
before it do. Hashes are Python's own, keyed per process: they never leave it, and nobody outside can make
two prompts collide.

The index follows what an engine does with its cache. For each endpoint it keeps the blocks in the order in
which they were last sent there, and forgets the oldest when they are more than the engine's cache holds: a
replica forgets, and a hit on what it has forgotten is no hit. The last block of a prompt counts as older than
the first, as in vLLM, which frees a request's blocks from its end: so what an endpoint still has of a prompt
is always its beginning, never a middle. Answers take room in the cache too, and come back as part of the next
prompt under hashes that nobody can know now: `answered` counts them, and the room left for prompts shrinks.

Engines that say how much of a prompt they found correct that. Where one has lost what was thought to be there
(`missed`), it has lost what was unused for longer as well, and its cache holds no more than what was sent since: the
room comes down to that, and goes up where it finds more than was thought (`found`).

Where prompts ended is kept too: layers with a sliding window keep the end of a prompt and no place in its middle, so
what parts from an older prompt midway may find nothing of it, although all its blocks are there (vLLM issue #48435).
`cut` takes matches back to such places; whether an engine needs that the picker learns (`picker.py`).

Beside that there is one table for all endpoints: block hash to the set of endpoints (bits) that have it.
Because each endpoint has beginnings only, that set can only shrink along the prompt, and where it does is found by
bisection: a 400 KB prompt in a pool of 256 costs a few lookups.

Memory has a hard bound: when the table is full, the endpoint that holds most forgets its oldest sixteenth.
Forgetting goes by sixteenths because a dictionary that loses its first entry over and over is slow to say
which is the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from gemstead.traffic.estimate import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from gemstead.traffic.sharing import Outbox

BLOCK_BYTES: Final = 1024
BLOCK_TOKENS = BLOCK_BYTES // BYTES_PER_TOKEN
# Beyond this the prompt is not looked at: 512 KiB, or 131 072 tokens (the bound of llm-d's router).
MOST_BLOCKS: Final = 512
# Upper bound of one entry, a block at an endpoint: an entry in two dictionaries at their emptiest (60 and 100), perhaps
# one in a third, the hash (36), the sets of endpoints (36 each), and the copy that a growing dictionary makes. Measured
# in the tests: 466 with 300 endpoints and prompts of three blocks.
BYTES_PER_ENTRY: Final = 480
LEAST_HELD: Final = 64  # blocks; whatever an engine seems to have lost
SHRINKS: Final = (
    10  # at most by one in so many, each time that an engine has less than it was thought to hold
)
GROWS: Final = 8  # by one in so many, each time that it has more
FORGOTTEN_SHARE: Final = 16  # one in so many is forgotten at a time


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


class Seen:
    """What one endpoint has been sent, as far as its cache can still hold it."""

    __slots__ = ("answers", "bit", "blocks", "fresh", "holds", "most")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        # The longest unused first; when it was last sent, an odd number where a prompt ended with it.
        self.blocks: dict[int, int] = {}
        self.most = 0  # blocks that the engine's cache holds; 0: unknown
        self.fresh = 0.0  # blocks that were new here, lately
        self.answers = 0.0  # blocks of answers, lately
        self.holds = 0  # blocks of prompts, as it has shown; 0: it has not

    def room(self) -> int:
        """How many blocks of prompts the cache holds beside the answers; 0 is unknown."""
        if not self.most:
            return self.holds
        room = self.most
        if self.answers:
            room = max(1, int(room * self.fresh / (self.fresh + self.answers)))
        return min(room, self.holds) if self.holds else room


class PrefixIndex:
    """Block hashes by endpoint, in at most `most_bytes` of memory (64 MiB: 139 000 blocks, 143 MB of prompts)."""

    def __init__(self, most_bytes: int = 64 * 1024 * 1024) -> None:
        self.most_bytes = most_bytes
        self._most = max(1, most_bytes // BYTES_PER_ENTRY)
        self._held = 0  # entries, over all endpoints
        self._table: dict[int, int] = {}
        self._stops: dict[int, int] = {}  # the same of blocks with which a prompt ended there
        self._seen: dict[str, Seen] = {}
        self._every = 0  # all bits in use
        self._asked: Sequence[str] | None = None  # the names that `match` was asked for last, and their bits
        self._asked_bits: list[int] = []
        self.turn = 0  # even numbers, one for each time that something is inserted
        self.outbox: Outbox | None = None  # told what is new, for other gateways (sharing.py)

    def __len__(self) -> int:
        """Entries held, at most `most_bytes / BYTES_PER_ENTRY`."""
        return self._held

    def insert(self, endpoint_name: str, prefix: Sequence[int], most: int = 0) -> int:
        """Remember that this endpoint is about to be sent these blocks. Call it before dispatch.

        `most` blocks are what its cache holds; 0 is unknown. Returns the turn in which it was last sent the last of
        them that it was thought to have, where a prompt ended with that one; else below zero. (Sliding layers keep
        the end of a prompt, so a prompt that leaves an older one midway may find nothing, and nothing has been lost.)
        """
        if not prefix:
            return -1
        self.turn = turn = self.turn + 2
        known = 0
        seen = self._seen.get(endpoint_name) or self._new(endpoint_name)
        seen.most = most
        room = min(seen.room() or self._most, self._most)
        if len(prefix) > room:
            prefix = prefix[:room]
        blocks, table, bit = seen.blocks, self._table, seen.bit
        before = len(blocks)
        for block in reversed(prefix):
            was = blocks.pop(block, -1)
            if was < 0:
                table[block] = table.get(block, 0) | bit
            elif not known:
                known = was
            blocks[block] = turn | 1 if was > 0 and was & 1 else turn
        last = prefix[-1]
        if not blocks[last] & 1:
            blocks[last] = turn + 1
            self._stops[last] = self._stops.get(last, 0) | bit
        if fresh := len(blocks) - before:
            self._held += fresh
            seen.fresh += fresh
            if self.outbox is not None:
                self.outbox.sent(endpoint_name, prefix)
            if len(blocks) > room:
                self._drop(
                    seen, max(len(blocks) - room, min(room // FORGOTTEN_SHARE, len(blocks) - len(prefix)))
                )
            if self._held > self._most:
                self._make_room(seen, len(prefix))
        return known if known & 1 else -1

    def missed(self, endpoint_name: str, turn: int) -> None:
        """The endpoint has lost what it was last sent in that turn: so it has lost all that is older."""
        if (seen := self._seen.get(endpoint_name)) is None:
            return
        before, count = seen.holds or len(seen.blocks), 0
        for last in seen.blocks.values():
            if last > turn:
                break
            count += 1
        self._drop(seen, count)
        seen.holds = max(len(seen.blocks), before - before // SHRINKS, LEAST_HELD)

    def drop(self, endpoint_name: str, blocks: Sequence[int]) -> None:
        """The endpoint has these no more, and nothing that goes on behind them."""
        if (seen := self._seen.get(endpoint_name)) is None:
            return
        table, other = self._table, ~seen.bit
        for block in blocks:
            if (was := seen.blocks.pop(block, -1)) >= 0:
                self._held -= 1
                if was & 1:
                    self._unstop(seen, block)
                if left := table[block] & other:
                    table[block] = left
                else:
                    del table[block]

    def found(self, endpoint_name: str) -> None:
        """The endpoint still had what it was thought to have lost."""
        if (seen := self._seen.get(endpoint_name)) is not None and seen.holds:
            seen.holds += 1 + seen.holds // GROWS

    def answered(self, endpoint_name: str, blocks: float) -> None:
        """An answer of so many blocks was generated there, and lies in the cache like a prompt."""
        if (seen := self._seen.get(endpoint_name)) is not None:
            seen.answers += blocks
            if self.outbox is not None:
                self.outbox.answer(endpoint_name, blocks)
            if seen.answers + seen.fresh > 2 * max(seen.most, 1024):  # what was long ago counts for less
                seen.answers, seen.fresh = seen.answers / 2, seen.fresh / 2

    def hear(self, endpoint_name: str, prefix: Sequence[int], most: int = 0) -> None:
        """Another gateway has sent this endpoint these blocks."""
        outbox, self.outbox = self.outbox, None
        self.insert(endpoint_name, prefix, most)
        self.outbox = outbox

    def hear_answer(self, endpoint_name: str, blocks: float) -> None:
        """An answer to another gateway's call lies in this endpoint's cache."""
        outbox, self.outbox = self.outbox, None
        self.answered(endpoint_name, blocks)
        self.outbox = outbox

    def match(self, prefix: Sequence[int], names: Sequence[str]) -> list[int]:
        """How many leading blocks each of `names` is thought to have, in their order.

        A list of names that was asked with is not changed afterwards.
        """
        if not prefix or not (holders := self._table.get(prefix[0], 0)):
            return [0] * len(names)
        every = self._every
        bits = self._asked_bits if names is self._asked else self._bits_of(names)
        if holders == every and 0 not in bits and self._table.get(prefix[-1], 0) == every:
            return [len(prefix)] * len(bits)  # a prompt that everybody has seen
        if len(prefix) == 1:
            return [1 if bit & holders else 0 for bit in bits]
        lengths = [0] * len(bits)
        for length, having in self._ends(prefix, holders):
            lengths = [
                length if bit & having else shorter for bit, shorter in zip(bits, lengths, strict=True)
            ]
        return lengths

    def cut(self, prefix: Sequence[int], names: Sequence[str], lengths: list[int]) -> list[int]:
        """Each of these matches back to where a prompt ended at that endpoint; 0 where none did."""
        bits = self._asked_bits if names is self._asked else self._bits(names)
        stops, cut = self._stops, [0] * len(bits)
        place, wanted = 0, 0
        for number, length in enumerate(lengths):
            if length:
                wanted |= bits[number]
                if length > place:
                    place = length
        while wanted and place:
            if having := stops.get(prefix[place - 1], 0) & wanted:
                for number, bit in enumerate(bits):
                    if bit & having and lengths[number] >= place:
                        cut[number] = place
                        wanted &= ~bit
            place -= 1
        return cut

    def _bits_of(self, names: Sequence[str]) -> list[int]:
        """Their bits. Remembered: while nothing changes, a roster asks with the same list every time."""
        self._asked, self._asked_bits = names, self._bits(names)
        return self._asked_bits

    def _bits(self, names: Sequence[str]) -> list[int]:
        return [0 if (seen := self._seen.get(name)) is None else seen.bit for name in names]

    def knows(self, prefix: Sequence[int]) -> bool:
        """Whether any endpoint is thought to have this prompt's first block."""
        return bool(prefix) and prefix[0] in self._table

    def forget(self, endpoint_name: str) -> None:
        """Drop what is known of an endpoint: it has restarted, and its cache is empty, or it is gone."""
        if (seen := self._seen.pop(endpoint_name, None)) is not None:
            self._drop(seen, len(seen.blocks))
            self._every &= ~seen.bit
            self._asked = None

    def _ends(self, prefix: Sequence[int], holders: int) -> Iterator[tuple[int, int]]:
        """(length, endpoints that hold at least so many blocks), shortest first, one for each change."""
        table, first, end = self._table, 0, len(prefix)
        while holders:
            low, high = first, end  # block `low` has these holders; block `high` has fewer, or is the end
            if table.get(prefix[end - 1], 0) == holders:
                low = end - 1
            while low < high - 1:
                middle = (low + high) // 2
                if table.get(prefix[middle], 0) == holders:
                    low = middle
                else:
                    high = middle
            yield high, holders
            if high == end:
                return
            first, holders = high, table.get(prefix[high], 0)

    def _unstop(self, seen: Seen, block: int) -> None:
        if left := self._stops[block] & ~seen.bit:
            self._stops[block] = left
        else:
            del self._stops[block]

    def _drop(self, seen: Seen, count: int) -> None:
        """Forget what has been unused longest."""
        table, other = self._table, ~seen.bit
        oldest = list(islice(seen.blocks, count))
        for block in oldest:
            if seen.blocks.pop(block) & 1:
                self._unstop(seen, block)
            if left := table[block] & other:
                table[block] = left
            else:
                del table[block]
        self._held -= len(oldest)

    def _make_room(self, writer: Seen, just_sent: int) -> None:
        """The table is full: whoever holds most forgets, but never what was sent this moment."""
        while self._held > self._most:
            largest = max(self._seen.values(), key=_size)
            spare = len(largest.blocks) - (just_sent if largest is writer else 0)
            if spare <= 0:
                largest = max((seen for seen in self._seen.values() if seen is not writer), key=_size)
                spare = len(largest.blocks)
            over = self._held - self._most
            self._drop(largest, min(spare, max(over, len(largest.blocks) // FORGOTTEN_SHARE)))

    def _new(self, endpoint_name: str) -> Seen:
        bit = ~self._every & (self._every + 1)  # the lowest that is free
        self._seen[endpoint_name] = seen = Seen(bit)
        self._every |= bit
        self._asked = None
        return seen


def _size(seen: Seen) -> int:
    return len(seen.blocks)
