"""A plan carried months ahead: what the busiest hour will ask of it, and when each of its limits is met.

Growth and season are `forecast.py`'s; here they meet a layout. Everything that fills up with use is put on one scale,
requests a second in the busiest hour, because the others follow from those:

    output tokens a second = requests a second x tokens of an answer
    requests in the air    = requests a second x seconds that each stays            (Little's law)
    cache in use           = requests in the air x bytes that a usual one holds
    cards                  = ceil(requests a second / planned rate of a replica) + spares, times cards of each

A limit is the rate at which its own quantity is full while the layout stays as it is:

    planned load   what the replicas answer with the headroom kept: from here on a bad hour is felt
    requests       what they answer at most within the aims
    output tokens  what they write at most, whatever is waited for
    cache          the rate at which requests in the air fill the cache of every replica
    memory         the same when the engine took all of the card that it may be given, beyond its share
    cards          what the cards at hand answer, spares and headroom kept, when all of them are used
    budget         the same for the cards that the budget pays

Stays lengthen as load grows, so the cache fills faster than requests come. The cache rarely is the first limit where
the plan has capped the requests at once: that cap is chosen so.

No clock: months count from now, 1 is the coming one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemstead.plan.api import Proposal
from gemstead.plan.capacity import Capacity, Demand
from gemstead.plan.forecast import Month, Reached, Trend, forecast, reached
from gemstead.plan.layout import Layout
from gemstead.plan.throughput import MOST, Estimate, Range, estimate, last
from gemstead.refused import Reason, Refused

FLAT = (1.0,) * 12


@dataclass(frozen=True, slots=True)
class Ahead:
    """One month's busiest hour. `cards` keep headroom and spares; `cache_share` is of today's replicas (1 is full)."""

    number: int  # 0 is today
    requests_per_s: Range
    output_tokens_per_s: Range
    in_air: float | None  # None: more than the caches of today's replicas hold
    cache_share: float | None
    memory_share: float | None  # of a card, with the cache that is in use
    cards: int
    cards_high: int  # at the upper bound
    usd_month: float | None


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that use fills: what it holds, what it holds now, and when it is full."""

    name: str
    unit: str
    now: float
    most: float
    reached: Reached


@dataclass(frozen=True, slots=True)
class Outlook:
    """The months ahead, from today (number 0), and the limits, the soonest first."""

    months: tuple[Ahead, ...]
    limits: tuple[Limit, ...]
    trend: Trend
    layout: Layout
    notes: tuple[str, ...] = ()


def outlook(
    proposal: Proposal,
    trend: Trend,
    months: int = 12,
    season: Sequence[float] = FLAT,
    first_month: int = 0,
    usd_month: float | None = None,
) -> Outlook:
    """What the coming months ask of a proposal.

    Args:
        proposal: of `plan`, for today's demand.
        trend: growth of the requests a day. Its level and weekdays only matter against each other: today is what the
            proposal was made for.
        months: 1 to 36.
        season: twelve factors from January; `first_month`: which of them is the coming month, 0 is January.
        usd_month: the most that may be spent a month.

    Raises:
        Refused: BAD_REQUEST, when the proposal answers no demand, or months or season cannot be.
    """
    demand, sized = proposal.traffic.demand, proposal.chosen.capacity
    if demand is None or sized is None or not proposal.chosen.memory.fits:
        raise Refused(
            Reason.BAD_REQUEST,
            "a forecast needs a plan that answers today's demand: say it with users or requests a second, and what "
            "does not fit must be made to fit first",
            code="bad_plan",
        )
    if not 1 <= months <= 36 or len(season) != 12 or min(season) <= 0:
        raise Refused(
            Reason.BAD_REQUEST,
            "a forecast goes 1 to 36 months ahead, with twelve factors above 0",
            code="bad_plan",
        )
    now = demand.busiest_per_s
    scaled = replace(trend, level=now / max(trend.weekdays))
    coming = forecast(scaled, months, season, first_month)
    one = _Use(proposal, demand, sized)
    rows = [
        one.ahead(0, Range(now, now, now)),
        *(one.ahead(month.number, month.busiest_day) for month in coming),
    ]
    return Outlook(
        tuple(rows), _limits(one, coming, usd_month), trend, proposal.chosen, tuple(_notes(trend, proposal))
    )


