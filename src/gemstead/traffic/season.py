"""What a pool's load will be by the hour of the week: what it was at that hour before, and how today compares.

`Season` keeps the mean number of calls in flight (and waiting) for each of the 168 hours of a week, over about the last
`WEEKS` weeks. An hour that was never seen is taken for the mean of the same hour on days of its kind (Monday to Friday,
or the weekend); where those are unknown too nothing is foreseen.

`Outlook` looks at a pool as time passes. It learns each hour when it is over, and how today compares with what was
expected (`level`, over about the last hour): on a holiday little comes, and an hour later little is expected. What it
foresees is the most within the time that a replica needs to start. Hours of the week are numbers from 0 (Monday 0:00)
up to 168, in whatever timezone the caller keeps.

`planned` is the calendar that a person wrote: so many replicas at these hours, beginning earlier by the time to start.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import floor

import msgspec

WEEK = 168
WEEKS = 4.0
LEVEL_H = 0.5  # hours over which today is compared
MOST_LEVEL = 2.0
LEAST_CALLS = 1.0  # added on both sides of the comparison, so that nights say little
WORKDAYS = range(5)


class Hours(msgspec.Struct, frozen=True):
    """So many replicas on these days (0 is Monday) from `start` to `end`, hours of a day; over midnight if turned."""

    days: tuple[int, ...]
    start: float
    end: float
    least: int


class Season:
    """Mean calls by hour of the week."""

    def __init__(self) -> None:
        self._means = [0.0] * WEEK
        self._weeks = [0.0] * WEEK

    def learn(self, hour: int, calls: float) -> None:
        """An hour is over, in which so many calls were there on average."""
        place = hour % WEEK
        self._weeks[place] = weeks = min(self._weeks[place] + 1.0, WEEKS)
        self._means[place] += (calls - self._means[place]) / weeks

    def expect(self, hour: int) -> float:
        """Mean calls of that hour; 0 where nothing is known."""
        place = hour % WEEK
        if self._weeks[place]:
            return self._means[place]
        day, at = divmod(place, 24)
        alike = [one for one in range(7) if (one in WORKDAYS) == (day in WORKDAYS)]
        known = [self._means[one * 24 + at] for one in alike if self._weeks[one * 24 + at]]
        return sum(known) / len(known) if known else 0.0


class Outlook:
    """A pool's load so far, and what is to come."""

    def __init__(self, season: Season | None = None) -> None:
        self.season = season or Season()
        self.level = 1.0  # today, times what was expected
        self._week_h = -1.0  # of the last look
        self._from_h = 0.0  # since when the hour is watched
        self._sum = 0.0  # calls x hours

    def look(self, week_h: float, calls: float) -> None:
        """So many calls are in flight and waiting now."""
        last, self._week_h = self._week_h, week_h
        if last < 0.0:
            self._from_h = week_h
            return
        passed_h = (week_h - last) % WEEK
        if passed_h > 1.0:  # nobody looked: what was then is not known
            self._from_h, self._sum = week_h, 0.0
            return
        if floor(week_h) != floor(last):
            watched_h = (last - self._from_h) % WEEK
            if watched_h >= 0.5:
                self.season.learn(floor(last), self._sum / watched_h)
            self._from_h, self._sum = week_h, 0.0
        else:
            self._sum += calls * passed_h
        expected = self.season.expect(floor(week_h))
        ratio = (calls + LEAST_CALLS) / (expected + LEAST_CALLS) if expected else 1.0
        weight = min(1.0, passed_h / LEVEL_H)
        self.level += weight * (min(ratio, MOST_LEVEL) - self.level)

    def foresee(self, week_h: float, ahead_h: float) -> float:
        """Calls that will be there at most at some time from now until so many hours later; 0: nothing is foreseen."""
        first, last = floor(week_h), floor(week_h + ahead_h)
        return self.level * max(self.season.expect(hour) for hour in range(first, last + 1))


def planned(hours: Iterable[Hours], week_h: float, ahead_h: float) -> int:
    """Replicas that the calendar wants from now until so many hours later; 0: it says nothing."""
    least = 0
    for each in hours:
        lasts = (each.end - each.start) % 24.0 or 24.0
        for day in each.days:
            since = (week_h - (day * 24.0 + each.start)) % WEEK
            if since < lasts or since + ahead_h >= WEEK:
                least = max(least, each.least)
    return least
