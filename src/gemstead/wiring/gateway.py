"""The gateway's worker processes as the head sees them: what they are told, and what they say back.

`supervise/workers.py` keeps the processes alive and moves lines; the words of `gateway/control.py` are
spoken here. A fresh worker is told the whole present state, so nothing is lost when one dies. Counters of
dead workers are kept and added to those of the living, so that a counter never goes back.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gemstead.gateway.control import (
    AdapterFailed,
    BudgetCrossed,
    CallerSeen,
    Configure,
    Drain,
    Drained,
    Figures,
    Fleet,
    Given,
    Held,
    Listening,
    Loads,
    NeedAdapter,
    Needed,
    Report,
    SigningKeys,
    Take,
    ToHead,
    ToWorker,
    Trouble,
    UnknownKey,
)
from gemstead.gateway.issuers import Came, Signing
from gemstead.gateway.settings import GatewaySettings
from gemstead.gateway.sharing import environment
from gemstead.observe import names
from gemstead.observe.metrics import Snapshot, merge
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.workers import Worker
from gemstead.traffic.endpoint import EndpointFacts, Load
from gemstead.wiring.counters import LimitStore
from gemstead.wiring.measures import counted

REPORT_WITHIN_S = 1.0
DECODER = msgspec.json.Decoder(ToHead)


@dataclass(slots=True, eq=False)
class Seat:
    """A worker's place, and the last that its present process said."""

    worker: Worker
    listening: Listening | None = None
    figures: Figures | None = None
    owner: str = ""  # what it calls itself to the counters of limits


@dataclass(slots=True)
class Reply:
    """A round of questions: who has not answered yet."""

    number: int
    missing: set[str]
    held: list[Held] = field(default_factory=list)  # of limits, by all that have answered
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, name: str) -> None:
        """This one is waited for no longer."""
        self.missing.discard(name)
        if not self.missing:
            self.done.set()


