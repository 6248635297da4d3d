"""What gateways tell each other, so that each picks as if it saw the others' calls: totals, and prefix heads.

There is no leader and no agreement. Each gateway says, a few times a second, for every endpoint what it has in flight
there (`Share`), and which prompts it has sent there that were new to it (heads: the chained hashes of their blocks).
Each takes in what the others say. The totals are added to what an endpoint's own metrics say of calls elsewhere
(`Endpoint.hear_others`), so a pick costs nothing more; the heads go into the prefix index as if this gateway had sent
them. What is said is at most a period old, which is why two gateways may still pick the same idle endpoint at once.

A gateway that says nothing for `FORGET_S` has no calls any more, as far as the others know. Its heads stay: the engine
still has them. Nothing depends on being heard: whoever hears nobody picks by its own books, as it does without this.

An endpoint is known by its door, which is the same for all gateways (`door`). Heads are Python's own hashes, keyed by a
seed that all gateways share; `probe` is the hash of a known text, and whoever has another one there (another Python,
another seed) cannot read these heads and leaves them out.

Heads are bounded in bytes for each time that something is said. What does not fit is left out and counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gemstead.traffic.endpoint import NOBODY, Endpoint, EndpointFacts, Others
from gemstead.traffic.prefix import PrefixIndex

PERIOD_S = 0.25  # between two times that a gateway says something
FORGET_S = 2.0  # eight of them
MOST_BYTES = 16 * 1024  # of heads each time: 64 KiB a second, 500 prompts of 4,000 tokens
HASH_BYTES = 8
LOOPBACK = ("127.", "localhost", "::1")
PROBE = b"gemstead"


class Share(msgspec.Struct, array_like=True):
    """What one gateway has in flight at one endpoint."""

    door: str
    calls: int = 0
    waiting: int = 0  # of them, without a first token
    prefill_tokens: int = 0
    kv_tokens: int = 0


class Head(msgspec.Struct, array_like=True):
    """A prompt that was sent to an endpoint."""

    door: str
    blocks: bytes  # hashes, eight bytes each


class News(msgspec.Struct, array_like=True):
    """What one gateway says."""

    owner: str
    number: int
    probe: int
    shares: list[Share] = []
    heads: list[Head] = []
    answered: dict[str, float] = {}  # blocks of answers, by door


def door(facts: EndpointFacts, machine: str) -> str:
    """What an endpoint is called among gateways: its address, which on loopback means something on one machine only."""
    host = f"{machine}/{facts.host}" if facts.host.startswith(LOOPBACK) else facts.host
    return f"{host}:{facts.port}{facts.base_path}#{facts.pool}"


class Outbox:
    """Collects what a prefix index learns from this gateway's own calls, until it is said."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.heads: list[tuple[str, Sequence[int]]] = []  # by endpoint name
        self.answered: dict[str, float] = {}
        self.left_out = 0
        self._bytes = 0

    def sent(self, endpoint_name: str, prefix: Sequence[int]) -> None:
        """An endpoint was sent a prompt that has blocks which are new there."""
        size = HASH_BYTES * len(prefix)
        if self._bytes + size > self.most_bytes:
            self.left_out += 1
            return
        self._bytes += size
        self.heads.append((endpoint_name, prefix))

    def answer(self, endpoint_name: str, blocks: float) -> None:
        """An answer of so many blocks lies in an endpoint's cache."""
        self.answered[endpoint_name] = self.answered.get(endpoint_name, 0.0) + blocks

    def empty(self) -> tuple[list[tuple[str, Sequence[int]]], dict[str, float]]:
        """What was collected; from now on it collects anew."""
        heads, answered = self.heads, self.answered
        self.heads, self.answered, self._bytes = [], {}, 0
        return heads, answered


class Sharing:
    """One gateway among others. `index` is None where the policy has none: then only totals are shared."""

    def __init__(self, owner: str, index: PrefixIndex | None, most_bytes: int = MOST_BYTES) -> None:
        self.owner = owner
        self.probe = hash(PROBE)
        self.outbox = Outbox(most_bytes)
        self.index = index
        if index is not None:
            index.outbox = self.outbox
        self.heads_taken = 0
        self.unreadable: set[str] = set()  # gateways whose heads are hashed in another way
        self._number = 0
        self._heard: dict[str, tuple[float, list[Share]]] = {}  # by owner: when, and what
        self._added: set[str] = set()  # doors with something of others

    def say(self, doors: Mapping[str, Endpoint]) -> News:
        """What the others should know now."""
        self._number += 1
        heads, answered = self.outbox.empty()
        by_name = {endpoint.name: door for door, endpoint in doors.items()}
        return News(
            self.owner,
            self._number,
            self.probe,
            [
                Share(
                    door,
                    endpoint.in_flight,
                    len(endpoint.waiting),
                    endpoint.prefill_tokens,
                    endpoint.kv_booked,
                )
                for door, endpoint in doors.items()
                if endpoint.in_flight
            ],
            [Head(by_name[name], packed(prefix)) for name, prefix in heads if name in by_name],
            {by_name[name]: blocks for name, blocks in answered.items() if name in by_name},
        )

    def hear(self, news: Iterable[News], doors: Mapping[str, Endpoint], now: float) -> None:
        """Take in what was said, oldest first; our own words are passed over."""
        for one in news:
            if one.owner == self.owner:
                continue
            self._heard[one.owner] = (now, one.shares)
            if one.probe == self.probe:
                self.unreadable.discard(one.owner)
                self._learn(one, doors)
            elif one.heads:
                self.unreadable.add(one.owner)

    def add_up(self, doors: Mapping[str, Endpoint], now: float) -> None:
        """Tell each endpoint what others have there; who has been silent for too long has nothing."""
        for owner in [owner for owner, (at, _) in self._heard.items() if now - at > FORGET_S]:
            del self._heard[owner]
            self.unreadable.discard(owner)
        sums: dict[str, list[int]] = {}
        for _, shares in self._heard.values():
            for share in shares:
                total = sums.setdefault(share.door, [0, 0, 0, 0])
                total[0] += share.calls
                total[1] += share.waiting
                total[2] += share.prefill_tokens
                total[3] += share.kv_tokens
        for name in self._added | sums.keys():
            if (endpoint := doors.get(name)) is not None:
                endpoint.hear_others(Others(*sums[name]) if name in sums else NOBODY)
        self._added = set(sums)

    @property
    def others(self) -> int:
        """Gateways that have been heard of lately."""
        return len(self._heard)

    def learn_heads(self, news: Iterable[News], doors: Mapping[str, Endpoint]) -> None:
        """Take in only the heads of what was said some time ago."""
        for one in news:
            if one.owner != self.owner and one.probe == self.probe:
                self._learn(one, doors)

    def _learn(self, news: News, doors: Mapping[str, Endpoint]) -> None:
        if (index := self.index) is None:
            return
        for head in news.heads:
            if (endpoint := doors.get(head.door)) is not None:
                index.hear(endpoint.name, unpacked(head.blocks), endpoint.cache_blocks)
                self.heads_taken += 1
        for where, blocks in news.answered.items():
            if (endpoint := doors.get(where)) is not None:
                index.hear_answer(endpoint.name, blocks)


def packed(prefix: Sequence[int]) -> bytes:
    """Hashes as bytes, eight for each."""
    return array("q", prefix).tobytes()


def unpacked(blocks: bytes) -> tuple[int, ...]:
    """What `packed` has packed, on a machine of the same byte order: `probe` tells."""
    return tuple(array("q", blocks[: len(blocks) // HASH_BYTES * HASH_BYTES]))
