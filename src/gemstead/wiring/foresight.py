"""What the autoscaler is told beside the load of this moment: how late tokens are, and what the hour will bring.

Latencies are the 90th percentile of what the gateway's workers counted in the last minute. What is to come is
`traffic/season.py`'s: it learns from the audit records of the last two weeks when the service starts, and from then on
from what it sees; it looks as far ahead as starting a replica takes, which is measured whenever one becomes ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from gemstead.engines.canary import Outcome
from gemstead.ledger.read import Usage
from gemstead.observe.metrics import Snapshot
from gemstead.spec.autoscale import AutoscaleHoursSpec, AutoscaleSpec
from gemstead.traffic.autoscale import Seen
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.season import Hours, Outlook, planned
from gemstead.wiring.rollouts import BOUNDS, less, outcome
from gemstead.wiring.secrets import CannotRun

RECENT_S, MARK_S = 60.0, 10.0  # of latencies, and between two marks from which they are counted
AIMED = 0.9
LEAST_ANSWERS = 20  # in that time; fewer say nothing
START_S = 60.0  # until one start was measured
AHEAD = 1.5  # times what a start took: it is looked at some times a minute, and no two starts are alike
PAST_S = 14 * 86_400.0
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
USUAL = AutoscaleSpec(most=64)
History = Callable[[float, float], Iterable[Usage]]  # what each hour and model used in [since, until)
log = logging.getLogger("gemstead")


@dataclass(slots=True)
class _Pool:
    """What is known of one model."""

    outlook: Outlook = field(default_factory=Outlook)
    start_s: float = 0.0  # that a start took, lately; 0: none was seen
    starting: dict[str, float] = field(default_factory=dict)  # since when each is not ready
    marks: deque[tuple[float, Outcome]] = field(default_factory=deque)


class Foresight:
    """Adds to what is seen of each model. `wall` tells the time of day."""

    def __init__(
        self,
        figures: Callable[[], Awaitable[Snapshot]],
        wall: Callable[[], float],
        history: History | None = None,
    ) -> None:
        self._figures, self._wall, self._history = figures, wall, history
        self._pools: dict[str, _Pool] = {}
        self._past: asyncio.Task[None] | None = None

    async def see(
        self, pool: str, spec: AutoscaleSpec | None, engines: Sequence[EndpointFacts], seen: Seen, now: float
    ) -> Seen:
        """The same with latencies, calls to come and the calendar's replicas; `now` is monotonic."""
        own, known = spec or USUAL, self._pools.setdefault(pool, _Pool())
        if self._past is None and self._history is not None:
            self._past = asyncio.create_task(self._learn(own))
        _starts(known, engines, now)
        zone, wall = zone_of(own.timezone), self._wall()
        at, ahead_h = week_h(wall, zone), AHEAD * (known.start_s or START_S) / 3600.0
        calls = seen.running_calls + seen.waiting_calls
        known.outlook.look(at, calls)
        ttft_s, tpot_s = 0.0, 0.0
        if own.first_token_s or own.token_s:
            ttft_s, tpot_s = late(known.marks, outcome(await self._figures(), _names(engines)), now)
        return replace(
            seen,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            forecast_calls=known.outlook.foresee(at, ahead_h) if own.forecast else 0.0,
            forecast_replicas=planned(hours_of(own.hours), at, ahead_h),
        )

    async def _learn(self, spec: AutoscaleSpec) -> None:
        """Take in what the audit log knows of the last two weeks; whatever fails leaves nothing foreseen."""
        assert self._history is not None
        now, zone = self._wall(), zone_of(spec.timezone)
        try:
            past = await asyncio.to_thread(lambda: list(self._history(now - PAST_S, now - now % 3600.0)))  # type: ignore[misc]
        except Exception as error:
            log.info("no forecast from the audit log: %s", error)
            return
        for pool, hours in by_hour(past).items():
            season = self._pools.setdefault(pool, _Pool()).outlook.season
            began = min(hours)
            for at in range(int(began), int(now - now % 3600.0), 3600):  # an hour without a call is known too
                season.learn(int(week_h(float(at), zone)), hours.get(float(at), 0.0))
        log.info("what each hour brings was learned from %d hours of the audit log", len(past))


def by_hour(past: Iterable[Usage]) -> dict[str, dict[float, float]]:
    """Mean calls in flight of each model by the hour (seconds since 1970) in which they began."""
    found: dict[str, dict[float, float]] = {}
    for one in past:
        at = datetime.strptime(one.by["hour"], "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()
        found.setdefault(one.by["model"], {})[at] = one.requests * one.mean_s / 3600.0
    return found


def late(marks: deque[tuple[float, Outcome]], total: Outcome, now: float) -> tuple[float, float]:
    """First and further tokens' 90th percentile in about the last minute; 0 where too few were answered."""
    while len(marks) > 1 and marks[1][0] <= now - RECENT_S:
        marks.popleft()
    if not marks or now - marks[-1][0] >= MARK_S:
        marks.append((now, total))
    recent = less(total, [marks[0][1]])
    return percentile(recent.first_token), percentile(recent.per_token)


def percentile(counts: Sequence[int]) -> float:
    """The upper bound of the bucket in which `AIMED` of the counts is reached; 0 of too few."""
    total, reached = sum(counts), 0
    if total < LEAST_ANSWERS:
        return 0.0
    for bound, count in zip(BOUNDS, counts, strict=False):
        reached += count
        if reached >= AIMED * total:
            return bound
    return 2.0 * BOUNDS[-1]


def hours_of(said: Iterable[AutoscaleHoursSpec]) -> list[Hours]:
    """The calendar of the file as numbers."""
    return [
        Hours(tuple(DAYS.index(day) for day in one.days), _clock(one.start), _clock(one.end), one.least)
        for one in said
    ]


def zone_of(name: str, where: str = "timezone") -> tzinfo | None:
    """The timezone of that name; None: this machine's.

    Raises:
        CannotRun: there is none of that name.
    """
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise CannotRun(f"{where}: there is no timezone {name!r}; write it as `Europe/Berlin`") from None


def week_h(at: float, zone: tzinfo | None) -> float:
    """Hours since Monday 0:00 of that timezone."""
    local = datetime.fromtimestamp(at, UTC).astimezone(zone)
    return local.weekday() * 24 + local.hour + local.minute / 60 + local.second / 3600


def _clock(text: str) -> float:
    hours, _, minutes = text.partition(":")
    return int(hours) + int(minutes) / 60


def _starts(known: _Pool, engines: Sequence[EndpointFacts], now: float) -> None:
    """Measure how long engines take to become ready."""
    for facts in engines:
        if facts.draining:
            known.starting.pop(facts.name, None)
        elif not facts.ready:
            known.starting.setdefault(facts.name, now)
        elif (began := known.starting.pop(facts.name, None)) is not None:
            took = now - began
            known.start_s = took if not known.start_s else 0.5 * (known.start_s + took)
    names = set(_names(engines))
    for gone in known.starting.keys() - names:
        del known.starting[gone]


def _names(engines: Iterable[EndpointFacts]) -> list[str]:
    return [facts.name for facts in engines]
