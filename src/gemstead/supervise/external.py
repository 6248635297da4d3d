"""An engine that someone else runs: watched like a replica of ours, never started or stopped.

It is ready after one good answer to its health path, and no longer ready after two bad ones in a row: the
gateway's own breaker sees failing calls sooner, this notices an engine that nobody calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from gemstead.engines.lifecycle import Phase
from gemstead.supervise.watched import CANNOT_ASK, PROBE_READY_S, Probe, Sight, Standing
from gemstead.traffic.endpoint import EndpointFacts

MISSES = 2
PROVE_S = 120.0


class External:
    """One endpoint that is only watched. `run` returns after `drain`."""

    def __init__(
        self,
        facts: EndpointFacts,
        probe: Probe,
        *,
        changed: Callable[[], None],
        in_flight: Callable[[str], int],
    ) -> None:
        self.sight = Sight()
        self._facts, self._probe, self._changed, self._in_flight = facts, probe, changed, in_flight
        self._misses, self._why, self._since = MISSES, "not asked yet", time.monotonic()
        self._ready_at = 0.0
        self._asleep = False
        self._naps: set[asyncio.Task[bool]] = set()
        self._done = asyncio.Event()

    @property
    def phase(self) -> Phase:
        if self._done.is_set():
            return Phase.STOPPED
        if self._asleep:
            return Phase.SLEEPING
        return Phase.READY if self._misses < MISSES else Phase.FAILED

    @property
    def facts(self) -> EndpointFacts:
        """As the file says, and where it is silent as the engine says of itself."""
        own, sight = self._facts, self.sight
        return msgspec.structs.replace(
            own,
            ready=self.phase is Phase.READY,
            kv_tokens=own.kv_tokens or sight.kv_tokens,
            slots=own.slots or sight.slots,
        )

    def describe(self) -> dict[str, object]:
        load = self.sight.load
        return {
            "name": self._facts.name,
            "model": self._facts.pool,
            "engine": self._facts.engine,
            "phase": self.phase.value,
            "ready": self.phase is Phase.READY,
            "address": f"{self._facts.host}:{self._facts.port}{self._facts.base_path}",
            "for_s": round(time.monotonic() - self._since, 1),
            "why": self._why,
            "in_flight": self._in_flight(self._facts.name),
            "running": load.running if load else None,
            "waiting": load.waiting if load else None,
            "context_tokens": self._facts.context_tokens,
            "version": self._facts.version,
        }

    @property
    def standing(self) -> Standing:
        ready = self.phase is Phase.READY
        return Standing(time.monotonic() - self._since if ready else 0.0, 0, self._ready_at > 0)

    async def prove(self) -> str:
        why = await self._probe.prove(False, PROVE_S)
        return "" if why.startswith(CANNOT_ASK) else why

    async def sleep(self) -> str:
        """Have it sleep, if whoever runs it lets us."""
        if not await self._probe.can_sleep():
            return "someone else runs it, and it offers no sleep: it stays awake"
        self._asleep = True
        self._changed()
        if not await self._probe.sleep():
            self._asleep = False
            self._changed()
            return "it did not obey"
        return "its engine sleeps"

    def wake(self) -> None:
        if self._asleep:
            self._asleep, self._misses = False, MISSES
            task = asyncio.create_task(self._probe.wake())
            self._naps.add(task)
            task.add_done_callback(self._naps.discard)
            self._changed()

    def drain(self) -> None:
        self._done.set()

    def kill(self) -> None:
        self._done.set()

    async def run(self) -> None:
        while not self._done.is_set():
            why, sight = await asyncio.gather(self._probe.healthy(), self._probe.look())
            before, facts = self.phase, self.facts
            self.sight = sight.after(self.sight)
            self._misses, self._why = (self._misses + 1 if why else 0), why
            if self.phase is Phase.READY and not self._ready_at:
                self._ready_at = time.monotonic()
            if self.phase is not before:
                self._since = time.monotonic()
            if self.facts != facts:  # it is ready or no longer so, or has said how much it holds
                self._changed()
            try:
                await asyncio.wait_for(self._done.wait(), PROBE_READY_S)
            except TimeoutError:
                pass
