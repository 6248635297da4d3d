"""Calls for a LoRA adapter that no engine has loaded: they wait here while the head has one of them load it.

An engine whose adapters are loaded on demand says which it has (`EndpointFacts.adapters`); a call goes only to those
that have its adapter. Where none has, the call waits, and the head hears of it (`needed`): it loads each adapter once
at a time, for all workers. When the adapter is there the calls go on as if they had just come; when it cannot be
loaded, they are told why. Where those that have it are busy and others are not, the head hears of it as well, and
nobody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.exchange import Exchange
    from gemstead.traffic.call import Call
    from gemstead.traffic.endpoint import Endpoint

TELL_S = 1.0  # between two words to the head about the same adapter
RETRY_AFTER_S = 5.0


class AdapterRoom:
    """The calls of one worker that wait for an adapter."""

    def __init__(self, gate: Gateway) -> None:
        self._gate = gate
        self._waiting: dict[tuple[str, str], list[tuple[Exchange, float]]] = {}  # and until when
        self._told: dict[tuple[str, str], float] = {}
        self._uses: dict[str, set[str]] = {}
        self.needed: Callable[[str, str], None] = lambda pool, adapter: None

    @property
    def waiting(self) -> int:
        """Calls."""
        return sum(len(calls) for calls in self._waiting.values())

    def uses(self) -> dict[str, list[str]]:
        """Which adapters were used at which endpoint since the last time."""
        uses, self._uses = self._uses, {}
        return {name: sorted(adapters) for name, adapters in uses.items()}

    def having(self, call: Call, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Those of the endpoints that have the call's adapter."""
        found = [
            one for one in endpoints if (has := one.facts.adapters) is None or call.adapter in has
        ]  # None: it was started with all of them
        if len(found) < len(endpoints) and all(one.in_flight >= one.easy for one in found):
            self._tell(call.model, call.adapter, monotonic())
        for one in found:
            if one.facts.adapters is not None:
                self._uses.setdefault(one.name, set()).add(call.adapter)
        return found

    def holds(self, exchange: Exchange) -> bool:
        """Whether a call waits for its adapter, which no endpoint has that could take it otherwise.

        Raises:
            Refused: OVERLOADED, when as many wait as may.
        """
        call, gate = exchange.call, self._gate
        assert call is not None
        endpoints = [one for one in gate.pools.get(call.model, ()) if one.takes_calls]
        if not any(one.facts.adapters is not None for one in endpoints) or self.having(call, endpoints):
            return False
        if self.waiting >= gate.settings.queue.requests:
            raise Refused(Reason.OVERLOADED, "Too many calls wait for adapters.", retry_after_s=RETRY_AFTER_S)
        now = monotonic()
        key = (call.model, call.adapter)
        self._waiting.setdefault(key, []).append((exchange, now + gate.settings.queue.wait_s))
        exchange.last_at = inf  # a comment would promise an answer
        self._tell(*key, now)
        return True

    def look(self) -> None:
        """The fleet has changed: those whose adapter is there now go on."""
        for key in list(self._waiting):
            if any(
                one.takes_calls and one.facts.adapters is not None and key[1] in one.facts.adapters
                for one in self._gate.pools.get(key[0], ())
            ):
                for exchange, _ in self._waiting.pop(key):
                    if not exchange.done:
                        self._on(exchange)

    def failed(self, pool: str, adapter: str, why: str) -> None:
        """It cannot be loaded."""
        for exchange, _ in self._waiting.pop((pool, adapter), ()):
            refusal = Refused(
                Reason.UPSTREAM_FAILED,
                f"The adapter {adapter} could not be loaded; tell the operator. {exchange.named()}",
                detail=f"{adapter}: {why}"[:500],
            )
            self._fail(exchange, refusal)

    def sweep(self, now: float) -> None:
        """Send away who has waited too long; remind the head."""
        for key, calls in list(self._waiting.items()):
            late = [exchange for exchange, until in calls if now >= until]
            kept = [one for one in calls if now < one[1] and not one[0].done]
            if kept:
                self._waiting[key] = kept
                self._tell(*key, now)
            else:
                del self._waiting[key]
            for exchange in late:
                self._fail(
                    exchange,
                    Refused(
                        Reason.OVERLOADED,
                        f"The adapter {key[1]} was not loaded in time; try again.",
                        retry_after_s=RETRY_AFTER_S,
                    ),
                )

    def _tell(self, pool: str, adapter: str, now: float) -> None:
        if now - self._told.get((pool, adapter), -TELL_S) >= TELL_S:
            self._told[pool, adapter] = now
            self.needed(pool, adapter)

    def _on(self, exchange: Exchange) -> None:
        exchange.record.queued_s += monotonic() - exchange.began_at
        try:
            exchange.last_at = monotonic()
            exchange.allowed_on()
        except Exception as error:  # one call's trouble must not cost the others their turn
            self._gate.broken(exchange, error)

    def _fail(self, exchange: Exchange, refusal: Refused) -> None:
        if not exchange.done:
            exchange.record.queued_s += monotonic() - exchange.began_at
            exchange.fail(refusal)
