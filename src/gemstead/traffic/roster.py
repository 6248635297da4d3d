"""The endpoints of one pool, and which of them can take a call now.

What an endpoint may do changes some times a second (a load arrives, a breaker moves); calls come thousands of
times a second. So the answer is kept until one of them says that it has changed, or until the earliest moment
at which time alone changes it: a load that grows stale, a breaker that lets a probe through, an engine whose
silence becomes suspicious, a new one that is warm now.

**Wedged.** An engine can hang with its port open and its metrics green. It is taken for wedged when it has
streams in flight and has said no word on any of them for four times as long as the latest should have waited
(at least `WEDGED_S`, at most `WEDGED_MOST_S`); calls that do not stream say nothing until they end, and do
not count. It takes a gateway that says so with every piece of an answer (`Endpoint.heard_at`): who hears of first
tokens and ends only cannot tell a long answer from none. One word brings it back. That it is passed over only
while others are well is the picker's rule.

**Warming.** A new engine has an empty cache and cold kernels. While others are warm, it is taken for busier
than it is: what it has counts `1 / WARM_SHARE` times at first, falling to once over `WARM_S`. So when all are busy
it gets about that share of what it could take, and no burst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from gemstead.traffic.endpoint import Endpoint, kind
from gemstead.traffic.rates import Rates

WEDGED_S = 3.0  # SMG 1.13 takes a worker for wedged after 3 s, stretched with expected prefill up to 120 s
WEDGED_MOST_S = 120.0
WARM_S = 30.0
WARM_SHARE = 0.25  # SMG gives a warming worker a quarter of the misses
FIRST_LATE_S = 0.1
LOOK_AGAIN_S = 1.0  # while anything is warming or wedged


class Roster(list[Endpoint]):
    """A list of endpoints that remembers who is able. `revise` is called by the endpoints themselves."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        super().__init__(endpoints)
        self.good_until = -inf  # of `able`
        self.able: list[Endpoint] = []
        self.names: list[str] = []
        self.late_s = (
            FIRST_LATE_S  # few of its calls have to wait for longer, even where they would wait least
        )
        share_rates(self)
        for endpoint in self:
            endpoint.roster = self
            endpoint.alone = len(self) == 1
            endpoint.ease()
        self.weigh()

    def weigh(self) -> None:
        """What is known of how fast the engines are has changed."""
        hope(self)
        for endpoint in self:
            endpoint.weigh()

    def revise(self) -> None:
        """One of the endpoints has changed."""
        self.good_until = -inf

    def able_at(self, now: float) -> list[Endpoint]:
        """The endpoints that are open and well; perhaps none."""
        able, until = well(self, now)
        self.able, self.names = able, [endpoint.name for endpoint in able]
        self.good_until = min(until, warm(able, now))
        return able


def well(endpoints: Iterable[Endpoint], now: float) -> tuple[list[Endpoint], float]:
    """Who is open, heard of lately and not wedged; and until when that holds if nobody says otherwise."""
    able, until = [], inf
    for endpoint in endpoints:
        for moment in (endpoint.open_from, endpoint.well_until):
            if now < moment < until:
                until = moment
        endpoint.wedged = False
        if endpoint.speaking and endpoint.hears:
            silent_until = endpoint.heard_at + endpoint.patience_s
            endpoint.wedged = now >= silent_until
            until = min(until, now + LOOK_AGAIN_S if endpoint.wedged else silent_until)
        if endpoint.open_from <= now < endpoint.well_until and not endpoint.wedged:
            able.append(endpoint)
    return able, until


def warm(able: Iterable[Endpoint], now: float) -> float:
    """Set each endpoint's handicap beside the warmest; returns when to look again."""
    shares = []
    for endpoint in able:
        if endpoint.ready_since == -inf:
            endpoint.ready_since = now
        age = (now - endpoint.ready_since) / WARM_S
        shares.append((min(1.0, WARM_SHARE + (1.0 - WARM_SHARE) * age), endpoint))
    warmest = max([share for share, _ in shares], default=1.0)
    coldest = 1.0
    for share, endpoint in shares:
        coldest = min(coldest, share)
        handicap = warmest / share
        if endpoint.handicap != handicap:
            endpoint.handicap = handicap
            endpoint.weigh()
    return now + LOOK_AGAIN_S if coldest < warmest else inf


def share_rates(endpoints: Sequence[Endpoint]) -> None:
    """Let those that are alike learn together; whoever of them has learned most is believed."""
    shared: dict[tuple[object, ...], Rates] = {}
    for endpoint in endpoints:
        known = shared.get(kind(endpoint.facts))
        if known is None or endpoint.rates.prefill.count > known.prefill.count:
            shared[kind(endpoint.facts)] = endpoint.rates
    for endpoint in endpoints:
        endpoint.rates = shared[kind(endpoint.facts)]


def hope(endpoints: Iterable[Endpoint]) -> None:
    """Let kinds that have hardly answered yet be taken for as good as the best of the others."""
    kinds = list({id(endpoint.rates): endpoint.rates for endpoint in endpoints}.values())
    for rates in kinds:
        rates.hope(kinds)
