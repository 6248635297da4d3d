"""What cards cost to rent and tokens cost to buy, each price with its day and its source.

Prices are dated facts and never constants: inside 2026 the spot price of an H100 at one cloud went from 2.51 to 6.57
dollars. So every price carries when it was read, `stale` says which are too old to decide by, and a user's own file
(`overlay`) goes over what is built in. A day that is known only to the month or the year counts as the first of it:
as old as it may be.

All prices are US dollars without tax. Rent is for one accelerator and one hour, whatever size of machine it is sold
in. Tokens are by the million.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from gemstead.catalog import data

STALE_DAYS = 90  # rents have doubled within a quarter
RENT_KINDS = ("on-demand", "spot", "flex-start", "per-second", "list", "reserved", "part", "spot-part")


@dataclass(frozen=True, slots=True)
class Price:
    """What renting one accelerator for an hour costs somewhere, in US dollars."""

    accelerator: str  # its id
    who: str  # provider, machine and region as the source names them
    usd_hour: float
    kind: str  # one of RENT_KINDS; a `part` is the card alone, without its machine
    read: datetime.date  # as old as it may be
    source: str
    machine_usd_hour: float | None = None  # the whole machine, where it is sold as one
    note: str = ""
    mine: bool = False  # from the user's own file
    read_text: str = ""  # the day as far as it is known: `2026-03`, `2026`; empty: `read` is the very day

    @property
    def day(self) -> str:
        """When it was read, as far as that is known."""
        return self.read_text or self.read.isoformat()


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """What a million tokens of a model cost at a provider, in US dollars."""

    provider: str
    model: str  # the size: "31B"
    input_usd: float
    output_usd: float
    read: datetime.date
    source: str
    cached_usd: float | None = None
    note: str = ""
    mine: bool = False
    read_text: str = ""  # as in Price

    @property
    def day(self) -> str:
        """When it was read, as far as that is known."""
        return self.read_text or self.read.isoformat()

    @property
    def is_paid(self) -> bool:
        """False for a free tier, which is rate-limited and no basis for a comparison."""
        return self.input_usd > 0 or self.output_usd > 0

    def blended_usd(self, input_per_output: float = 3.0) -> float:
        """Dollars for a million tokens when each output token comes with this many of input."""
        return (self.input_usd * input_per_output + self.output_usd) / (input_per_output + 1)


@dataclass(frozen=True, slots=True)
class Purchase:
    """What one accelerator costs to buy new, in US dollars without tax, and who says so."""

    low_usd: float | None
    high_usd: float | None
    list_usd: float | None
    read: datetime.date
    source: str
    mine: bool = False
    read_text: str = ""  # as in Price

    @property
    def day(self) -> str:
        """When it was read, as far as that is known."""
        return self.read_text or self.read.isoformat()

    @property
    def middle_usd(self) -> float:
        """One figure for arithmetic: the middle of the range, else the list price."""
        known = [price for price in (self.low_usd, self.high_usd) if price is not None]
        return sum(known) / len(known) if known else float(self.list_usd or 0)


@cache
def gpu_prices() -> tuple[Price, ...]:
    """Every rent that is built in."""
    file = data.read("prices")
    return tuple(_price(entry, file["sources"]) for entry in file["rent"])


@cache
def api_prices() -> tuple[ApiPrice, ...]:
    """Every price of tokens that is built in."""
    file = data.read("prices")
    return tuple(_api_price(entry, file["sources"]) for entry in file["api"])


def rents(accelerator: str, kind: str = "", among: Sequence[Price] | None = None) -> tuple[Price, ...]:
    """The rents of one accelerator, cheapest first; the user's own before all others.

    A MIG slice is rented as its share of a card only by arithmetic: ask for the card.
    """
    known = gpu_prices() if among is None else among
    found = [one for one in known if one.accelerator == accelerator and kind in ("", one.kind)]
    return tuple(sorted(found, key=lambda one: (not one.mine, one.usd_hour)))


def api(model: str, among: Sequence[ApiPrice] | None = None) -> tuple[ApiPrice, ...]:
    """The paid prices of a model's tokens, cheapest first at three tokens in for one out; the user's own before all."""
    known = api_prices() if among is None else among
    found = [one for one in known if one.model == model and one.is_paid]
    return tuple(sorted(found, key=lambda one: (not one.mine, one.blended_usd())))


def typical(prices: Sequence[Price]) -> float | None:
    """One rent for arithmetic, dollars an hour: the median of the user's own, else of those on demand; None: not known.

    Where nothing is offered on demand, the other kinds count. A card without its machine and a list price at which
    nobody can order never do.
    """
    orderable = [one for one in prices if one.kind not in ("part", "spot-part", "list")]
    mine = [one for one in orderable if one.mine]
    counted = mine or [one for one in orderable if one.kind == "on-demand"] or orderable
    return median(one.usd_hour for one in counted) if counted else None


def is_stale(price: Price | ApiPrice | Purchase, today: datetime.date) -> bool:
    """Whether a price is too old to decide by."""
    return (today - price.read).days > STALE_DAYS


def staleness(prices: Iterable[Price | ApiPrice | Purchase], today: datetime.date) -> str:
    """A warning when some of these prices are too old to decide by; empty when none is."""
    read = [one.read for one in prices]
    old = [day for day in read if (today - day).days > STALE_DAYS]
    if not old:
        return ""
    share = "the price is" if len(read) == 1 else f"{len(old)} of {len(read)} prices are"
    share = "all prices are" if 1 < len(read) == len(old) else share
    return (
        f"{share} older than {STALE_DAYS} days (the oldest was read in {min(old):%B %Y}): check before you "
        "decide, and say yours with `gemstead catalog refresh FILE`"
    )


def day_of(text: str | datetime.date) -> datetime.date:
    """`2026-10-07`, `2026-10` or `2026` as the first day that it may mean.

    Raises:
        ValueError: it is no day.
    """
    if isinstance(text, datetime.date):
        return text
    parts = [int(part) for part in str(text).split("-")]
    return datetime.date(*[*parts, 1, 1][:3])


def _price(entry: dict[str, Any], sources: dict[str, Any]) -> Price:
    source = sources[entry["source"]]
    return Price(
        accelerator=entry["gpu"],
        who=entry["who"],
        usd_hour=entry["usd_hour"],
        kind=entry["kind"],
        read=day_of(entry.get("read", source["read"])),
        source=source["name"],
        machine_usd_hour=entry.get("machine_usd_hour"),
        note=entry.get("note", ""),
        read_text=str(entry.get("read", source["read"])),
    )


def _api_price(entry: dict[str, Any], sources: dict[str, Any]) -> ApiPrice:
    source = sources[entry["source"]]
    return ApiPrice(
        provider=entry["provider"],
        model=entry["model"],
        input_usd=entry["in"],
        output_usd=entry["out"],
        read=day_of(entry.get("read", source["read"])),
        source=source["name"],
        cached_usd=entry.get("cached"),
        note=entry.get("note", ""),
        read_text=str(entry.get("read", source["read"])),
    )
