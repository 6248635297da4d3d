"""Where calls wait while a model is full: who is next, who is turned away, and what they are told.

One queue for each pool. It is a data structure: it is told what comes and what time it is, and answers with the calls
that may go, or must. Three tiers decide who is next:

    priority    strict: nobody waits behind a call of lower priority
    tenant      within a priority, fair by tokens (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996; the
                virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, is the
                same idea): each tenant has a clock that its calls' tokens push on, and the tenant whose clock is
                earliest is next. A tenant that was away begins at the band's clock, so absence earns nothing. What an
                answer really cost is charged afterwards (`settle`).
    call        within a tenant, by what is due first where calls have an aim for their first token, else by arrival;
                but a call whose prompt takes long to read stands so much further behind (`STRETCH` times that): when
                more comes than can be done, somebody has to go, and one long prompt costs many short ones. Each
                `OLDEST_EVERY`-th call of a tenant's is the one that came first, so long ones get their turn too.

Tenants that have more than their share of what runs (`shares.py`) are passed over where only room is left that is kept
for the others (`take` with `light`).

It is bounded in requests, bytes and seconds. When it is full, the right work goes: of the lowest priority there is, the
newest call of the tenant that has the most ahead of it, by its clock and by what it has waiting; which may be the one
that has just come, and is never a call of higher priority than the newcomer's. What has waited for its time is
taken out by `expire`, and what can no longer meet its aim goes too: answering it late would make the next ones late.

While no endpoint is ready at all (a model that was scaled to nothing and is starting) the same queue is its waiting
room, with a time limit of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from math import inf

import msgspec

from gemstead.refused import Reason, Refused
from gemstead.traffic.shares import Shares

MOST_REQUESTS = 5000  # llm-d-router's flow control: 5 000 requests, 1 GB, 60 s a band
MOST_BYTES = 1 << 30
MOST_WAIT_S = 60.0
STARTING_WAIT_S = 300.0  # an engine that starts needs minutes: 15 s to 13 min have been seen
MOST_BANDS = 64  # priorities that are remembered although nothing of theirs waits
MOST_TENANTS = 4096  # whose clocks are kept although nothing of theirs waits
RETRY_LEAST_S, RETRY_MOST_S = 1.0, 60.0
DRAIN_FORGET = 0.05
# Chosen with benchmarks/traffic/overload.py: at three times what can be done, first come first served gets 0.90 of the
# goodput of one time done, this 1.06; 3 and 100 do about as well. Without the second one long prompts would starve.
STRETCH = 10.0
OLDEST_EVERY = 4


class QueueBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait."""

    requests: int = MOST_REQUESTS
    bytes: int = MOST_BYTES
    wait_s: float = MOST_WAIT_S
    starting_wait_s: float = STARTING_WAIT_S


class Waiting:
    """A call that waits. `ticket` is whatever the caller wants back; it is not looked at."""

    __slots__ = (
        "arrived_at",
        "due_at",
        "gone",
        "number",
        "priority",
        "read_s",
        "size_bytes",
        "tenant",
        "ticket",
        "tokens",
    )

    def __init__(
        self,
        ticket: object,
        tenant: str,
        priority: int,
        tokens: float,
        size_bytes: int,
        due_at: float = inf,
        read_s: float = 0.0,
    ) -> None:
        self.ticket = ticket
        self.tenant = tenant
        self.priority = priority
        self.tokens = max(tokens, 1.0)  # prompt and expected answer
        self.size_bytes = size_bytes
        self.due_at = due_at  # when it must have begun to meet its aim; inf: it has none
        self.read_s = read_s  # what reading its prompt would take; 0 is unknown
        self.arrived_at = 0.0
        self.number = 0
        self.gone = True  # not in a queue


class Flow:
    """One tenant within one priority."""

    __slots__ = ("calls", "clock", "count", "order", "taken", "tokens", "weight")

    def __init__(self, clock: float, weight: float) -> None:
        self.clock = clock  # virtual: tokens over weight
        self.weight = weight
        # A heap: what is due first, then what came first, each so much later as its prompt takes.
        self.calls: list[tuple[float, float, int, Waiting]] = []
        self.order: deque[Waiting] = deque()  # the newest last
        self.taken = 0
        self.count = 0  # that are still there
        self.tokens = 0.0  # of these

    @property
    def ahead(self) -> float:
        """Where the clock will be when all that waits has been served."""
        return self.clock + self.tokens / self.weight


class Band:
    """One priority."""

    __slots__ = ("clock", "count", "flows", "waiting")

    def __init__(self) -> None:
        self.clock = 0.0
        self.count = 0
        self.flows: dict[str, Flow] = {}
        self.waiting: dict[str, Flow] = {}  # those of the flows in which a call waits


