"""The live service: engines watched, gateway workers told about them, and the admin port answered.

`Head` holds what runs. It never reads a file and never plans: it is given a `Wanted` and makes it so, at
the start and at each reload. An engine that has to change is replaced beside the old one: the old one goes
on until the new one has answered, and is then drained. If the new one keeps failing, the old one stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from gemstead import __version__
from gemstead.engines.lifecycle import Phase
from gemstead.supervise.replica import Watched
from gemstead.traffic.endpoint import EndpointFacts, Load
from gemstead.wiring.batch import BatchProcess
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.measures import exposed
from gemstead.wiring.wanted import Seat, Wanted, compare, needs_restart, next_name

LOADS_S = 1.0
AGAIN_S = 1.0
GIVE_UP_AFTER = 3  # failed starts of a replacement, before the old one is kept for good
log = logging.getLogger("gemstead")


@dataclass(slots=True, eq=False)
class Live:
    """An endpoint that runs: its seat, and the task that keeps it."""

    seat: Seat
    watched: Watched
    task: asyncio.Task[None]


class Head:
    """The running service. `run` returns when it has been stopped and nothing of it is left."""

    def __init__(
        self,
        wanted: Wanted,
        gateway: GatewayWorkers,
        reread: Callable[[], Awaitable[Wanted]],
        *,
        addresses: tuple[str, str] = ("", ""),
        batch: BatchProcess | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        addresses: of the gateway and of the admin port, to be shown.
        batch: the process of files and batches, not started yet.
        reread: the file as it is now, planned. Raises SpecError or another sentence for the user.
        changed: called when there may be something new to show.
        """
        self.wanted, self.gateway, self.batch = wanted, gateway, batch
        gateway.on_listening = lambda: self._shown()
        self.began = time.time()
        self.lives: list[Live] = []
        self.troubles: list[str] = []
        self._reread, self._shown = reread, changed
        self._gateway, self._admin = addresses
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._reloading = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    # What the console asks.

    def ready(self) -> dict[str, bool]:
        facts = [live.watched.facts for live in self.lives]
        listening = any(seat.listening for seat in self.gateway.seats.values())
        return {
            pool.name: listening and any(f.ready for f in facts if f.pool == pool.name)
            for pool in self.wanted.settings.pools
        }

    def status(self) -> dict[str, Any]:
        settings = self.wanted.settings
        return {
            "version": __version__,
            "pid": os.getpid(),
            "began": self.began,
            "uptime_s": round(time.time() - self.began, 1),
            "gateway": self._gateway or f"{settings.host}:{settings.port}",
            "admin": self._admin,
            "keys": "required" if settings.keys_required else "off",
            "stopping": self._stop.is_set(),
            "models": self.ready(),
            "endpoints": [live.watched.describe() for live in self.lives],
            "workers": self.gateway.describe(),
            "batch": self.batch.describe() if self.batch is not None else None,
            "notes": list(self.wanted.notes),
            "troubles": self.troubles[-20:],
        }

    async def metrics(self) -> str:
        snapshot = await self.gateway.figures()
        running = {name: seat.listening is not None for name, seat in self.gateway.seats.items()}
        return exposed(snapshot, (live.watched for live in self.lives), running, self.gateway.restarts)

    def stop(self, *, now: bool) -> None:
        """Drain and end; `now`: without waiting for running calls."""
        self._stop.set()
        if now:
            self._stop_now.set()

    async def reload(self) -> dict[str, Any]:
        async with self._reloading:
            if self._background:
                return {"refused": ["the last reload is still being carried out; see `gemstead ps`"]}
            try:
                wanted = await self._reread()
            except Exception as error:  # a bad file must never stop a good service
                log.info("reload refused", exc_info=error)
                self.trouble(f"reload refused, the old file stays in force: {error}")
                return {"refused": str(error).splitlines() or [type(error).__name__]}
            done = self._apply(wanted)
            log.info("reloaded: %s", done)
            return done

    def trouble(self, sentence: str) -> None:
        log.warning(sentence)
        self.troubles = [*self.troubles[-99:], sentence]
        self._shown()

    # The life of the service.

    async def run(self) -> None:
        for seat in self.wanted.seats:
            self._start(seat, seat.name)
        self.gateway.endpoints = self._facts()
        self.gateway.start()
        if self.batch is not None:
            self.batch.start()
        telling = asyncio.create_task(self._tell_loads())
        try:
            await self._stop.wait()
            await self._end()
        finally:
            telling.cancel()
            await self._kill()

    async def _end(self) -> None:
        """Gateway first, so that every call that runs keeps its engine; then the engines."""
        drain_s = self.wanted.settings.deadlines.drain_s
        if self.batch is not None:
            self.batch.stop(drain_s)
        draining = asyncio.create_task(self.gateway.drain(drain_s + 5))
        hurry = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self.gateway.kill()
        await draining
        hurry.cancel()

    async def _kill(self) -> None:
        self.gateway.kill()
        if self.batch is not None:
            await self.batch.end()
        for task in self._background:
            task.cancel()
        for live in self.lives:
            live.watched.kill()
        await asyncio.gather(*(live.task for live in self.lives), *self._background, return_exceptions=True)
        await self.gateway.drain(0)

    def _start(self, seat: Seat, name: str) -> Live:
        watched = seat.start(name)
        live = Live(seat, watched, asyncio.create_task(watched.run()))
        self.lives.append(live)
        live.task.add_done_callback(lambda _: self._gone(live))
        return live

    def _gone(self, live: Live) -> None:
        """Drained and gone; or its watch broke, which must not cost the endpoint for ever."""
        if live not in self.lives or self._stop.is_set():
            return
        self.lives.remove(live)
        error = None if live.task.cancelled() else live.task.exception()
        if error is not None:
            log.error("watching %s failed", live.seat.name, exc_info=error)
            self.trouble(f"watching {live.seat.name} failed ({error!r}); it is started afresh")
            asyncio.get_running_loop().call_later(AGAIN_S, self._afresh, live)
        self.changed()

    def _afresh(self, live: Live) -> None:
        if not self._stop.is_set():
            self._start(live.seat, next_name(live.watched.facts.name))
            self.changed()

    def changed(self) -> None:
        """An endpoint has changed its phase: the workers hear of it at once."""
        self.gateway.fleet(self._facts())
        self._shown()

    def _facts(self) -> tuple[EndpointFacts, ...]:
        return tuple(live.watched.facts for live in self.lives)

    async def _tell_loads(self) -> None:
        told: dict[str, Load] = {}
        while True:
            await asyncio.sleep(LOADS_S)
            if self.batch is not None:
                self.batch.tell_room(self._facts(), self.gateway.in_flight)
            loads = {
                live.watched.facts.name: load
                for live in self.lives
                if (load := live.watched.sight.load) is not None
            }
            if loads != told:
                self.gateway.tell_loads(loads)
                told = loads

    # Reloading.

    def _apply(self, wanted: Wanted) -> dict[str, Any]:
        old, new = self.wanted, wanted.settings
        restart = needs_restart(old, wanted)
        settings = msgspec.structs.replace(
            new,
            host=old.settings.host,
            port=old.settings.port,
            tls=old.settings.tls,
            aside=old.settings.aside,
        )
        self.wanted = Wanted(settings, wanted.seats, wanted.notes, old.admin)
        change = compare({live.seat.name: live.seat for live in self._staying()}, wanted.seats)
        for seat in change.added:
            self._start(seat, seat.name)
        self.gateway.configure(msgspec.structs.replace(settings, endpoints=self._facts()))
        for live in self._staying():
            if live.seat.name in change.removed:
                live.watched.drain()
        if change.replaced:
            self._later(self._replace_all(change.replaced))
        self.changed()
        return {
            "added": [seat.name for seat in change.added],
            "replacing": [seat.name for seat in change.replaced],
            "removed": sorted(change.removed),
            "settings_changed": settings != old.settings,
            "needs_restart": restart,
            "notes": list(wanted.notes),
        }

    def _staying(self) -> list[Live]:
        return [live for live in self.lives if live.watched.phase is not Phase.DRAINING]

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _replace_all(self, seats: tuple[Seat, ...]) -> None:
        for seat in seats:
            for old in [live for live in self._staying() if live.seat.name == seat.name]:
                await self._replace(seat, old)

    async def _replace(self, seat: Seat, old: Live) -> None:
        """One engine for another, with a ready one all the time."""
        was_ready = old.watched.facts.ready
        if not was_ready:
            old.watched.drain()
        fresh = self._start(seat, next_name(old.watched.facts.name))
        self.changed()
        while not fresh.watched.facts.ready and not fresh.task.done():
            tries = fresh.watched.describe().get("restarts", 0)
            if was_ready and isinstance(tries, int) and tries >= GIVE_UP_AFTER:
                why = fresh.watched.describe().get("why")
                self.trouble(f"{seat.name} cannot be started as the file wants it, the old one stays: {why}")
                self.lives.remove(fresh)
                fresh.watched.kill()
                await fresh.task
                self.changed()
                return
            await asyncio.sleep(0.1)
        old.watched.drain()
        with suppress(asyncio.CancelledError):
            await asyncio.shield(old.task)