class GatewayWorkers:
    """All workers of one gateway. Use from one event loop."""

    def __init__(
        self, settings: GatewaySettings, logs: Callable[[str], RotatedLog], trouble: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.endpoints: tuple[EndpointFacts, ...] = settings.endpoints
        self.loads: dict[str, Load] = {}
        self.signing: dict[str, Signing] = {}
        self.seats: dict[str, Seat] = {}
        self.past: list[Snapshot] = []  # one: the counters of all workers that are gone
        self.restarts = 0
        self.listening = asyncio.Event()
        self.limits = LimitStore(settings, trouble)
        self.on_listening: Callable[[], None] = lambda: None
        self.on_adapter_needed: Callable[[str, str], None] = lambda pool, adapter: None
        self.on_adapters_used: Callable[[dict[str, list[str]]], None] = lambda uses: None
        self.on_needed: Callable[[str], None] = lambda pool: None  # a call came for a model that sleeps
        self.on_unknown_key: Callable[[str], None] = lambda issuer: None
        self.on_caller_seen: Callable[[Came], None] = lambda came: None
        self._logs, self._trouble = logs, trouble
        self._replies: dict[int, Reply] = {}
        self._number = 0
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for number in range(self.settings.workers):
            self._seat(f"gateway-{number}")

    def configure(self, settings: GatewaySettings) -> None:
        """New settings for every worker, without dropping a call; more or fewer workers when asked."""
        self.settings, self.endpoints = settings, settings.endpoints
        self.limits.configure(settings)
        self._tell_all(Configure(self._present()))
        wanted = {f"gateway-{number}" for number in range(settings.workers)}
        for name in self.seats.keys() - wanted:
            self._dismiss(self.seats[name])
        for name in sorted(wanted - self.seats.keys()):
            self._seat(name)

    def fleet(self, endpoints: tuple[EndpointFacts, ...]) -> None:
        self.endpoints = endpoints
        self._tell_all(Fleet(endpoints))

    def adapter_failed(self, pool: str, adapter: str, why: str) -> None:
        """Calls that wait for this adapter wait in vain."""
        self._tell_all(AdapterFailed(pool=pool, adapter=adapter, why=why))

    def tell_loads(self, loads: dict[str, Load]) -> None:
        self.loads = loads
        self._tell_all(Loads(loads))

    def tell_signing(self, signing: dict[str, Signing]) -> None:
        """Issuers' keys, whenever there is news of one."""
        self.signing = signing
        self._tell_all(SigningKeys(signing))

    def in_flight(self, endpoint: str) -> int:
        """Calls on that endpoint as last reported, at most a second old."""
        return sum(
            seat.figures.in_flight.get(endpoint, 0)
            for seat in self.seats.values()
            if seat.figures is not None
        )

    def waiting(self, pool: str) -> int:
        """Calls that wait for that model, as last reported."""
        return sum(seat.figures.waiting.get(pool, 0) for seat in self.seats.values() if seat.figures)

    async def _reported(self, limits: bool = False) -> Reply:
        """Have every worker say how it is; one that does not within a second is left out."""
        running = {name for name, seat in self.seats.items() if seat.worker.running and seat.listening}
        self._number += 1
        reply = Reply(self._number, running)
        if running:
            self._replies[reply.number] = reply
            self._tell_all(Report(reply.number, limits))
            try:
                await asyncio.wait_for(reply.done.wait(), REPORT_WITHIN_S)
            except TimeoutError:
                pass
            del self._replies[reply.number]
        return reply

    async def held(self) -> list[Held]:
        """What the workers' calls hold of limits, as fresh as it can be had within a second."""
        return (await self._reported(limits=True)).held

    async def figures(self) -> Snapshot:
        """The counters of all workers, dead and alive, as fresh as they can be had within a second."""
        await self._reported()
        return merge(
            [*self.past, *(seat.figures.snapshot for seat in self.seats.values() if seat.figures)],
            names.FAMILIES,
        )

    async def drain(self, within_s: float) -> None:
        """Every worker finishes what it has and goes; those that do not within the time are ended."""
        self._draining = True
        for seat in list(self.seats.values()):
            self._dismiss(seat)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=within_s)
            if late:
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        for seat in self.seats.values():
            seat.worker.kill()

    def describe(self) -> list[dict[str, object]]:
        """What `gemstead ps` shows of them."""
        return [
            {
                "name": name,
                "pid": seat.worker.pid,
                "listening": seat.listening is not None,
                "restarts": max(seat.worker.restarts, 0),
                "in_flight": sum(seat.figures.in_flight.values()) if seat.figures else 0,
            }
            for name, seat in sorted(self.seats.items())
        ]

    def _seat(self, name: str) -> None:
        argv = [sys.executable, "-m", "gemstead.gateway.worker"]
        worker = Worker(
            name,
            argv,
            log=self._logs(name),
            joined=self._joined,
            said=self._said,
            left=self._left,
            env=environment(self.settings.sharing),
        )
        self.seats[name] = Seat(worker)
        task = asyncio.create_task(worker.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _dismiss(self, seat: Seat) -> None:
        seat.worker.stop()
        seat.worker.tell(msgspec.json.encode(Drain()))

    def _present(self) -> GatewaySettings:
        return msgspec.structs.replace(self.settings, endpoints=self.endpoints)

    def _tell_all(self, word: ToWorker) -> None:
        line = msgspec.json.encode(word)
        for seat in self.seats.values():
            seat.worker.tell(line)

    def _joined(self, worker: Worker) -> None:
        worker.tell(msgspec.json.encode(Configure(self._present())))
        worker.tell(msgspec.json.encode(Loads(self.loads)))
        if self.signing:
            worker.tell(msgspec.json.encode(SigningKeys(self.signing)))

    def _said(self, worker: Worker, line: bytes) -> None:
        seat = self.seats.get(worker.name)
        if seat is None:
            return
        try:
            word = DECODER.decode(line)
        except msgspec.MsgspecError as error:
            self._trouble(f"{worker.name} said something unknown: {error}")
            return
        if isinstance(word, Listening):
            seat.listening = word
            self.listening.set()
            self.on_listening()
        elif isinstance(word, Figures):
            seat.figures = word
            if word.adapters:
                self.on_adapters_used(word.adapters)
            self._answered(worker.name, word)
        elif isinstance(word, Take):
            seat.owner = word.batch.owner
            grants = self.limits.apply(word.batch)
            worker.tell(msgspec.json.encode(Given(number=word.batch.number, grants=grants)))
        elif isinstance(word, BudgetCrossed):
            self.limits.crossed(word.crossed)
        elif isinstance(word, NeedAdapter):
            self.on_adapter_needed(word.pool, word.adapter)
        elif isinstance(word, Needed):
            self.on_needed(word.pool)
        elif isinstance(word, UnknownKey):
            self.on_unknown_key(word.issuer)
        elif isinstance(word, CallerSeen):
            self.on_caller_seen(word.came)
        elif isinstance(word, Trouble):
            self._trouble(f"{worker.name}: {word.message}")
        elif isinstance(word, Drained) and word.unfinished:
            self._trouble(f"{worker.name}: {word.unfinished} calls were cut off when the drain time was over")

    def _answered(self, name: str, word: Figures) -> None:
        if (reply := self._replies.get(word.number)) is None or name not in reply.missing:
            return
        reply.held += word.limits
        reply.heard(name)

    def _left(self, worker: Worker, how: str) -> None:
        seat = self.seats[worker.name]
        if seat.figures is not None:
            self.past = [merge([*self.past, counted(seat.figures.snapshot)], names.FAMILIES)]
        self.limits.left(seat.owner)
        seat.figures = seat.listening = None
        for reply in self._replies.values():
            reply.heard(worker.name)
        if worker.stopped:
            del self.seats[worker.name]
            return
        self.restarts += 1
        self._trouble(f"{worker.name} {how}; another takes its place")
