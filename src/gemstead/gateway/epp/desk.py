"""Where all calls of one pool meet: who may go on now, who waits, and where each goes.

The decisions are those of the in-process gateway, from the same code: `traffic/picker.py` picks and keeps the books,
`traffic/admission.py` says how many more calls the pool should be sent, `traffic/queue.py` who is next. What is
different behind Envoy is only that we do not carry the bytes: an address is all that a call gets from here.

Nothing here waits. A call that has to wait leaves a `turn`, which is called once: with None when it is its turn (it
picks at once, so that the next in line sees what is booked), or with the refusal that it gets instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from math import inf

from gemstead.gateway.epp.rules import Rules
from gemstead.gateway.epp.settings import DeskSettings
from gemstead.gateway.figures import Figures
from gemstead.refused import Reason, Refused
from gemstead.traffic.admission import has_room, never_fits, next_one
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, Load
from gemstead.traffic.policy import Policy
from gemstead.traffic.queue import Queue, Waiting
from gemstead.traffic.roster import Roster

RETRY_AFTER_S = 2.0
LOOKED_AT = 16  # of a large pool, for fallbacks
Turn = Callable[[Refused | None], None]


class Desk:
    """One pool's endpoints, its queue and its books."""

    def __init__(
        self, settings: DeskSettings, picker: Policy, choose: Callable[[int], int], figures: Figures
    ) -> None:
        """`choose(n)` returns a random number in range(n)."""
        self.settings, self.picker, self.choose, self.figures = settings, picker, choose, figures
        self.rules = Rules()
        self.endpoints = Roster()
        self.queue = Queue(settings.queue)
        self._sent: set[Call] = set()  # calls in flight
        self.draining = False
        self.known = False  # the pool has been seen, so that no endpoint means that there is none
        self.adapters: frozenset[str] = frozenset()  # that any endpoint has
        self.turned_away = 0
        self.named: dict[str, Endpoint] = {}  # replaced whole when the fleet changes
        self._by_address: dict[str, Endpoint] = {}
        self._address: dict[str, str] = {}  # by name
        self._ready = 0
        self._long = inf  # tokens; a shorter prompt fits everywhere
        self._nonce = os.urandom(6).hex()
        self._calls = 0

    # -- what is known of the pool ------------------------------------------------------------------------------

    def fleet(self, facts: Iterable[EndpointFacts], now: float) -> None:
        """These are the endpoints now. Books of those that stay are kept, those that went are forgotten."""
        wanted = {one.name: one for one in facts}
        changed = wanted.keys() != self.named.keys()
        named = {name: endpoint for name, endpoint in self.named.items() if name in wanted}
        for name in self.named.keys() - wanted.keys():
            self.picker.forget(name)
        for name, one in wanted.items():
            if (endpoint := named.get(name)) is None:
                named[name] = Endpoint(one)
            elif endpoint.facts != one:
                moved = address_of(one) != self._address[name]
                if moved or (endpoint.facts.ready and not one.ready):  # it comes back with an empty cache
                    self.picker.forget(name)
                endpoint.facts = one
        self.named = named
        if changed:
            self.endpoints = Roster(named.values())
        self._address = {name: address_of(one) for name, one in wanted.items()}
        self._by_address = {self._address[name]: endpoint for name, endpoint in named.items()}
        self._ready = sum(endpoint.takes_calls for endpoint in self.endpoints)
        self._long = 2.0 * min((one.context_tokens for one in wanted.values()), default=0) or inf
        self.known = True
        self.next_ones(now)

    def loads(self, loads: Mapping[str, Load], now: float) -> None:
        """What engines said of themselves, by endpoint name."""
        for name, load in loads.items():
            if (endpoint := self.named.get(name)) is not None:
                endpoint.load = load
        known = [said.adapters for e in self.endpoints if (said := e.load) is not None and said.adapters]
        self.adapters = frozenset().union(*known)
        self.next_ones(now)

    @property
    def ready(self) -> int:
        """Endpoints that take calls."""
        return self._ready

    def name_call(self) -> str:
        """A name that no other call has, for engines that say whose blocks they store."""
        self._calls += 1
        return f"{self._nonce}-{self._calls}"

    def endpoint_at(self, address: str) -> Endpoint | None:
        """The endpoint with this `ip:port`."""
        return self._by_address.get(address)

    # -- one call ---------------------------------------------------------------------------------------------

    def enter(
        self, call: Call, subset: Sequence[str] | None, waiting: Callable[[], Waiting], now: float
    ) -> Waiting | None:
        """None when the call may be sent now, else its place in the queue; `waiting` makes it, its ticket a `Turn`.

        Raises:
            Refused: no endpoint can take it and none is waited for; the queue is full; it can never fit.
        """
        if self.draining:
            raise Refused(Reason.DRAINING, "This picker is stopping; try again.", retry_after_s=RETRY_AFTER_S)
        endpoints = self.candidates(subset)
        if call.prompt_tokens >= self._long and (longest := never_fits(call, endpoints)):
            message = f"The prompt has about {call.prompt_tokens} tokens; the model takes at most {longest}."
            raise Refused(Reason.CONTEXT_EXCEEDED, message)
        starting = not self._ready if subset is None else not any(e.takes_calls for e in endpoints)
        if starting:
            if subset is not None or self.settings.queue.starting_wait_s <= 0.0:
                raise _nobody(subset)
        elif self.queue.lets_by(call.priority, call.tenant):
            heavy = self.queue.shares.is_heavy(call.priority, call.tenant)
            if has_room(endpoints, now, call.priority, heavy=heavy):
                return None
        place = waiting()
        for out in self.queue.push(place, now, starting):
            if out is place:
                raise self.queue.full()
            _turn(out, self.queue.full())
        if not starting:
            self._measure(now)
        self.figures.queue_waiting.set(len(self.queue))
        return place

    def send(self, call: Call, subset: Sequence[str] | None, now: float) -> list[str]:
        """The addresses for a call, the picked one first. It is booked there.

        Raises:
            Refused: NO_ENDPOINT.
        """
        endpoints = self.candidates(subset)
        chosen = self.picker.pick(call, endpoints, now)
        self.picker.charge(chosen, call)
        self._sent.add(call)
        addresses = [self._address[chosen.name]]
        if (count := self.settings.fallbacks) and len(endpoints) > 1:
            others = [
                endpoint
                for endpoint in self._some(endpoints)
                if endpoint is not chosen
                and endpoint.open_from <= now < endpoint.well_until
                and not endpoint.wedged
            ]
            if count == 1 and others:
                addresses.append(self._address[min(others, key=_standing).name])
            else:
                addresses += [self._address[e.name] for e in nsmallest(count, others, key=_standing)]
        return addresses

    def _some(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Enough of a large pool to find one that is not busy."""
        if len(endpoints) <= LOOKED_AT:
            return endpoints
        start, stride = self.choose(len(endpoints)), len(endpoints) // LOOKED_AT
        return [endpoints[(start + n * stride) % len(endpoints)] for n in range(LOOKED_AT)]

    def served_by(self, call: Call, address: str, now: float) -> None:
        """Another endpoint than the picked one has answered: the gateway could not reach the first. Its books move."""
        first, endpoint = call.charged_to, self._by_address.get(address)
        if first is None or endpoint is None or endpoint is first:
            return
        self.picker.settle(first, call, False, now)
        call.hit_tokens = 0
        self.picker.charge(endpoint, call)
        self.figures.retries.add(1)

    def settle(
        self, call: Call, ok: bool | None, now: float, output_tokens: int = -1, cached_tokens: int = -1
    ) -> None:
        """The call has ended, however; others may have their turn."""
        if (endpoint := call.charged_to) is not None:
            self.picker.settle(endpoint, call, ok, now, output_tokens, cached_tokens)
            self._sent.discard(call)
            if len(self.queue):
                self.next_ones(now)

    def candidates(self, subset: Sequence[str] | None) -> Sequence[Endpoint]:
        """The endpoints that a call may go to."""
        if subset is None:
            return self.endpoints
        return [found for address in subset if (found := self._by_address.get(address)) is not None]

    # -- the queue --------------------------------------------------------------------------------------------

    def next_ones(self, now: float) -> None:
        """Give their turn to as many as there is room for."""
        queue = self.queue
        if not len(queue) or not self._ready:
            return
        self._measure(now)
        while (waiting := next_one(queue, self.endpoints, now)) is not None:
            _turn(waiting, None)
        self.figures.queue_waiting.set(len(queue))

    def _measure(self, now: float) -> None:
        """Who has how much of what runs, while calls wait."""
        shares = self.queue.shares
        if now >= shares.look_at and (len(self.queue) or shares.heavy):
            in_flight = [(one.priority, one.tenant, float(one.most_tokens)) for one in self._sent]
            self.queue.measure(in_flight, now)

    def sweep(self, now: float) -> None:
        """Called several times a second: those who have waited too long go; time alone may have made room."""
        for waiting in self.queue.expire(now):
            _turn(waiting, self.queue.late(waiting, self._ready > 0, now))
        self._measure(now)
        self.next_ones(now)
        self.figures.queue_waiting.set(len(self.queue))

    def leave(self, waiting: Waiting) -> None:
        """Whoever waited here has gone."""
        if self.queue.leave(waiting):
            self.figures.queue_waiting.set(len(self.queue))

    def turn_all_away(self, now: float) -> None:
        """The picker ends: nobody's turn will come."""
        stopping = Refused(
            Reason.DRAINING, "This picker is stopping; try again.", retry_after_s=RETRY_AFTER_S
        )
        while waiting := self.queue.take(now):
            for one in waiting:
                _turn(one, stopping)


def address_of(facts: EndpointFacts) -> str:
    """`ip:port`, as Envoy writes it."""
    host = f"[{facts.host}]" if ":" in facts.host else facts.host
    return f"{host}:{facts.port}"


def _turn(waiting: Waiting, refusal: Refused | None) -> None:
    turn = waiting.ticket
    assert callable(turn)
    turn(refusal)


def _standing(endpoint: Endpoint) -> float:
    return endpoint.standing_s


def _nobody(subset: Sequence[str] | None) -> Refused:
    where = "among those that the gateway allows " if subset is not None else ""
    return Refused(
        Reason.NO_ENDPOINT,
        f"No engine {where}can take this call now; try again shortly.",
        retry_after_s=RETRY_AFTER_S,
        detail="rejected-no-endpoints",
    )