class Queue:
    """The calls that wait for one pool."""

    def __init__(self, bounds: QueueBounds | None = None, weights: dict[str, float] | None = None) -> None:
        self.bounds = bounds or QueueBounds()
        self.weights = weights or {}  # of tenants; 1 where none is given
        self.bytes = 0
        self.tokens = 0.0
        self._count = 0
        self._numbers = 0
        self._bands: dict[int, Band] = {}
        self._ends: list[tuple[float, int, Waiting]] = []  # a heap: when each has waited long enough
        self._taken_at = -inf
        self._drain = 0.0  # calls a second, lately
        self.shares = Shares()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiting]:
        for band in self._bands.values():
            for flow in band.flows.values():
                yield from (one for one in flow.order if not one.gone)

    @property
    def priority(self) -> int:
        """Of the call that is next; of an empty queue 0."""
        return next((priority for priority, band in self._bands.items() if band.count), 0)

    def push(self, waiting: Waiting, now: float, starting: bool = False) -> list[Waiting]:
        """Let a call wait. Returns who has to go instead, perhaps the call itself; refuse them with `full`.

        `starting`: nobody is ready, so it waits for an engine and not for its turn.
        """
        self._numbers += 1
        waiting.number, waiting.arrived_at = self._numbers, now
        if waiting.size_bytes > self.bounds.bytes or self.bounds.requests < 1:
            return [waiting]
        self._add(waiting)
        wait_s = self.bounds.starting_wait_s if starting else self.bounds.wait_s
        end = now + wait_s if starting else min(now + wait_s, waiting.due_at)
        heappush(self._ends, (end, waiting.number, waiting))
        out: list[Waiting] = []
        while self._count > self.bounds.requests or self.bytes > self.bounds.bytes:
            victim = self._victim()
            self._remove(victim)
            out.append(victim)
            if victim is waiting:
                break
        return out

    @property
    def next_is_heavy(self) -> bool:
        """Whether the call that is next is of a tenant that has more than its share."""
        if not self.shares.heavy or not self._count:
            return False
        priority, band = self._top()
        return self.shares.is_heavy(priority, min(band.waiting.items(), key=_clock_of)[0])

    @property
    def has_light(self) -> bool:
        """Whether a call of the highest priority waits whose tenant has no more than its share."""
        if not self._count:
            return False
        priority, band = self._top()
        return any(not self.shares.is_heavy(priority, tenant) for tenant in band.waiting)

    def lets_by(self, priority: int, tenant: str) -> bool:
        """Whether a new call stands behind nobody: nothing waits, or only heavy tenants' calls and it is not one."""
        if not self._count:
            return True
        if not self.shares.heavy or priority < self.priority or self.shares.is_heavy(priority, tenant):
            return False
        return not self.has_light

    def measure(self, in_flight: Iterable[tuple[int, str, float]], now: float) -> None:
        """Look at who has how much of what runs: (priority, tenant, tokens) of each call. See `Shares.look_at`."""
        waiting = (
            (priority, tenant, flow.tokens)
            for priority, band in self._bands.items()
            for tenant, flow in band.waiting.items()
        )
        self.shares.measure(in_flight, waiting, self.weights, now)

    def take(self, now: float, most: int = 1, light: bool = False) -> list[Waiting]:
        """The next calls to be sent, at most so many, in order; they have left the queue.

        `light`: pass over tenants that have more than their share, which only helps while `has_light`.
        """
        taken: list[Waiting] = []
        while len(taken) < most and self._count and (not light or self.has_light):
            taken.append(self._next(light))
        if taken:
            self._drained(len(taken), now)
        return taken

    def expire(self, now: float) -> list[Waiting]:
        """Those that have waited as long as they may; they have left the queue. Refuse them with `late`."""
        out: list[Waiting] = []
        ends = self._ends
        while ends and (ends[0][0] <= now or ends[0][2].gone):
            waiting = heappop(ends)[2]
            if not waiting.gone:
                self._remove(waiting)
                out.append(waiting)
        return out

    def leave(self, waiting: Waiting) -> bool:
        """The caller has gone. Returns whether the call was still waiting."""
        if waiting.gone:
            return False
        self._remove(waiting)
        return True

    def settle(self, waiting: Waiting, tokens: float) -> None:
        """A call that was taken has ended, and cost so many tokens: its tenant's clock is put right."""
        band = self._bands.get(waiting.priority)
        if band is not None and (flow := band.flows.get(waiting.tenant)) is not None:
            flow.clock += (tokens - waiting.tokens) / flow.weight

    def next_expiry(self) -> float:
        """When `expire` should be called at the latest; inf while nothing waits."""
        while self._ends and self._ends[0][2].gone:
            heappop(self._ends)
        return self._ends[0][0] if self._ends else inf

    def retry_after_s(self) -> float:
        """When it makes sense to try again: when what waits will have been served, as fast as lately."""
        if self._drain <= 0.0:
            return RETRY_MOST_S if self._count else RETRY_LEAST_S
        return min(max((self._count + 1) / self._drain, RETRY_LEAST_S), RETRY_MOST_S)

    def full(self) -> Refused:
        """What a call is told that found no room, or lost it to a more important one."""
        return Refused(
            Reason.OVERLOADED,
            "The model is fully busy and as many calls as may wait are waiting; try again later.",
            retry_after_s=self.retry_after_s(),
            detail="rejected-saturated",
        )

    def late(self, waiting: Waiting, ready: bool, now: float) -> Refused:
        """What a call is told that has waited in vain. `ready`: there is an engine."""
        waited_s = max(0.0, now - waiting.arrived_at)
        if not ready:
            return Refused(
                Reason.NO_ENDPOINT,
                f"No engine of this model was ready within {waited_s:.0f} s; it may still be starting. "
                "Try again shortly.",
                retry_after_s=self.retry_after_s(),
                detail="rejected-no-endpoints",
            )
        return Refused(
            Reason.OVERLOADED,
            f"The model is fully busy: this call has waited {waited_s:.1f} s for its turn in vain. Try again later.",
            retry_after_s=self.retry_after_s(),
            detail="rejected-ttl-expired",
        )

    # -- within -------------------------------------------------------------------------------------------

    def _add(self, waiting: Waiting) -> None:
        band = self._bands.get(waiting.priority)
        if band is None:
            self._bands[waiting.priority] = band = Band()
            self._bands = dict(sorted(self._bands.items(), reverse=True))  # the highest first
        flow = band.flows.get(waiting.tenant)
        if flow is None:
            if len(band.flows) >= MOST_TENANTS:
                _tidy(band)
            weight = max(self.weights.get(waiting.tenant, 1.0), 1e-6)
            band.flows[waiting.tenant] = flow = Flow(band.clock, weight)
        elif not flow.count:
            flow.clock = max(flow.clock, band.clock)
        later_s = STRETCH * waiting.read_s
        heappush(
            flow.calls, (waiting.due_at + later_s, waiting.arrived_at + later_s, waiting.number, waiting)
        )
        flow.order.append(waiting)
        band.waiting[waiting.tenant] = flow
        waiting.gone = False
        self._move(band, flow, waiting, 1)

    def _move(self, band: Band, flow: Flow, waiting: Waiting, by: int) -> None:
        flow.count += by
        flow.tokens = flow.tokens + by * waiting.tokens if flow.count else 0.0
        band.count += by
        self._count += by
        self.bytes += by * waiting.size_bytes
        self.tokens = self.tokens + by * waiting.tokens if self._count else 0.0

    def _remove(self, waiting: Waiting) -> None:
        band = self._bands[waiting.priority]
        flow = band.flows[waiting.tenant]
        waiting.gone = True
        self._move(band, flow, waiting, -1)
        if not flow.count:
            del band.waiting[waiting.tenant]
            if not band.count and len(self._bands) > MOST_BANDS:
                del self._bands[waiting.priority]
        if len(flow.order) > 2 * flow.count + 8:  # those that are gone are swept out
            flow.calls = sorted(one for one in flow.calls if not one[3].gone)
            flow.order = deque([one for one in flow.order if not one.gone])
        if len(self._ends) > 2 * self._count + 64:
            self._ends = sorted(one for one in self._ends if not one[2].gone)

    def _top(self) -> tuple[int, Band]:
        """The highest priority of which any call waits."""
        return next((priority, band) for priority, band in self._bands.items() if band.count)

    def _next(self, light: bool) -> Waiting:
        priority, band = self._top()
        flows = band.waiting
        if light:
            flows = {one: flow for one, flow in flows.items() if not self.shares.is_heavy(priority, one)}
        flow = min(flows.values(), key=_clock)
        flow.taken += 1
        if flow.taken % OLDEST_EVERY:
            waiting = heappop(flow.calls)[3]
            while waiting.gone:
                waiting = heappop(flow.calls)[3]
        else:
            waiting = flow.order.popleft()
            while waiting.gone:
                waiting = flow.order.popleft()
        band.clock = max(band.clock, flow.clock)
        flow.clock += waiting.tokens / flow.weight
        self._remove(waiting)
        return waiting

    def _victim(self) -> Waiting:
        """The newest call of the tenant that is the furthest ahead, in the lowest band."""
        band = next(band for band in reversed(self._bands.values()) if band.count)
        flow = max(band.waiting.values(), key=_ahead)
        while flow.order[-1].gone:
            flow.order.pop()
        return flow.order[-1]

    def _drained(self, count: int, now: float) -> None:
        """Keep the rate at which calls leave for an engine, while there are any."""
        passed = now - self._taken_at
        self._taken_at = now
        if passed <= 0.0 or passed == inf:
            return
        weight = min(1.0, DRAIN_FORGET * count)
        self._drain += weight * (count / passed - self._drain) if self._drain else count / passed


def _tidy(band: Band) -> None:
    """Forget a quarter of the tenants, of those with nothing waiting whose clock says least."""
    idle = sorted((flow.clock, tenant) for tenant, flow in band.flows.items() if not flow.count)
    for _, tenant in idle[: MOST_TENANTS // 4]:
        del band.flows[tenant]


def _clock(flow: Flow) -> float:
    return flow.clock


def _clock_of(entry: tuple[str, Flow]) -> float:
    return entry[1].clock


def _ahead(flow: Flow) -> float:
    return flow.ahead
