"""The clock of a simulated fleet: calls arrive at gateways, gateways pick, engines answer, figures are scraped.

Each gateway has its own policy and its own `Endpoint` objects, exactly those of production, and knows of the others
only what engines report, and what they tell it where they share. Everything happens at a point in virtual time; of two
things at the same time the one that was known of first goes first, so a run is the same each time.

    arrival        the gateway picks, charges, and hands the call to the engine
    step           an engine's step ends: first tokens and ends are told to the gateway that sent the call
    scrape         gateways get each engine's figures as they were `scrape_delay_s` ago
    share          gateways tell each other what they have in flight and which prompts they sent (traffic/sharing.py)
    change         an engine dies or comes back

With bounds for a queue (`Conditions.queue`) each gateway lets calls wait while its endpoints have no room, by
production's own rule and in its own queue, and takes the next whenever a first token or an end or new figures make
room.

An engine that dies breaks its connections at once: calls without a first token are sent elsewhere (at most
`ATTEMPTS` in all), the others are cut. Gateways learn that it is gone by failing, and `notice_s` later by their
supervisor. The network takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

import msgspec

from gemstead.refused import Refused
from gemstead.simulate.engine import Engine
from gemstead.simulate.outcome import CUT, REFUSED, SERVED, TOO_LONG, Outcome, Run
from gemstead.simulate.replica import Replica
from gemstead.simulate.replica import Sequence as Inside
from gemstead.simulate.workload import Request, Workload
from gemstead.traffic.admission import has_room, next_one
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, Load
from gemstead.traffic.estimate import ANSWER_TOKENS, BYTES_PER_TOKEN
from gemstead.traffic.picker import Picker
from gemstead.traffic.policy import Policy
from gemstead.traffic.queue import Queue, QueueBounds, Waiting
from gemstead.traffic.roster import Roster
from gemstead.traffic.sharing import News, Sharing

ATTEMPTS = 3
POOL = "model"
STEP, SCRAPE, TOLD, CHANGE, FOLLOW, READY, EXPIRE, SHARE = range(8)


@dataclass(frozen=True, slots=True)
class Change:
    """At `at_s` this many engines die, or come back empty when `count` is below zero."""

    at_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What surrounds the engines."""

    scrape_s: float = 1.0  # between two looks at an engine's figures; inf: never
    scrape_delay_s: float = 0.0  # until a gateway has them
    share_s: float = inf  # between two times that gateways tell each other what they have; inf: never
    notice_s: float = 1.0  # from an engine's death to `ready` being false, and back
    changes: tuple[Change, ...] = ()
    until_s: float = inf  # stop the clock there
    queue: QueueBounds | None = None  # None: calls are sent however full the endpoints are
    weights: dict[str, float] = field(default_factory=dict)  # of tenants in the queue
    begin_s: float = (
        inf  # calls that have waited so long are given up: their aim for the first token is missed
    )


class Gateway:
    """One gateway: its policy, and the engines as it sees them."""

    def __init__(self, policy: Policy, engines: Sequence[Engine], queue: Queue | None = None) -> None:
        self.policy = policy
        self.queue = queue
        self.endpoints = Roster(Endpoint(facts(engine, place)) for place, engine in enumerate(engines))
        self.doors = {endpoint.name: endpoint for endpoint in self.endpoints}
        self.sharing: Sharing | None = None
        self.heard = 0  # of what was said


def facts(engine: Engine, place: int) -> EndpointFacts:
    """What a gateway is told of an engine before any call."""
    return EndpointFacts(
        name=f"engine-{place}",
        pool=POOL,
        host="10.0.0.1",
        port=8000 + place,
        engine="vllm",
        context_tokens=0,
        slots=engine.most_running,
        kv_tokens=engine.kv_tokens,
        prefill_tokens_s=engine.prefill_tokens_per_s,
        decode_step_s=(engine.weights_s(1) + engine.draft_s + engine.each_s) / engine.kept,
        decode_step_slot_s=engine.each_s / engine.kept,
    )


