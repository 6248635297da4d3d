"""From users to cards: how many replicas answer this many people, with what to spare.

Users become requests a second in the busiest hour, and those become requests in the air by Little's law, which holds
for any system that keeps up with what arrives:

    in the air = requests a second x seconds that each one stays

Seconds multiply here; dividing a peak by a latency aim, or multiplying a number of replicas by it, answers no
question. A replica takes as many requests at once as its latency aims allow; at that many it completes so many a
second, and of those we plan with 65 %:

    replicas = ceil(requests a second / (of one replica x (1 - headroom))) + spares

The headroom is not waste. Arrivals are uneven within the busiest hour, lengths vary, and near the limit waiting grows
without bound; 30 to 40 % is what operators keep. A spare replica (N+1) is there for the one that restarts or
is being renewed. Both can be set.

The shares of a day are ours, chosen and not measured: replace them by your own day (`Demand.day`) as soon as the
ledger knows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gemstead.plan.setup import Setup
from gemstead.plan.step import KNOWN
from gemstead.plan.throughput import Estimate, estimate, held_at_once, last, saturation

HEADROOM = 0.35
SPARES = 1
# Share of a day's requests by hour, from midnight. Office: one time zone, a dip at noon. Consumer: an evening peak.
DAYS: dict[str, tuple[float, ...]] = {
    "flat": (1,) * 24,
    "office": (0, 0, 0, 0, 0, 0, 1, 4, 9, 12, 12, 11, 8, 10, 12, 11, 9, 6, 3, 2, 1, 1, 0, 0),
    "consumer": (3, 2, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 8, 9, 10, 10, 8, 5),
}


@dataclass(frozen=True, slots=True)
class Demand:
    """What must be answered. Give `users` with what each asks in a day, or `peak_requests_per_s` outright."""

    prompt_tokens: float  # of a request, on average, all of what is sent again included
    output_tokens: float  # of an answer, on average
    users: float = 0
    requests_per_user_day: float = 20
    peak_requests_per_s: float = 0  # when known: replaces users
    day: tuple[float, ...] = DAYS["office"]  # weights of 24 hours
    longest_ttft_s: float | None = None  # aims; None: none
    longest_tpot_s: float | None = None
    text: str = "mixed"

    @property
    def requests_per_day(self) -> float:
        """In all, on a working day."""
        if self.peak_requests_per_s:
            return self.peak_requests_per_s * 3600 * sum(self.day) / max(self.day)
        return self.users * self.requests_per_user_day

    def requests_per_s(self, hour: int) -> float:
        """On average in one hour of the day, 0 to 23."""
        return self.requests_per_day * self.day[hour % 24] / sum(self.day) / 3600

    @property
    def busiest_per_s(self) -> float:
        """Requests a second in the busiest hour."""
        return max(self.requests_per_s(hour) for hour in range(24))


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many replicas a demand needs, and how they will feel in the busiest hour."""

    replicas: int  # spares included
    spares: int
    gpus: int
    requests_per_s: float  # of the busiest hour, all together
    in_air: float  # requests at once in the busiest hour, by Little's law, all together
    most_each: int  # requests that one replica takes at once within the aims: cap it here
    rate_each: float  # requests a second that one replica completes with that many
    load: float  # share of what the replicas without spares could do, in the busiest hour
    busiest: Estimate  # of one replica, all replicas but the spares up
    notes: tuple[str, ...] = ()


def capacity(
    setup: Setup,
    demand: Demand,
    *,
    most_running: int | None = None,
    draft_tokens: int = 0,
    headroom: float = HEADROOM,
    spares: int = SPARES,
    known: Mapping[str, float] = KNOWN,
) -> Capacity | None:
    """The replicas of a setup that a demand needs; None: not even a single request fits, or meets the aims.

    Args:
        setup: one replica.
        demand: see there.
        most_running: how many requests the cache of one replica holds at the demand's length; None: as
            `plan.memory` works out.
        headroom: share of a replica's rate that is left free in the busiest hour, 0 to below 1.
        spares: replicas that may be down without the headroom being touched.

    Raises:
        ValueError: a headroom or a demand that cannot be.
    """
    if not 0 <= headroom < 1 or spares < 0:
        raise ValueError("headroom is a share from 0 to below 1, and spares cannot be negative")
    if demand.busiest_per_s <= 0:
        raise ValueError("the demand is empty: give users or requests a second")
    one = _replica(setup, demand, most_running, draft_tokens, known)
    if (most := one.most()) == 0:
        return None
    rate = one.at(most).requests_per_s.likely
    working = max(1, math.ceil(demand.busiest_per_s / (rate * (1 - headroom)) - 1e-9))
    each = demand.busiest_per_s / working
    felt = one.at(one.in_air(each, most))
    return Capacity(
        replicas=working + spares,
        spares=spares,
        gpus=(working + spares) * setup.tp,
        requests_per_s=demand.busiest_per_s,
        in_air=demand.busiest_per_s * felt.latency_s(demand.output_tokens),
        most_each=most,
        rate_each=rate,
        load=each / rate,
        busiest=felt,
        notes=_notes(setup, working, spares),
    )


