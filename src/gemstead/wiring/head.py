"""The live service: engines watched, gateway workers told about them, and the admin port answered.

`Head` never reads a file and never plans: it is given a `Wanted` and makes it so, at the start and at each reload.
What runs is the `Fleet`'s, and so is how a changed engine takes the place of the one that runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable
from typing import Any

import msgspec

from gemstead import __version__
from gemstead.supervise.replica import Replica
from gemstead.traffic.endpoint import Load
from gemstead.wiring.adapters import AdapterLoader
from gemstead.wiring.autoscale import Autoscaler, Demand, Engine
from gemstead.wiring.batch import BatchProcess
from gemstead.wiring.discover import NAMES_S
from gemstead.wiring.drafts import Advice, Drafts
from gemstead.wiring.fleet import CannotDo, Fleet
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.identity import Keeper
from gemstead.wiring.measures import exposed
from gemstead.wiring.wanted import Wanted, needs_restart

LOADS_S = 1.0
log = logging.getLogger("gemstead")


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
        rescale: Callable[[str, int], Awaitable[Wanted]] | None = None,
        redraft: Callable[[Advice], Awaitable[Wanted]] | None = None,
        discover: Callable[[Wanted], Awaitable[Wanted | None]] | None = None,
    ) -> None:
        """Args:
        addresses: of the gateway and of the admin port, to be shown.
        batch: the process of files and batches, not started yet.
        reread: the file as it is now, planned. Raises SpecError or another sentence for the user.
        changed: called when there may be something new to show.
        rescale: the file planned with so many replicas of a model. Raises a sentence for the user.
        redraft: the file planned with another depth of a model's drafter. Raises a sentence for the user.
        discover: what should run now that names stand for other addresses; None when they do not.
        """
        self.wanted, self.gateway, self.batch = wanted, gateway, batch
        gateway.on_listening = lambda: self._shown()
        self.began = time.time()
        self.fleet = Fleet(self.changed, self.trouble, gateway.figures)
        gateway.on_needed = self.fleet.needed
        self.adapters = AdapterLoader(
            lambda: [live.watched for live in self.fleet.lives if isinstance(live.watched, Replica)],
            gateway.in_flight,
            self.changed,
            gateway.adapter_failed,
            self.trouble,
        )
        gateway.on_adapter_needed, gateway.on_adapters_used = self.adapters.needed, self.adapters.used
        self.keeper = Keeper(gateway.tell_signing, self.trouble)
        gateway.on_unknown_key = self.keeper.unknown_key
        self.autoscaler = Autoscaler(self._demands, self._autoscale, self.trouble)
        self.troubles: list[str] = []
        self.store: Callable[[], dict[str, object] | None] = lambda: None  # that several gateways share
        self._reread, self._shown, self._rescale, self._redraft = reread, changed, rescale, redraft
        self._discover = discover
        self._gateway, self._admin = addresses
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._reloading = asyncio.Lock()

    # What the console asks.

    def ready(self) -> dict[str, bool]:
        facts = [live.watched.facts for live in self.fleet.lives]
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
            "endpoints": self.fleet.describe(),
            "releases": self.fleet.releases(),
            "workers": self.gateway.describe(),
            "batch": self.batch.describe() if self.batch is not None else None,
            "store": self.store(),
            "notes": list(self.wanted.notes),
            "troubles": self.troubles[-20:],
        }

    async def metrics(self) -> str:
        snapshot = await self.gateway.figures()
        running = {name: seat.listening is not None for name, seat in self.gateway.seats.items()}
        watched = (live.watched for live in self.fleet.lives)
        desired = self.autoscaler.desired
        return exposed(snapshot, watched, running, self.gateway.restarts, desired, self.store())

    def stop(self, *, now: bool) -> None:
        """Drain and end; `now`: without waiting for running calls."""
        self._stop.set()
        if now:
            self._stop_now.set()

    async def reload(self) -> dict[str, Any]:
        async with self._reloading:
            if self.fleet.rolling:
                names = ", ".join(self.fleet.rolling)
                why = f"{names} is still being changed by an earlier one (`gemstead rollout --wait`)"
                return {"refused": [why], "busy": True}
            try:
                wanted = await self._reread()
            except Exception as error:  # a bad file must never stop a good service
                log.info("reload refused", exc_info=error)
                self.trouble(f"reload refused, the old file stays in force: {error}")
                return {"refused": str(error).splitlines() or [type(error).__name__]}
            done = self._apply(wanted)
            log.info("reloaded: %s", done)
            return done

    async def ask(self, verb: str, model: str, **how: Any) -> dict[str, Any]:
        """Do what `gemstead rollout`, `restart`, `sleep`, `wake` and `scale` ask for: what is done, or why not."""
        verbs: dict[str, Callable[..., Any]] = {
            "restart": self.fleet.restart,
            "start": self.fleet.begin_held,
            "promote": self.fleet.promote,
            "undo": self.fleet.undo,
            "sleep": self.fleet.sleep,
            "wake": self.fleet.wake,
            "scale": self.scale,
        }
        try:
            name = self.named(model)
            done = verbs[verb](name, **how)
            said = await done if isawaitable(done) else done
        except CannotDo as reason:
            return {"refused": [str(reason)]}
        log.info("%s", said)
        self.changed()
        return {"done": said}

    def named(self, model: str) -> str:
        """The model that a name or alias means."""
        for pool in self.wanted.settings.pools:
            if model.casefold() in (name.casefold() for name in (pool.name, *pool.aliases)):
                return pool.name
        return model

    async def scale(self, model: str, replicas: int, why: str = "") -> str:
        """Have so many replicas of a model; what that changes. Whoever scales by load calls this.

        Raises:
            CannotDo: they do not fit, or the model is being changed or asleep.
        """
        async with self._reloading:
            self.fleet.free(model)
            if replicas < 1:
                raise CannotDo(
                    f"a model has at least 1 replica; `gemstead sleep {model}` gives its memory back"
                )
            if self._rescale is None:
                raise CannotDo("this service cannot plan further replicas")
            before = self.wanted
            try:
                wanted = await self._rescale(model, replicas)
            except Exception as error:
                raise CannotDo(f"{model} cannot have {replicas} replicas: {error}") from error
            others = tuple(seat for seat in before.seats if seat.pool != model)
            own = tuple(seat for seat in wanted.seats if seat.pool == model)
            done = self._apply(replace(before, seats=others + own))
        words = [
            f"{name} {', '.join(done[name])}" for name in ("added", "removed", "replacing") if done[name]
        ]
        because = f" ({why})" if why else ""
        count = f"{replicas} replica{'s' if replicas > 1 else ''}"
        return f"{model} has {count}{because}: {'; '.join(words) or 'nothing changes'}"

    def _demands(self) -> list[Demand]:
        """Every model that is awake, as its autoscaler looks at it."""
        found = []
        for name, pool in self.fleet.pools.items():
            if pool.asleep:
                continue
            watched = [live.watched for live in self.fleet.lives if live.seat.pool == name]
            engines = [
                Engine(one.facts, self.gateway.in_flight(one.facts.name), one.sight.load) for one in watched
            ]
            spec, busy = self.wanted.autoscale.get(name), name in self.fleet.rolling
            seats, waiting = len(pool.current.seats), self.gateway.waiting(name)
            found.append(Demand(name, seats, engines, waiting, spec, busy))
        return found

    async def _autoscale(self, model: str, replicas: int, why: str) -> str:
        said = await (self.scale(model, replicas, why) if replicas else self.fleet.sleep(model))
        self.changed()
        return said

    async def _with_depth(self, advice: Advice) -> str:
        """Roll a model out with another depth of its drafter; what is done.

        Raises:
            CannotDo: it is being changed or asleep.
        """
        async with self._reloading:
            self.fleet.free(advice.pool)
            if self._redraft is None:
                raise CannotDo("this service cannot plan it anew")
            before = self.wanted
            wanted = await self._redraft(advice)
            others = tuple(seat for seat in before.seats if seat.pool != advice.pool)
            own = tuple(seat for seat in wanted.seats if seat.pool == advice.pool)
            self._apply(replace(before, seats=others + own))
        drafts = f"{advice.depth} tokens" if advice.depth else "none"
        return f"{advice.pool} is rolled out with {drafts} drafted ahead, because {advice.why}"

    def trouble(self, sentence: str) -> None:
        log.warning(sentence)
        self.troubles = [*self.troubles[-99:], sentence]
        self._shown()

    # The life of the service.

    async def run(self) -> None:
        self.fleet.apply(self.wanted)
        self.gateway.endpoints = self.fleet.facts()
        self.gateway.start()
        self.keeper.configure(self.wanted.providers)
        if self.batch is not None:
            self.batch.start()
        drafts = Drafts(lambda: self.fleet.lives, self.gateway.figures, self._with_depth)
        watching = [
            asyncio.create_task(self._tell_loads()),
            asyncio.create_task(drafts.run()),
            asyncio.create_task(self._follow_names()),
            asyncio.create_task(self.autoscaler.run()),
        ]
        try:
            await self._stop.wait()
            await self._end()
        finally:
            for task in watching:
                task.cancel()
            self.keeper.close()
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
        await self.fleet.end()
        await self.gateway.drain(0)

    def changed(self) -> None:
        """An endpoint has changed its phase: the workers hear of it at once."""
        self.gateway.fleet(self.fleet.facts())
        self._shown()

    async def _tell_loads(self) -> None:
        told: dict[str, Load] = {}
        while True:
            await asyncio.sleep(LOADS_S)
            if self.batch is not None:
                self.batch.tell_room(self.fleet.facts(), self.gateway.in_flight)
            loads = {
                live.watched.facts.name: load
                for live in self.fleet.lives
                if (load := live.watched.sight.load) is not None
            }
            if loads != told:
                self.gateway.tell_loads(loads)
                told = loads

    async def _follow_names(self) -> None:
        while self._discover is not None:
            await asyncio.sleep(NAMES_S)
            async with self._reloading:
                if self.fleet.rolling:
                    continue  # a rollout counts its replicas: they stay as they are until it has ended
                wanted = await self._discover(self.wanted)
                if wanted is not None:
                    done = self._apply(wanted)
                    log.info("names stand for other engines now: %s", done)

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
        self.wanted = replace(wanted, settings=settings, admin=old.admin)
        # Workers hear of new models before their engines, and of engines that go after all others.
        self.gateway.configure(msgspec.structs.replace(settings, endpoints=self.fleet.facts()))
        self.keeper.configure(wanted.providers)
        done = self.fleet.apply(wanted)
        self.changed()
        return {
            **done,
            "file": wanted.file,
            "settings_changed": settings != old.settings,
            "needs_restart": restart,
            "notes": list(wanted.notes),
        }