class Fleet:
    """One run. Make it, `run` it once."""

    def __init__(
        self,
        load: Workload,
        engines: Sequence[Engine],
        policies: Callable[[Sequence[Replica]], Sequence[Policy]],
        conditions: Conditions = Conditions(),
    ) -> None:
        self._load = load
        self._conditions = conditions
        self.replicas = [Replica(engine, load.block_tokens) for engine in engines]
        self.gateways = [
            Gateway(
                policy, engines, Queue(conditions.queue, conditions.weights) if conditions.queue else None
            )
            for policy in policies(self.replicas)
        ]
        self.outcomes = [
            Outcome(number, one.tenant, one.at_s, one.prompt_tokens, one.output_tokens)
            for number, one in enumerate(load.requests)
        ]
        self._places = {endpoint.name: place for place, endpoint in enumerate(self.gateways[0].endpoints)}
        self._calls: dict[int, tuple[Call, Gateway]] = {}
        self._queued: dict[int, tuple[Call, Waiting]] = {}
        self._dead: set[int] = set()
        self._followers: dict[int, list[int]] = {}
        self._picks = [0] * len(engines)
        self._heap: list[tuple[float, int, int, int, object]] = []
        self._said: list[News] = []  # by gateways that share
        self._told = 0  # breaks ties
        self._due = [inf] * len(engines)  # when each engine's step ends
        self._events = 0
        self._open = 0  # requests that have not ended

    def run(self) -> Run:
        """Play the workload to its end."""
        arrivals = self._arrivals()
        self._prepare()
        heap, due = self._heap, self._due
        place, count = 0, len(arrivals)
        now = 0.0
        self._open = len(self.outcomes)
        while self._open:
            if place < count and (not heap or arrivals[place][0] <= heap[0][0]):
                now, number = arrivals[place]
                place += 1
                if now > self._conditions.until_s:
                    break
                self._events += 1
                self._arrive(number, now)
                continue
            now, _, kind, which, what = heappop(heap)
            if now > self._conditions.until_s:
                break
            if kind == STEP:
                if due[which] == now:
                    self._events += 1
                    self._step(which, now)
                continue
            self._events += 1
            self._happen(kind, which, what, now)
        return self._report(now)

    def _arrivals(self) -> list[tuple[float, int]]:
        arrivals = []
        for number, one in enumerate(self._load.requests):
            if one.after >= 0:
                self._followers.setdefault(one.after, []).append(number)
            else:
                arrivals.append((one.at_s, number))
        arrivals.sort()
        return arrivals

    def _prepare(self) -> None:
        conditions = self._conditions
        if conditions.scrape_s < inf:
            self._push(conditions.scrape_s, SCRAPE, 0, None)
        if conditions.share_s < inf:
            for number, gateway in enumerate(self.gateways):
                policy = gateway.policy
                index = policy.index if isinstance(policy, Picker) else None
                gateway.sharing = Sharing(f"gateway-{number}", index)
                self._push(conditions.share_s * (number + 1) / len(self.gateways), SHARE, number, None)
        for change in conditions.changes:
            self._push(change.at_s, CHANGE, change.count, None)

    def _push(self, at_s: float, kind: int, which: int, what: object) -> None:
        self._told += 1
        heappush(self._heap, (at_s, self._told, kind, which, what))

    def _happen(self, kind: int, which: int, what: object, now: float) -> None:
        if kind == SCRAPE:
            self._scrape(now)
        elif kind == TOLD:
            self._tell(what, now)  # type: ignore[arg-type]
        elif kind == SHARE:
            self._share(which, now)
        elif kind == EXPIRE:
            self._expire(self.gateways[which], now)
        elif kind == CHANGE:
            self._change(which, now)
        elif kind == FOLLOW:
            self._arrive(which, now)
        elif kind == READY:
            self._notice(which, bool(what))

    def _arrive(self, number: int, now: float) -> None:
        one, outcome = self._load.requests[number], self.outcomes[number]
        outcome.arrived_s = now
        outcome.gateway = number % len(self.gateways)
        gateway = self.gateways[outcome.gateway]
        call = Call(
            POOL,
            one.tenant,
            one.priority,
            one.prompt_tokens,
            0,  # what an answer will have nobody knows
            one.blocks,
            self._load.block_tokens,
        )
        if (queue := gateway.queue) is not None:
            if queue.shares.heavy and now >= queue.shares.look_at:
                queue.measure(self._in_flight(gateway), now)
            heavy = queue.shares.is_heavy(one.priority, one.tenant)
            if not queue.lets_by(one.priority, one.tenant) or not has_room(
                gateway.endpoints, now, one.priority, 1, heavy
            ):
                self._wait(number, one, call, gateway, now)
                self._take(gateway, now)
                return
        self._dispatch(number, one, call, gateway, now)

    def _wait(self, number: int, one: Request, call: Call, gateway: Gateway, now: float) -> None:
        assert gateway.queue is not None
        tokens = call.prompt_tokens + ANSWER_TOKENS
        size, due = BYTES_PER_TOKEN * call.prompt_tokens, now + self._conditions.begin_s
        read_s = gateway.policy.read_s(call, gateway.endpoints)
        waiting = Waiting(number, one.tenant, one.priority, tokens, size, due, read_s)
        self._queued[number] = call, waiting
        for gone in gateway.queue.push(waiting, now):
            self._end(gone.ticket, REFUSED, now)  # type: ignore[arg-type]
        until = min(due, now + gateway.queue.bounds.wait_s)
        self._push(until, EXPIRE, self.gateways.index(gateway), None)

    def _take(self, gateway: Gateway, now: float) -> None:
        """Send what waits for as long as there is room."""
        if (queue := gateway.queue) is None:
            return
        self._expire(gateway, now)
        if len(queue) and now >= queue.shares.look_at:
            queue.measure(self._in_flight(gateway), now)
        while (waiting := next_one(queue, gateway.endpoints, now)) is not None:
            number: int = waiting.ticket  # type: ignore[assignment]
            self.outcomes[number].queued_s = now - waiting.arrived_at
            call = self._queued[number][0]
            self._dispatch(number, self._load.requests[number], call, gateway, now)

    def _in_flight(self, gateway: Gateway) -> Iterator[tuple[int, str, float]]:
        for call, sent in self._calls.values():
            if sent is gateway:
                yield call.priority, call.tenant, float(call.prompt_tokens + ANSWER_TOKENS)

    def _expire(self, gateway: Gateway, now: float) -> None:
        if gateway.queue is None:
            return
        for gone in gateway.queue.expire(now):
            self._end(gone.ticket, REFUSED, now)  # type: ignore[arg-type]

    def _dispatch(self, number: int, one: Request, call: Call, gateway: Gateway, now: float) -> None:
        """Pick and send, elsewhere when an engine is dead; refuse when nobody takes it."""
        outcome, policy = self.outcomes[number], gateway.policy
        for _ in range(ATTEMPTS):
            try:
                endpoint = policy.pick(call, gateway.endpoints, now)
            except Refused:
                break
            policy.charge(endpoint, call)
            outcome.attempts += 1
            place = self._places[endpoint.name]
            if place not in self._dead:
                self._send(number, one, call, gateway, place, now)
                return
            policy.settle(endpoint, call, False, now)
            call.tried = (*call.tried, endpoint.name)
        self._end(number, REFUSED, now)

    def _send(self, number: int, one: Request, call: Call, gateway: Gateway, place: int, now: float) -> None:
        replica = self.replicas[place]
        inside = Inside(number, one.prompt_tokens, one.output_tokens, one.blocks, now)
        self._calls[number] = (call, gateway)
        self.outcomes[number].replica = place
        self._picks[place] += 1
        if not replica.fits(inside):
            del self._calls[number]
            gateway.policy.settle(gateway.endpoints[place], call, True, now)
            self._end(number, TOO_LONG, now)
            return
        until = replica.add(inside, now)
        if until is not None:
            self._expect(place, until)

    def _expect(self, place: int, until: float) -> None:
        self._due[place] = until
        self._told += 1
        heappush(self._heap, (until, self._told, STEP, place, None))

    def _step(self, place: int, now: float) -> None:
        replica = self.replicas[place]
        until = replica.step(now)
        if until is None:
            self._due[place] = inf
        else:
            self._expect(place, until)
        for inside in replica.first:
            call, gateway = self._calls[inside.number]
            outcome = self.outcomes[inside.number]
            outcome.first_s = now + replica.engine.first_s
            outcome.hit_tokens = inside.hit_tokens
            gateway.policy.first_token(gateway.endpoints[place], call, now)
        for inside in replica.ended:
            call, gateway = self._calls.pop(inside.number)
            outcome = self.outcomes[inside.number]
            outcome.preempted = inside.preempted
            endpoint = gateway.endpoints[place]
            gateway.policy.settle(endpoint, call, True, now, inside.output_tokens, inside.hit_tokens)
            self._end(inside.number, SERVED, now + replica.engine.first_s)
            if (queued := self._queued.pop(inside.number, None)) and gateway.queue is not None:
                gateway.queue.settle(queued[1], inside.prompt_tokens + inside.output_tokens)
        if self._conditions.queue and (replica.first or replica.ended):
            for gateway in self.gateways:
                if gateway.queue is not None and len(gateway.queue):
                    self._take(gateway, now)

    def _end(self, number: int, status: str, now: float) -> None:
        outcome = self.outcomes[number]
        outcome.status, outcome.end_s = status, now
        self._open -= 1
        for follower in self._followers.get(number, ()):
            one = self._load.requests[follower]
            self._push(max(now + one.think_s, one.at_s), FOLLOW, follower, None)

    def _scrape(self, now: float) -> None:
        conditions = self._conditions
        loads = [
            None
            if place in self._dead
            else Load(
                at=now,
                running=len(replica.running),
                waiting=len(replica.waiting),
                kv_used=replica.kv_used,
            )
            for place, replica in enumerate(self.replicas)
        ]
        if conditions.scrape_delay_s:
            self._push(now + conditions.scrape_delay_s, TOLD, 0, loads)
        else:
            self._tell(loads, now)
        self._push(now + conditions.scrape_s, SCRAPE, 0, None)

    def _tell(self, loads: list[Load | None], now: float) -> None:
        for gateway in self.gateways:
            for endpoint, load in zip(gateway.endpoints, loads, strict=True):
                if load is not None:
                    endpoint.load = load
            if gateway.queue is not None and len(gateway.queue):
                self._take(gateway, now)

    def _share(self, which: int, now: float) -> None:
        """A gateway says what it has, and takes in what the others have said since it last did."""
        gateway = self.gateways[which]
        if gateway.sharing is not None:
            self._said.append(gateway.sharing.say(gateway.doors))
            gateway.sharing.hear(self._said[gateway.heard :], gateway.doors, now)
            gateway.heard = len(self._said)
            gateway.sharing.add_up(gateway.doors, now)
        self._push(now + self._conditions.share_s, SHARE, which, None)

    def _change(self, count: int, now: float) -> None:
        if count < 0:
            for place in sorted(self._dead)[:-count]:
                self._dead.discard(place)
                self._push(now + self._conditions.notice_s, READY, place, True)
            return
        alive = [place for place in range(len(self.replicas)) if place not in self._dead]
        for place in alive[:count]:
            self._die(place, now)

    def _die(self, place: int, now: float) -> None:
        self._dead.add(place)
        self._due[place] = inf
        self._push(now + self._conditions.notice_s, READY, place, False)
        for inside in self.replicas[place].lose():
            call, gateway = self._calls.pop(inside.number)
            endpoint = gateway.endpoints[place]
            gateway.policy.settle(endpoint, call, False, now)
            if inside.tokens_first:
                self._end(inside.number, CUT, now)
                continue
            call.tried = (*call.tried, endpoint.name)
            self._dispatch(inside.number, self._load.requests[inside.number], call, gateway, now)

    def _notice(self, place: int, ready: bool) -> None:
        for gateway in self.gateways:
            endpoint = gateway.endpoints[place]
            endpoint.facts = _with_ready(endpoint.facts, ready)
            gateway.policy.forget(endpoint.name)

    def _report(self, now: float) -> Run:
        return Run(
            self.outcomes,
            len(self.replicas),
            now,
            sum(replica.preemptions for replica in self.replicas),
            [replica.busy_s for replica in self.replicas],
            [replica.prompt_done for replica in self.replicas],
            self._picks,
            self._events,
        )


def _with_ready(told: EndpointFacts, ready: bool) -> EndpointFacts:
    return msgspec.structs.replace(told, ready=ready)
