"""Where calls wait for a model that sleeps: bounded in number and time, first come first served.

A call for a model whose engines all sleep, or are just being woken, is kept instead of refused; the head hears of it
(`needed`) and wakes the model; as soon as an engine takes calls, all that wait go on. Whoever has waited for
`wake_s` is told to come back. A model that is down for other reasons is not waited for: its callers hear so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.exchange import Exchange

MOST = 1_000  # calls of one worker
TELL_S = 1.0  # between two words to the head about the same model
AGAIN_S = 5.0


class WaitRoom:
    """The calls of one worker that wait for models to wake."""

    def __init__(self, gate: Gateway) -> None:
        self._gate = gate
        self._waiting: dict[str, list[tuple[Exchange, float]]] = {}  # by pool: the call, and when it came
        self._told: dict[str, float] = {}
        self.needed: Callable[[str], None] = lambda pool: None  # a call has come for a model that sleeps

    def take(self, exchange: Exchange, refusal: Refused) -> bool:
        """Whether the call waits. It does when it was refused because its model sleeps."""
        call = exchange.call
        if refusal.reason is not Reason.NO_ENDPOINT or call is None or call.tried:
            return False
        if not self._asleep(call.model) or sum(map(len, self._waiting.values())) >= MOST:
            return False
        now = monotonic()
        self._waiting.setdefault(call.model, []).append((exchange, now))
        self._tell(call.model, now)
        return True

    def look(self) -> None:
        """The fleet has changed: calls whose model is awake go on."""
        for pool in [pool for pool in self._waiting if self._awake(pool)]:
            for exchange, _ in self._waiting.pop(pool):
                if not exchange.done:
                    self._on(exchange)

    def sweep(self, now: float) -> None:
        """Send away who has waited too long; forget who has left."""
        for pool, waiting in list(self._waiting.items()):
            staying = []
            for exchange, came in waiting:
                if exchange.done:
                    continue
                if now - came >= self._gate.settings.wake_s:
                    waited = (
                        f"The model was asleep, and is not awake after {now - came:.0f} s; try again shortly."
                    )
                    exchange.fail(Refused(Reason.NO_ENDPOINT, waited, retry_after_s=AGAIN_S))
                else:
                    staying.append((exchange, came))
            if staying:
                self._waiting[pool] = staying
                self._tell(pool, now)
            else:
                del self._waiting[pool]

    def _on(self, exchange: Exchange) -> None:
        try:
            exchange.another()
        except Refused as refusal:
            if not self.take(exchange, refusal):
                exchange.fail(refusal)

    def _tell(self, pool: str, now: float) -> None:
        if now - self._told.get(pool, -TELL_S) >= TELL_S:
            self._told[pool] = now
            self.needed(pool)

    def _awake(self, pool: str) -> bool:
        return any(endpoint.takes_calls for endpoint in self._gate.pools.get(pool, ()))

    def _asleep(self, pool: str) -> bool:
        return any(endpoint.facts.asleep for endpoint in self._gate.pools.get(pool, ()))