def latency_s(
    setup: Setup,
    demand: Demand,
    replicas: int,
    *,
    most_running: int | None = None,
    known: Mapping[str, float] = KNOWN,
) -> float:
    """Likely seconds to a whole answer in the busiest hour with this many replicas; infinite: they cannot keep up."""
    one = _replica(setup, demand, most_running, 0, known)
    most = one.saturated_at()
    each = demand.busiest_per_s / replicas
    if each > one.at(most).requests_per_s.likely:
        return math.inf
    return one.at(one.in_air(each, most)).latency_s(demand.output_tokens)


def _replica(
    setup: Setup, demand: Demand, most_running: int | None, draft_tokens: int, known: Mapping[str, float]
) -> _Replica:
    if most_running is None:
        most_running = held_at_once(setup, demand.prompt_tokens + demand.output_tokens)
    return _Replica(setup, demand, most_running, draft_tokens, known)


@dataclass(frozen=True, slots=True)
class _Replica:
    setup: Setup
    demand: Demand
    most_running: int
    draft_tokens: int
    known: Mapping[str, float]

    def at(self, concurrency: int) -> Estimate:
        """How it answers with this many in the air."""
        return estimate(
            self.setup,
            concurrency,
            self.demand.prompt_tokens,
            self.demand.output_tokens,
            self.draft_tokens,
            most_running=self.most_running,
            text=self.demand.text,
            known=self.known,
        )

    def most(self) -> int:
        """Requests at once that the aims, the cache and the point of saturation allow; 0: not even one."""
        if self.most_running < 1:
            return 0
        return last(self._meets, self.saturated_at())

    def saturated_at(self) -> int:
        """Requests at once beyond which it gains too little."""
        return saturation(
            self.setup,
            self.demand.prompt_tokens,
            self.demand.output_tokens,
            most_running=self.most_running,
            known=self.known,
        ).running

    def _meets(self, concurrency: int) -> bool:
        there, aims = self.at(concurrency), self.demand
        late = aims.longest_ttft_s is not None and there.ttft_s.likely > aims.longest_ttft_s
        return not late and (aims.longest_tpot_s is None or there.tpot_s.likely <= aims.longest_tpot_s)

    def in_air(self, rate: float, most: int) -> int:
        """The fewest requests in the air with which it completes this many a second: Little's law, solved."""
        return min(most, 1 + last(lambda n: self.at(n).requests_per_s.likely < rate, most))


def _notes(setup: Setup, working: int, spares: int) -> tuple[str, ...]:
    said = []
    if spares == 0:
        said.append("no spare replica: while one restarts, the others carry its load or requests are shed.")
    elif working == 1:
        said.append(
            "one replica would do; the second is there so that a restart (31B: up to 13 minutes) is not an outage."
        )
    return tuple(said)


@dataclass(frozen=True, slots=True)
class Burst:
    """What own replicas carry of a day, and what would go elsewhere."""

    own_replicas: int
    share_out: float  # of the day's requests
    hours_out: int  # hours of the day in which something goes out
    busiest_out_per_s: float
    least_own_replicas: int  # without spares: for what must stay
    allowed: bool  # whether the own replicas carry all that must stay


def burst(
    demand: Demand,
    sized: Capacity,
    own_replicas: int,
    *,
    must_stay: float = 0.0,
    headroom: float = HEADROOM,
) -> Burst:
    """What goes to rented capacity when only `own_replicas` run, hour by hour.

    Args:
        sized: of `capacity`, for the rate of one replica.
        own_replicas: without spares.
        own_replicas: without spares.
        must_stay: share of the requests that may not leave, such as those bound to a region; 1: nothing may.
        headroom: as for `capacity`.
    """
    able = sized.rate_each * (1 - headroom)
    rates = [demand.requests_per_s(hour) for hour in range(24)]
    outs = [max(0.0, rate - own_replicas * able) for rate in rates]
    least = math.ceil(max(rates) * must_stay / able - 1e-9)
    return Burst(
        own_replicas=own_replicas,
        share_out=sum(outs) / sum(rates),
        hours_out=sum(out > 0 for out in outs),
        busiest_out_per_s=max(outs),
        least_own_replicas=least,
        allowed=own_replicas >= least,
    )
