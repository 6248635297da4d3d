"""Growth over the coming months, and when it meets each limit.

What was used grows by a share each month and swings with the season; from daily values both are estimated:

    log(use) = level + growth x day + weekday + noise

fitted by least squares after each weekday's own mean is taken out, because a service for offices rests on Sundays and
a month may have five of them. The season of a year cannot be seen in less than two years of days, so it is given.

The bounds are those of a straight line's prediction: they widen with the distance from the days that were seen, and
with how much those scattered. They know nothing of a new product or a lost customer.

Days count from 0; nothing here reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gemstead.plan.throughput import Range

DAYS_A_MONTH = 365.25 / 12
SURE = 1.28  # standard deviations: four of five outcomes lie between the bounds
LEAST_DAYS = 14  # fewer cannot tell growth from a week's pattern
MOST_RATIO = 1e6  # beyond this a forecast says nothing any more


@dataclass(frozen=True, slots=True)
class Trend:
    """How something grows: its level at day 0 of the forecast, and per month."""

    level: float  # a day's mean now
    monthly_growth: float  # 0.1 is 10 % a month
    weekdays: tuple[float, ...] = (1.0,) * 7  # factors, from the first day that was seen; their mean is 1
    scatter: float = 0.0  # of single days, as a share
    growth_error: float = 0.0  # of the monthly growth, as a share
    days_seen: int = 0


@dataclass(frozen=True, slots=True)
class Month:
    """One month of a forecast. `busiest_day` is the mean times the busiest weekday."""

    number: int  # 1 is the coming month
    mean: Range
    busiest_day: Range


@dataclass(frozen=True, slots=True)
class Reached:
    """When a limit is met."""

    name: str
    limit: float
    month: float | None  # from now, at the likely growth; None: not within the forecast. 0: already
    earliest: float | None  # at the upper bound
    margin: float  # of the limit over today's busiest day: 1 means that it is met now


def trend_of(daily: Sequence[float]) -> Trend:
    """The trend of daily values, oldest first.

    Raises:
        ValueError: too few days, or a day below zero.
    """
    if len(daily) < LEAST_DAYS or any(value < 0 or not math.isfinite(value) for value in daily):
        raise ValueError(f"{LEAST_DAYS} days of values of zero or more are needed to see growth")
    mean = sum(daily) / len(daily)
    if mean == 0:
        return Trend(0.0, 0.0, days_seen=len(daily))
    logs = [math.log(max(value, mean / 100)) for value in daily]  # a day off is not minus infinity
    slope, swing = _fitted(logs)
    level_log = _level(logs, slope, swing)
    residuals = [
        log - level_log - slope * (day - len(logs) + 1) - swing[day % 7] for day, log in enumerate(logs)
    ]
    free = max(1, len(logs) - 8)
    scatter = math.sqrt(sum(residual * residual for residual in residuals) / free)
    centre = (len(logs) - 1) / 2
    across = math.sqrt(sum((day - centre) ** 2 for day in range(len(logs))))
    weekdays = [math.exp(value) for value in swing]
    usual = sum(weekdays) / 7
    return Trend(
        level=math.exp(level_log) * usual,
        monthly_growth=math.expm1(slope * DAYS_A_MONTH),
        weekdays=tuple(value / usual for value in weekdays),
        scatter=scatter,
        growth_error=scatter / across * DAYS_A_MONTH,
        days_seen=len(daily),
    )


def _fitted(logs: Sequence[float]) -> tuple[float, list[float]]:
    """Slope a day and the seven weekdays' parts, by turns until neither moves: least squares of both together."""
    slope, swing = 0.0, [0.0] * 7
    days = range(len(logs))
    centre = (len(logs) - 1) / 2
    across = sum((day - centre) ** 2 for day in days)
    for _ in range(50):
        flat = [log - swing[day % 7] for day, log in enumerate(logs)]
        slope = sum((day - centre) * value for day, value in zip(days, flat, strict=True)) / across
        level = sum(flat) / len(flat)
        rest = [log - level - slope * (day - centre) for day, log in enumerate(logs)]
        swing = [_mean(rest[weekday::7]) for weekday in range(7)]
        middle = sum(swing) / 7
        swing = [value - middle for value in swing]
    return slope, swing


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _level(logs: Sequence[float], slope: float, swing: Sequence[float]) -> float:
    """The line's height at the last day that was seen."""
    last = len(logs) - 1
    return _mean([log - swing[day % 7] + slope * (last - day) for day, log in enumerate(logs)])


def forecast(
    trend: Trend, months: int = 12, season: Sequence[float] = (1.0,) * 12, first_month: int = 0
) -> tuple[Month, ...]:
    """The coming months, each at its middle.

    Args:
        trend: of `trend_of`, or made by hand from a level and a growth.
        months: how many, 1 to 36.
        season: factors of the twelve months from January; a mean of 1 keeps the level.
        first_month: which of them is the coming month, 0 is January.

    Raises:
        ValueError: as many months, or a season of another length.
    """
    if not 1 <= months <= 36 or len(season) != 12:
        raise ValueError("1 to 36 months, and a season of twelve factors")
    now = season[(first_month - 1) % 12]
    made = []
    for number in range(1, months + 1):
        factor = season[(first_month + number - 1) % 12] / now if now else 1.0
        mean = _at(trend, number - 0.5).times(factor)
        made.append(Month(number, mean, mean.times(max(trend.weekdays))))
    return tuple(made)


def _at(trend: Trend, months: float) -> Range:
    likely = trend.level * min(MOST_RATIO, max(0.0, 1 + trend.monthly_growth) ** months)
    spread = math.hypot(trend.growth_error * months, trend.scatter / math.sqrt(DAYS_A_MONTH))
    factor = math.exp(min(SURE * spread, math.log(MOST_RATIO)))
    return Range(likely / factor, likely, likely * factor)


def reached(months: Sequence[Month], now: float, limits: Mapping[str, float]) -> tuple[Reached, ...]:
    """When the busiest day meets each limit, soonest first; limits in the unit of the forecast.

    Args:
        months: of `forecast`.
        now: today's busiest day.
        limits: such as {"tokens a day of 4 GPUs": 2e9, "requests a day of the quota": 5e6}.
    """
    found = [
        Reached(
            name,
            limit,
            _crossing(
                [(0.0, now), *((month.number - 0.5, month.busiest_day.likely) for month in months)], limit
            ),
            _crossing(
                [(0.0, now), *((month.number - 0.5, month.busiest_day.high) for month in months)], limit
            ),
            limit / now if now else math.inf,
        )
        for name, limit in limits.items()
    ]
    return tuple(sorted(found, key=lambda one: math.inf if one.month is None else one.month))


def _crossing(points: Sequence[tuple[float, float]], limit: float) -> float | None:
    """Where a line through points first reaches a height; None: nowhere."""
    if points[0][1] >= limit:
        return 0.0
    for (left, low), (right, high) in pairwise(points):
        if high >= limit:
            return left + (right - left) * (limit - low) / (high - low)
    return None
