"""A simulated fleet whose replicas come and go: by what `traffic/autoscale.py` wants, after the time a start takes.

All engines that there may ever be exist from the beginning; those that are off take no calls. One that is wanted is
ready `start_s` later with an empty cache, and counts as running from when it was begun, as it is paid for. One that is
no longer wanted takes no new calls, ends those it has, and is off then. Newest engines go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from gemstead.simulate.engine import Engine
from gemstead.simulate.fleet import Conditions, Fleet, Gateway
from gemstead.simulate.outcome import SERVED, Run
from gemstead.simulate.replica import Replica
from gemstead.simulate.report import quantile
from gemstead.simulate.workload import Workload
from gemstead.traffic.autoscale import Seen
from gemstead.traffic.policy import Policy

SCALE, STARTED = 100, 101
RECENT_S = 60.0  # over which latencies are looked at
AIMED = 0.9  # the percentile of them
LEAST_SEEN = 20  # answers of fewer say nothing

Decide = Callable[[Seen, float], int]  # (what is the case, when): how many replicas


class Elastic(Fleet):
    """One run with a scaler. Times are seconds."""

    def __init__(
        self,
        load: Workload,
        engines: Sequence[Engine],
        policies: Callable[[Sequence[Replica]], Sequence[Policy]],
        conditions: Conditions,
        decide: Decide,
        *,
        begin: int = 1,
        start_s: float = 180.0,
        look_s: float = 10.0,
    ) -> None:
        super().__init__(load, engines, policies, conditions)
        self._decide, self._start_s, self._look_s = decide, start_s, look_s
        self._since = dict.fromkeys(range(begin), 0.0)  # engines that are paid for
        self._leaving: set[int] = set()
        self._recent: deque[tuple[float, float, float]] = deque()  # (when, first token, each further)
        self.replica_s = 0.0  # that were paid for
        for place in range(begin, len(engines)):
            self._set(place, ready=False)

    def run(self) -> Run:
        """Play the workload to its end."""
        run = super().run()
        self.replica_s += sum(run.until_s - since for since in self._since.values())
        self._since.clear()
        return run

    def _prepare(self) -> None:
        super()._prepare()
        self._push(self._look_s, SCALE, 0, None)

    def _happen(self, kind: int, which: int, what: object, now: float) -> None:
        if kind == SCALE:
            self._scale(now)
        elif kind == STARTED:
            if self._since.get(which) == what:  # it was not given up meanwhile
                self._set(which, ready=True)
                for gateway in self.gateways:
                    self._take(gateway, now)
        else:
            super()._happen(kind, which, what, now)

    def _end(self, number: int, status: str, now: float) -> None:
        super()._end(number, status, now)
        one = self.outcomes[number]
        if status == SERVED:
            self._recent.append((now, one.ttft_s, one.tpot_s))
        if one.replica in self._leaving and not self._busy(one.replica):
            self._off(one.replica, now)

    def _scale(self, now: float) -> None:
        self._push(now + self._look_s, SCALE, 0, None)
        wanted = self._decide(self._seen(now), now)
        staying = [place for place in self._since if place not in self._leaving]
        for place in sorted(staying, reverse=True)[: max(len(staying) - wanted, 0)]:
            self._leaving.add(place)
            self._set(place, ready=self.gateways[0].endpoints[place].facts.ready, draining=True)
            if not self._busy(place):
                self._off(place, now)
        for place in sorted(self._leaving)[: max(wanted - len(staying), 0)]:  # it has its cache still
            self._leaving.discard(place)
            self._set(place, ready=self.gateways[0].endpoints[place].facts.ready)
            staying.append(place)
        free = (place for place in range(len(self.replicas)) if place not in self._since)
        for place in [*free][: max(wanted - len(staying), 0)]:
            self._since[place] = now
            self._push(now + self._start_s, STARTED, place, now)

    def _seen(self, now: float) -> Seen:
        recent = self._recent
        while recent and recent[0][0] < now - RECENT_S:
            recent.popleft()
        known = len(recent) >= LEAST_SEEN
        return Seen(
            replicas=len(self._since) - len(self._leaving),
            running_calls=sum(one.in_flight for gateway in self.gateways for one in gateway.endpoints),
            waiting_calls=sum(len(gateway.queue) for gateway in self.gateways if gateway.queue is not None),
            ttft_s=quantile(sorted(first for _, first, _ in recent), AIMED) if known else 0.0,
            tpot_s=quantile(sorted(each for _, _, each in recent), AIMED) if known else 0.0,
        )

    def _busy(self, place: int) -> bool:
        return any(gateway.endpoints[place].in_flight for gateway in self.gateways)

    def _off(self, place: int, now: float) -> None:
        self._leaving.discard(place)
        self.replica_s += now - self._since.pop(place)
        self.replicas[place].cache.clear()
        self._set(place, ready=False)

    def _set(self, place: int, *, ready: bool, draining: bool = False) -> None:
        for gateway in self.gateways:
            _tell(gateway, place, ready, draining)


def _tell(gateway: Gateway, place: int, ready: bool, draining: bool) -> None:
    endpoint = gateway.endpoints[place]
    if not ready:
        gateway.policy.forget(endpoint.name)
    endpoint.facts = replace(endpoint.facts, ready=ready, draining=draining)
