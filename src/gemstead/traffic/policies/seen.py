"""The prefix memory of llm-d's approximate producer: for each endpoint the hashes it was sent, least recently used out.

It is not the product's own index (`prefix.py`), because the policies that are built on it are to be compared as
published: a table from hash to endpoints, a list of hashes by age for each endpoint, and a walk that ends at the first
block nobody has and counts for an endpoint every block that it has on the way, also after one that it lacks.

Source: llm-d-router pkg/epp, approximateprefix, 2026-08: 31,250 hashes of 64 tokens for each endpoint, or as many as
its cache has blocks (`cache_config_info`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint

MOST_TOKENS = 31_250 * 64  # remembered of each endpoint whose cache size is unknown


class Seen:
    """Which endpoint was sent which blocks."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # block: endpoints, as bits
        self._bits: dict[str, int] = {}
        self._by_age: dict[str, OrderedDict[int, None]] = {}

    def match(self, call: Call, able: Sequence[Endpoint]) -> list[int]:
        """How many blocks of the call each endpoint was sent, in their order."""
        together: dict[int, int] = {}  # endpoints: blocks that exactly these have
        for block in call.prefix:
            holders = self._holders.get(block, 0)
            if not holders:
                break
            together[holders] = together.get(holders, 0) + 1
        bits = [self._bits.get(one.name, 0) for one in able]
        return [sum(count for holders, count in together.items() if holders & bit) for bit in bits]

    def insert(self, endpoint: Endpoint, call: Call) -> None:
        """The endpoint is sent the call."""
        if not call.prefix:
            return
        name, holders = endpoint.name, self._holders
        bit = self._bits.setdefault(name, 1 << len(self._bits))
        by_age = self._by_age.setdefault(name, OrderedDict())
        for block in call.prefix:
            if block in by_age:
                by_age.move_to_end(block)
            else:
                by_age[block] = None
                holders[block] = holders.get(block, 0) | bit
        most = max(1, (endpoint.facts.kv_tokens or MOST_TOKENS) // call.block_tokens)
        while len(by_age) > most:
            self._drop(by_age.popitem(last=False)[0], bit)

    def forget(self, endpoint_name: str) -> None:
        """The endpoint has nothing any more."""
        bit = self._bits.get(endpoint_name, 0)
        for block in self._by_age.pop(endpoint_name, ()):
            self._drop(block, bit)

    def _drop(self, block: int, bit: int) -> None:
        if left := self._holders[block] & ~bit:
            self._holders[block] = left
        else:
            del self._holders[block]
