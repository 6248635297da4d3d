"""Where calls wait in one worker: for their turn while a model is full, or for a model that sleeps to wake.

Who may go, who is next and who is turned away is decided in `traffic/admission.py` and `traffic/queue.py`; here calls
are put into the queue of their pool and taken out again. Something may have made room whenever a call has ended or has
had its first token, when engines report, when the fleet changes, and with time: then `next_ones` is asked. While
nothing waits that costs a look at one number. Who has how much of what runs is counted only while calls wait.

A call waits before an endpoint is picked for it, so it goes to whoever is best when its turn comes. A call that is
moved from an engine that failed has had its turn and does not wait again. Whoever leaves is taken out at once.

A model whose engines all sleep, or are just being woken, has its calls wait too; the head hears of it (`needed`) and
wakes the model. A model that is down for other reasons is not waited for: its callers hear so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from gemstead.refused import Reason, Refused
from gemstead.traffic.admission import endpoint_room, has_room, next_one
from gemstead.traffic.queue import Queue, Waiting

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.exchange import Exchange
    from gemstead.traffic.endpoint import Endpoint

TELL_S: Final = 1.0  # between two words to the head about the same model


class WaitRoom:
    """The calls of one worker that wait."""

    def __init__(self, gate: Gateway) -> None:
        self._gate = gate
        self._queues: dict[str, Queue] = {}  # by pool
        self._told: dict[str, float] = {}
        self._going: set[str] = set()  # pools whose calls are just being sent on
        self._crowded: set[str] = set()  # pools in which calls wait, or did until lately
        self.waiting = 0  # calls
        self.needed: Callable[[str], None] = lambda pool: None  # a call has come for a model that sleeps

    def configure(self) -> None:
        """The bounds may have changed."""
        for queue in self._queues.values():
            queue.bounds, queue.weights = self._gate.settings.queue, self._gate.settings.weights

    def by_pool(self) -> dict[str, int]:
        """How many calls wait for each model that any wait for."""
        return {pool: len(queue) for pool, queue in self._queues.items() if len(queue)}

    def holds(self, exchange: Exchange, endpoint: Endpoint) -> bool:
        """Whether a call has to wait that would go to `endpoint`; then it is in the queue, and may have left it again.

        Raises:
            Refused: OVERLOADED, when there is no room to wait either.
        """
        gate, call, now = self._gate, exchange.call, monotonic()
        assert call is not None
        queue = self._queues.get(call.model)
        if queue is None or queue.lets_by(call.priority, call.tenant):
            sharers = gate.settings.workers
            heavy = queue is not None and queue.shares.is_heavy(call.priority, call.tenant)
            if endpoint_room(endpoint, now, call.priority, sharers, heavy) > 0:
                return False
            if has_room(gate.pools.get(call.model, ()), now, call.priority, sharers, heavy):
                return False
        self._enter(exchange, now, starting=False)
        self.next_ones(call.model)
        return True

    def check_room(self, exchange: Exchange) -> None:
        """Look whether a call could wait for its turn, before anything else is done for it.

        Raises:
            Refused: OVERLOADED: the queue is full, and this call would be the one to go.
        """
        call = exchange.call
        assert call is not None
        queue = self._queues.get(call.model)
        if queue is None or not len(queue) or len(queue) < queue.bounds.requests:
            return
        if all(
            one.priority > call.priority or (one.priority == call.priority and one.tenant == call.tenant)
            for one in queue
        ):
            raise queue.full()

    def wakes(self, exchange: Exchange, refusal: Refused) -> bool:
        """Whether a call waits that was refused: it does when its model sleeps.

        Raises:
            Refused: OVERLOADED, when as many wait as may.
        """
        call = exchange.call
        if refusal.reason is not Reason.NO_ENDPOINT or call is None or call.tried:
            return False
        if call.adapter and self._gate.on_demand and self._gate.adapter_room.holds(exchange):
            return True
        if not any(endpoint.facts.asleep for endpoint in self._gate.pools.get(call.model, ())):
            return False
        now = monotonic()
        self._enter(exchange, now, starting=True)
        self._tell(call.model, now)
        return True

    def leave(self, exchange: Exchange, tokens: int) -> None:
        """A call has ended that waits or has waited; `tokens` is what it cost."""
        place, call = exchange.place, exchange.call
        assert place is not None and call is not None
        exchange.place = None
        if (queue := self._queues.get(exchange.waited_for)) is None:
            return
        if queue.leave(place):
            self.waiting -= 1
        elif tokens:
            queue.settle(place, tokens)

    def look(self) -> None:
        """The fleet has changed, or engines have said how they are."""
        if self.waiting:
            for pool in list(self._queues):
                self.next_ones(pool)

    def sweep(self, now: float) -> None:
        """Send away who has waited too long; time alone may have made room for others."""
        if not self.waiting and not self._crowded:
            return
        self._gate.picker.passed(now)
        for pool, queue in list(self._queues.items()):
            if pool in self._crowded:
                self._measure(pool, queue, now)
            self._expire(pool, queue, now)
            if len(queue) and not self._ready(pool):
                self._tell(pool, now)
            self.next_ones(pool)

    def next_ones(self, pool: str) -> None:
        """Give their turn to as many calls as there is room for."""
        queue = self._queues.get(pool)
        if queue is None or not len(queue) or pool in self._going:
            return
        gate, now = self._gate, monotonic()
        known = pool in gate.pools
        endpoints = gate.pools.get(pool, ())
        self._going.add(pool)  # a call that fails at once ends here, and asks for the next ones
        try:
            if queue.next_expiry() <= now:
                self._expire(pool, queue, now)
            while len(queue) and (not known or self._ready(pool)):
                place = (
                    next_one(queue, endpoints, now, gate.settings.workers) if known else queue.take(now)[0]
                )
                if place is None:
                    break
                self.waiting -= 1
                self._on(place, now)
        finally:
            self._going.discard(pool)

    # -- within -------------------------------------------------------------------------------------------

    def _enter(self, exchange: Exchange, now: float, starting: bool) -> None:
        gate, call = self._gate, exchange.call
        assert call is not None
        if exchange.place is not None:  # it was another pool's
            self.leave(exchange, 0)
        queue = self._queues.get(call.model)
        if queue is None:
            queue = self._queues[call.model] = Queue(gate.settings.queue, gate.settings.weights)
        aim_s = gate.aims.get(call.tenant) or gate.aims.get("", inf)
        read_s = gate.picker.read_s(call, gate.pools.get(call.model, ()))
        place = Waiting(
            exchange, call.tenant, call.priority, call.most_tokens, len(exchange.body), now + aim_s, read_s
        )
        exchange.place, exchange.waited_for = place, call.model
        self.waiting += 1
        for out in queue.push(place, now, starting):
            self.waiting -= 1
            if out is place:
                exchange.place = None
                raise queue.full()
            self._turned_away(out, queue.full())
        if not starting and call.model not in self._crowded:
            self._crowded.add(call.model)
            self._measure(call.model, queue, now)

    def _measure(self, pool: str, queue: Queue, now: float) -> None:
        """Who has how much of what runs, by the worker's own calls."""
        in_flight = [
            (call.priority, call.tenant, float(call.most_tokens))
            for exchange in self._gate.running
            if (call := exchange.call) is not None and call.model == pool and call.charged_to is not None
        ]
        queue.measure(in_flight, now)
        if not len(queue) and not queue.shares.heavy:
            self._crowded.discard(pool)

    def _expire(self, pool: str, queue: Queue, now: float) -> None:
        ready = self._ready(pool)
        for place in queue.expire(now):
            self.waiting -= 1
            self._turned_away(place, queue.late(place, ready, now))

    def _on(self, place: Waiting, now: float) -> None:
        exchange = _exchange(place)
        exchange.record.queued_s += now - place.arrived_at
        self._gate.figures.queue_seconds.observe(now - place.arrived_at)
        try:
            exchange.go_on()
        except Exception as error:  # one call's trouble must not cost the others their turn
            self._gate.broken(exchange, error)

    def _turned_away(self, place: Waiting, refusal: Refused) -> None:
        exchange = _exchange(place)
        exchange.record.queued_s += monotonic() - place.arrived_at
        exchange.fail(refusal)

    def _tell(self, pool: str, now: float) -> None:
        if now - self._told.get(pool, -TELL_S) >= TELL_S and any(
            endpoint.facts.asleep for endpoint in self._gate.pools.get(pool, ())
        ):
            self._told[pool] = now
            self.needed(pool)

    def _ready(self, pool: str) -> bool:
        return any(endpoint.takes_calls for endpoint in self._gate.pools.get(pool, ()))


def _exchange(place: Waiting) -> Exchange:
    exchange: Exchange = place.ticket  # type: ignore[assignment]
    return exchange