@dataclass(frozen=True, slots=True)
class _Use:
    """What a rate of requests makes of a layout."""

    proposal: Proposal
    demand: Demand
    sized: Capacity

    @property
    def layout(self) -> Layout:
        return self.proposal.chosen

    @property
    def serving(self) -> int:
        """Replicas that carry today's load."""
        return self.layout.serving

    def at(self, concurrency: int) -> Estimate:
        """One replica with this many in the air, however many its cache holds."""
        return estimate(
            self.layout.setup.with_(requests=None),
            max(1, concurrency),
            self.demand.prompt_tokens,
            self.demand.output_tokens,
            self.layout.drafting.tokens,
            most_running=MOST,
            text=self.demand.text,
        )

    def in_air(self, rate: float) -> float:
        """Requests in the air of one replica that completes this many a second: Little's law, solved."""
        whole = 1 + last(lambda n: self.at(n).requests_per_s.likely < rate, MOST - 1)
        there = self.at(whole).requests_per_s.likely
        return rate / there * whole if whole == 1 else float(whole)

    @property
    def held(self) -> int:
        """Usual requests that the cache of one replica holds."""
        setup = self.layout.setup
        usual = min(math.ceil(self.demand.prompt_tokens + self.demand.output_tokens), setup.length)
        memory = replace(self.layout.memory, setup=setup.with_(requests=MOST))
        return max(1, memory.decoding(usual))

    @property
    def request_bytes(self) -> float:
        """Of one card, that a usual request holds."""
        return self.layout.memory.safe_pool_bytes / self.held

    @property
    def beside_bytes(self) -> int:
        """Of one card, that is taken before the first request."""
        memory = self.layout.memory
        return memory.used_bytes - max(memory.kv_pool_bytes, 0)

    @property
    def held_by_the_card(self) -> int:
        """Usual requests at once when the engine is given all of the card."""
        spare = max(0, self.layout.memory.card_bytes - self.layout.memory.used_bytes)
        return int(self.held + spare / self.request_bytes)

    @property
    def planned_each(self) -> float:
        """Requests a second of one replica, headroom kept."""
        return self.sized.rate_each * (1 - self.proposal.traffic.headroom)

    def cards(self, rate: float) -> int:
        """Cards for a rate, with headroom and spares."""
        working = max(1, math.ceil(rate / self.planned_each - 1e-9))
        return (working + self.proposal.traffic.spares) * self.layout.setup.tp

    def rate_of_cards(self, cards: float) -> float:
        """The rate that as many cards answer, headroom and spares kept."""
        working = int(cards) // self.layout.setup.tp - self.proposal.traffic.spares
        return max(0, working) * self.planned_each

    @property
    def usd_card_month(self) -> float | None:
        bill = self.proposal.best.bill
        return bill.usd_month / bill.gpus if bill else None

    def ahead(self, number: int, rate: Range) -> Ahead:
        full = rate.likely > self.at(self.held).requests_per_s.likely * self.serving
        each = None if full else self.in_air(rate.likely / self.serving)
        memory, cards = self.layout.memory, self.cards(rate.likely)
        usd = self.usd_card_month
        return Ahead(
            number,
            rate,
            rate.times(self.demand.output_tokens),
            None if each is None else each * self.serving,
            None if each is None else each / self.held,
            None if each is None else (self.beside_bytes + each * self.request_bytes) / memory.card_bytes,
            cards,
            self.cards(rate.high),
            None if usd is None else usd * cards,
        )


def _limits(one: _Use, coming: Sequence[Month], usd_month: float | None) -> tuple[Limit, ...]:
    layout, serving, now = one.layout, one.serving, one.demand.busiest_per_s
    output = one.demand.output_tokens
    most_tokens = layout.full.tokens_per_s.likely * serving
    at_hand = one.proposal.count or layout.cards
    air, gib = one.in_air(now / serving), 2.0**30
    rates: dict[str, tuple[str, float, float, float]] = {  # unit, now, most, and the requests a second at most
        f"planned load ({one.proposal.traffic.headroom:.0%} headroom)": (
            "requests/s", now, one.planned_each * serving, one.planned_each * serving
        ),
        "requests": ("requests/s", now, one.sized.rate_each * serving, one.sized.rate_each * serving),
        "output tokens": ("tokens/s", now * output, most_tokens, most_tokens / output),
        "cache": (
            "requests at once", air * serving, one.held * serving,
            one.at(one.held).requests_per_s.likely * serving,
        ),
        "memory of a card": (
            "GiB", (one.beside_bytes + air * one.request_bytes) / gib, layout.memory.card_bytes / gib,
            one.at(one.held_by_the_card).requests_per_s.likely * serving,
        ),
        "cards": ("cards", one.cards(now), at_hand, one.rate_of_cards(at_hand)),
    }  # fmt: skip
    if usd_month is not None and (card := one.usd_card_month):
        rates["budget"] = (
            "$ a month",
            one.cards(now) * card,
            usd_month,
            one.rate_of_cards(usd_month // card),
        )
    found = reached(coming, now, {name: rate for name, (*_, rate) in rates.items()})
    return tuple(Limit(met.name, *rates[met.name][:3], met) for met in found)


def _notes(trend: Trend, proposal: Proposal) -> list[str]:
    said = []
    if trend.days_seen and trend.days_seen < 60:
        said.append(
            f"growth is seen in {trend.days_seen} days only: the bounds say how far it may be off, as far as those "
            "days tell"
        )
    if trend.monthly_growth > 0.5:
        said.append(
            f"{trend.monthly_growth:.0%} a month is the growth of a beginning: carried on it means little after a few "
            "months"
        )
    if trend.monthly_growth <= 0:
        said.append("use does not grow: no limit comes nearer, and fewer cards may do")
    if proposal.traffic.demand is not None and proposal.chosen.short:
        said.append(f"today's busiest hour already lacks {proposal.chosen.short} replica(s)")
    return said
