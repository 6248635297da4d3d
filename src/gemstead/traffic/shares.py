"""Who has more than its share of what runs, while there is not enough for all.

A fair queue gives a tenant that asks for little its turn as soon as anything becomes free. But when one tenant's calls
hold every place, and every engine reads one of its long prompts, that moment is late: the call then waits for an answer
to end and for prompts to be read, although its tenant has hardly used anything. So *heavy* tenants do not get the last
places and the last moments of reading of an engine (`admission.py`); all others find these free. Heavy is who has an
equal part of the tokens in flight (by weight, among the tenants of one priority that were there lately), and with what
it has waiting would have `MORE` times that; both on average over `MEAN_S`, because a few calls at once are no flood.
Where all are heavy nobody is, and one tenant alone may have everything.

Nothing is counted per call. Whoever has a queue hands in what is in flight (`Shares.measure`) some times a second while
calls wait, and until none has for `CALM_S`. A tenant that is held back until it has less than an equal part is no
longer heavy, so nobody starves of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

Who = tuple[int, str]  # priority, tenant

MORE = 1.25  # times its equal part: less is chance
ACTIVE_S = 10.0  # a tenant without calls for so long leaves its part to the others
CALM_S = 2.0  # with nobody waiting
MEAN_S = 1.0
LOOK_S = 0.1  # between two measures
MOST_TENANTS = 4096


class Shares:
    """What is known of one pool."""

    __slots__ = ("_active", "_asked", "_measured_at", "_used", "_waited_at", "heavy", "look_at")

    def __init__(self) -> None:
        self.heavy: frozenset[Who] = frozenset()
        self.look_at = -inf  # when `measure` should be called again while calls wait or some are heavy
        self._active: dict[Who, float] = {}  # when each last had calls
        self._used: dict[Who, float] = {}  # tokens in flight on average, and waiting
        self._asked: dict[Who, float] = {}
        self._waited_at = self._measured_at = -inf

    def is_heavy(self, priority: int, tenant: str) -> bool:
        """Whether this tenant's calls of this priority are to leave room for others'."""
        return bool(self.heavy) and (priority, tenant) in self.heavy

    def measure(
        self,
        in_flight: Iterable[tuple[int, str, float]],
        waiting: Iterable[tuple[int, str, float]],
        weights: Mapping[str, float],
        now: float,
    ) -> None:
        """Look anew at who has how much.

        Args:
            in_flight: priority, tenant and tokens of each call that an engine works on.
            waiting: the same of what waits, by call or by tenant.
        """
        self.look_at = now + LOOK_S
        used, asked = _summed(in_flight), _summed(waiting)
        if asked:
            self._waited_at = now
        elif now - self._waited_at > CALM_S:
            self.heavy, self._used, self._asked = frozenset(), {}, {}
            return
        weight = min(1.0, (now - self._measured_at) / MEAN_S) if self._used else 1.0
        self._measured_at = now
        self._active.update(dict.fromkeys((*used, *asked), now))
        self._active = active = {who: at for who, at in self._active.items() if now - at <= ACTIVE_S}
        if len(active) > MOST_TENANTS:
            self._active = active = dict(sorted(active.items(), key=_when)[-MOST_TENANTS:])
        self._used = used = _mean(self._used, used, active, weight)
        self._asked = asked = _mean(self._asked, asked, active, weight)
        bands: dict[int, list[Who]] = {}
        for who in active:
            bands.setdefault(who[0], []).append(who)
        self.heavy = frozenset(who for band in bands.values() for who in _heavy(band, used, asked, weights))


def _heavy(
    band: Sequence[Who], used: Mapping[Who, float], asked: Mapping[Who, float], weights: Mapping[str, float]
) -> list[Who]:
    """Those of one priority that have their part and want more; nobody where all do."""
    each = sum(used.get(who, 0.0) for who in band) / sum(weights.get(who[1], 1.0) for who in band)
    heavy = []
    for who in band:
        part, has = each * weights.get(who[1], 1.0), used.get(who, 0.0)
        if has >= part and has + asked.get(who, 0.0) > MORE * part:
            heavy.append(who)
    return heavy if len(heavy) < len(band) else []


def _mean(
    before: Mapping[Who, float], now: Mapping[Who, float], active: Iterable[Who], weight: float
) -> dict[Who, float]:
    return {who: (1.0 - weight) * before.get(who, 0.0) + weight * now.get(who, 0.0) for who in active}


def _summed(tokens: Iterable[tuple[int, str, float]]) -> dict[Who, float]:
    sums: dict[Who, float] = {}
    for priority, tenant, count in tokens:
        who = (priority, tenant)
        sums[who] = sums.get(who, 0.0) + count
    return sums


def _when(entry: tuple[Who, float]) -> float:
    return entry[1]
