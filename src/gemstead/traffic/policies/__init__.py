"""Policies that others publish, by the names that people know them by: for comparison and for those who want them.

Each file holds one, with its constants and where they come from. `POLICIES[name](choose)` makes one; `choose(n)`
returns a random number in range(n). The product's own is `picker.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from gemstead.traffic.policies.books import Named
from gemstead.traffic.policies.cache_aware import CacheAware
from gemstead.traffic.policies.consistent_hash import ConsistentHash
from gemstead.traffic.policies.least_outstanding import LeastOutstanding
from gemstead.traffic.policies.power_of_two import PowerOfTwo
from gemstead.traffic.policies.random_choice import RandomChoice
from gemstead.traffic.policies.round_robin import RoundRobin
from gemstead.traffic.policies.score_blend import ScoreBlend
from gemstead.traffic.policies.sticky import Sticky

POLICIES: dict[str, Callable[[Callable[[int], int]], Named]] = {
    "random": RandomChoice,
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "power-of-two": PowerOfTwo,
    "consistent-hash": ConsistentHash,
    "score-blend": ScoreBlend,
    "cache-aware": CacheAware,
    "sticky": Sticky,
}
