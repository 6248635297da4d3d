"""`consistent-hash`: who has asked before finds the same endpoint, unless it has too much to do.

Every endpoint stands at many places of a ring. A call goes to the first place after its own hash, and on to the next
while the endpoint there has more than 1.25 times its share of what is in flight, this call counted. The hash is of
the session where the caller names one, else of the prompt's first block.

Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016); load factor 1.25 and 256
replicas on the ring as in KubeAI's PrefixHash (its docs, "Load Balancing": meanLoadFactor 125, replication 256). KubeAI
hashes the first 100 characters of the prompt, SMG's `prefix_hash` the first 256 tokens; a block is what we have.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from hashlib import blake2b

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named

LOAD_FACTOR = 1.25
PLACES = 256  # of each endpoint on the ring
WORD = 1 << 64


class ConsistentHash(Named):
    """Picks by a ring with bounded loads."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__(choose)
        self._names: list[str] = []
        self._ring: list[tuple[int, int]] = []  # (hash, place among the names)

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The first on the ring that is not above its bound; without anything to hash, any."""
        key = _key(call)
        if key is None:
            return able[self._choose(len(able))]
        names = [one.name for one in able]
        if names != self._names:
            self._names, self._ring = names, _ring(names)
        most = LOAD_FACTOR * (sum(one.in_flight for one in able) + 1) / len(able)
        start = bisect_left(self._ring, (key, 0))
        for step in range(len(self._ring)):
            one = able[self._ring[(start + step) % len(self._ring)][1]]
            if one.in_flight + 1 <= most or one.in_flight == 0:
                return one
        return able[0]  # not reached: somebody is at or below the mean


def _key(call: Call) -> int | None:
    if call.session:
        return _hash(call.session)
    return _hash(str(call.prefix[0])) if call.prefix else None


def _ring(names: Sequence[str]) -> list[tuple[int, int]]:
    return sorted(
        (_hash(f"{name}/{turn}"), place) for place, name in enumerate(names) for turn in range(PLACES)
    )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
