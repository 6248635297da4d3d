"""What runs: every endpoint with its watch, the releases of every model, and the rollouts under way.

The fleet is given seats and makes them so. Seats that are added or removed come and go at once; a seat that has
changed makes a new release of its model, which takes the old one's place as the file's `rollout` says. A release that
was sent back is not tried again by itself: the file that wants it may be read any number of times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gemstead.engines.lifecycle import Phase
from gemstead.observe.metrics import Snapshot
from gemstead.spec.rollout import RolloutSpec
from gemstead.supervise.watched import Watched
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.wiring.release import Pool, Release
from gemstead.wiring.rollouts import Hands, Rolling
from gemstead.wiring.wanted import Seat, Wanted

AGAIN_S = 1.0
DEFAULT = RolloutSpec()
log = logging.getLogger("gemstead")


class CannotDo(Exception):
    """What was asked for cannot be done now; the sentence says why, and what can."""


@dataclass(slots=True, eq=False)
class Live:
    """An endpoint that runs: its seat, its release, and the task that keeps it."""

    seat: Seat
    release: str
    watched: Watched
    task: asyncio.Task[None]

    @property
    def staying(self) -> bool:
        return self.watched.phase not in (Phase.DRAINING, Phase.STOPPED)


class Fleet:
    """The endpoints of a service."""

    def __init__(
        self,
        changed: Callable[[], None],
        trouble: Callable[[str], None],
        figures: Callable[[], Awaitable[Snapshot]],
    ) -> None:
        self.lives: list[Live] = []
        self.pools: dict[str, Pool] = {}
        self.rolling: dict[str, Rolling] = {}
        self.stopping = False
        self._changed, self._trouble, self._figures = changed, trouble, figures
        self._names: dict[str, int] = {}
        self._specs: Mapping[str, RolloutSpec] = {}
        self._background: set[asyncio.Task[None]] = set()

    # What there is.

    def facts(self) -> tuple[EndpointFacts, ...]:
        """Every endpoint as the gateway is told of it."""
        weights = self._weights()
        for pool in self.pools.values():
            pool.waking = pool.waking and not any(one.watched.facts.ready for one in self._of(pool.name))
        awaited = {name for name, pool in self.pools.items() if pool.asleep or pool.waking}
        awaited |= {name for name, rolling in self.rolling.items() if rolling.gap}
        return tuple(
            msgspec.structs.replace(
                facts := live.watched.facts,
                release=live.release,
                weight=weights.get(facts.name, 1.0),
                asleep=live.seat.pool in awaited,
            )
            for live in self.lives
        )

    def needed(self, pool: str) -> None:
        """A call has come for a model that sleeps."""
        if pool in self.pools and self.pools[pool].asleep:
            log.info("%s", self.wake(pool))

    def describe(self) -> list[dict[str, object]]:
        """Every endpoint as `gemstead ps` shows it."""
        weights = self._weights()
        return [
            {
                **live.watched.describe(),
                "release": live.release,
                "weight": weights.get(live.watched.facts.name),
            }
            for live in self.lives
        ]

    def releases(self) -> list[dict[str, object]]:
        """Every model's release, rollout and past rollouts."""
        return [
            {
                "model": pool.name,
                "release": pool.current.label,
                "replicas": len(pool.current.seats),
                "previous": pool.previous.label if pool.previous else None,
                "held": pool.held.label if pool.held else None,
                "held_why": pool.held_why,
                "asleep": pool.asleep,
                "rollout": self.rolling[name].describe() if name in self.rolling else None,
                "history": pool.history,
            }
            for name, pool in self.pools.items()
        ]

    def _weights(self) -> dict[str, float]:
        return {name: weight for one in self.rolling.values() for name, weight in one.weights().items()}

    def _of(self, pool: str) -> list[Live]:
        return [live for live in self.lives if live.seat.pool == pool]

    # Making it so.

    def apply(self, wanted: Wanted) -> dict[str, Any]:
        """Have what is wanted; what that changes."""
        self._specs = wanted.rollouts
        seats: dict[str, list[Seat]] = {}
        for seat in wanted.seats:
            seats.setdefault(seat.pool, []).append(seat)
        done: dict[str, Any] = {"added": [], "replacing": [], "removed": [], "held": []}
        for name in [name for name in self.pools if name not in seats]:
            done["removed"] += sorted(seat.name for seat in self.pools.pop(name).current.seats)
            for live in self._of(name):
                live.watched.drain()
        for name, own in seats.items():
            if name in self.pools:
                self._compare(self.pools[name], tuple(own), done)
            else:
                self.pools[name] = Pool(name, Release("1", tuple(own)))
                done["added"] += [self._start(seat, "1").seat.name for seat in own]
        return done

    def _compare(self, pool: Pool, seats: tuple[Seat, ...], done: dict[str, Any]) -> None:
        now = {seat.name: seat for seat in pool.current.seats}
        wanted = {seat.name for seat in seats}
        changed = [seat.name for seat in seats if seat.name in now and now[seat.name].same != seat.same]
        pool.held, pool.held_why = None, ""
        if not changed:
            pool.current = Release(pool.current.label, seats)
            for live in self._of(pool.name):
                if live.seat.name not in wanted and live.staying:
                    live.watched.drain()
            added = [self._start(seat, pool.current.label) for seat in seats if seat.name not in now]
            done["added"] += [live.seat.name for live in added]
            done["removed"] += sorted(now.keys() - wanted)
            return
        fresh = pool.next(seats)
        if fresh.signature == pool.rejected:
            self._hold(pool, fresh, "this release was sent back before")
        elif self._spec(pool.name).strategy == "manual":
            self._hold(pool, fresh, "the strategy is `manual`")
        else:
            try:
                self.roll(pool, fresh, "reload")
            except CannotDo as reason:
                self._hold(pool, fresh, str(reason))
        if pool.held is None:
            done["replacing"] += changed
        else:
            done["held"].append(f"{pool.name}: {pool.held_why}")

    def _hold(self, pool: Pool, release: Release, why: str) -> None:
        pool.held = release
        pool.held_why = f"{why}; `gemstead rollout start {pool.name}` begins it"

    def roll(self, pool: Pool, release: Release, reason: str, *, gap: bool = False) -> None:
        """Begin to put a release in the present one's place.

        Raises:
            CannotDo: one is under way, or there is no room to do it without a gap.
        """
        if pool.name in self.rolling:
            raise CannotDo(f"{pool.name} is being changed already; see `gemstead rollout`")
        spec, old = self._spec(pool.name), pool.current
        ready = sum(live.watched.facts.ready for live in self._of(pool.name))
        full = _no_room(spec, old, release)
        both = min(len(old.seats), len(release.seats))
        extra = 0 if full else both if spec.strategy == "blue_green" else 1
        if full and ready and spec.strategy == "blue_green":
            raise CannotDo(f"blue_green needs room for {both} more: {full}; use `rolling`")
        if full and ready and both == 1 and not gap:
            raise CannotDo(
                f"the new engine has no room beside the old one ({full}); with `--gap` the old one ends first, and "
                "calls wait"
            )
        hands = Hands(
            lives=lambda: self._of(pool.name),
            start=lambda which: self._one_more(pool, which),
            drain=self._drain,
            changed=self._changed,
            figures=self._figures,
        )
        pool.held, pool.held_why = None, ""
        rolling = Rolling(pool.name, old, release, spec, extra, hands, reason, ready=ready)
        self.rolling[pool.name] = rolling
        self._later(self._rolled(pool, rolling))

    async def _rolled(self, pool: Pool, rolling: Rolling) -> None:
        try:
            await rolling.run()
        except Exception as error:
            log.exception("the rollout of %s broke", pool.name)
            self._trouble(f"the rollout of {pool.name} broke ({error!r}); what runs now stays")
            return
        finally:
            self.rolling.pop(pool.name, None)
        entry = {**rolling.describe(), "ended": time.time()}
        pool.remember(entry)
        if rolling.undone:
            pool.rejected = rolling.new.signature
            if rolling.reason in ("reload", "start"):
                self._hold(pool, rolling.new, f"it was sent back ({rolling.state.why})")
            self._trouble(
                f"release {rolling.new.label} of {pool.name} was sent back, the old one stays: {rolling.state.why}"
            )
        else:
            pool.previous, pool.current, pool.rejected = rolling.old, rolling.new, None
        self._changed()

    # What somebody asks for.

    def pool(self, name: str) -> Pool:
        """The model of that name.

        Raises:
            CannotDo: there is none.
        """
        if name in self.pools:
            return self.pools[name]
        served = ", ".join(self.pools) or "none"
        raise CannotDo(f"there is no model {name} here; there are: {served}")

    def restart(self, name: str, *, gap: bool = False) -> str:
        """Replace every engine of a model by one with the same settings."""
        pool = self._awake(name)
        self.roll(pool, pool.next(pool.current.seats), "restart", gap=gap)
        return f"restarting {len(pool.current.seats)} engines of {name}, one after another"

    def begin_held(self, name: str, *, gap: bool = False) -> str:
        """Begin the rollout that waits for somebody."""
        pool = self._awake(name)
        if (held := pool.held) is None:
            raise CannotDo(
                f"nothing waits for {name}: it runs what the file said when it was last read (`gemstead reload`)"
            )
        pool.rejected = None
        self.roll(pool, held, "start", gap=gap)
        return f"release {held.label} of {name} takes the place of {pool.current.label}"

    def promote(self, name: str) -> str:
        """End the watching: the new release takes over."""
        if (rolling := self.rolling.get(self.pool(name).name)) is None:
            raise CannotDo(f"no rollout of {name} is under way")
        rolling.promote()
        return f"release {rolling.new.label} of {name} takes all calls, without further watching"

    def undo(self, name: str) -> str:
        """Go back to the release before."""
        pool = self._awake(name)
        if (rolling := self.rolling.get(name)) is not None:
            rolling.undo("asked for")
            return f"going back to release {rolling.old.label} of {name}"
        if pool.previous is None:
            raise CannotDo(f"{name} has no earlier release to go back to")
        rejected, back = pool.current.signature, pool.previous
        wanted = {seat.name for seat in pool.current.seats}  # scaled since: as many as now
        seats = tuple(seat for seat in back.seats if seat.name in wanted) or back.seats
        self.roll(pool, pool.next(seats), "undo")
        pool.rejected = rejected
        return f"going back to what release {back.label} of {name} was"

    async def sleep(self, name: str) -> str:
        """Finish what runs, then give the model's memory back until it is woken."""
        pool = self.free(name)
        pool.asleep = True
        said = {await live.watched.sleep() for live in self._of(name) if live.staying}
        self._changed()
        return f"{name}: {'; '.join(sorted(said)) or 'nothing runs'}"

    def wake(self, name: str) -> str:
        """Have a model that sleeps answer again."""
        pool = self.pool(name)
        was, pool.asleep = pool.asleep, False
        pool.waking = was
        for live in self._of(name):
            live.watched.wake()
        self._changed()
        return f"{name} is being woken" if was else f"{name} is awake"

    def free(self, name: str) -> Pool:
        """The model, when it is awake and nothing changes it.

        Raises:
            CannotDo: otherwise.
        """
        if name in self.rolling:
            raise CannotDo(f"{name} is being changed; let that end first (`gemstead rollout`)")
        return self._awake(name)

    def _awake(self, name: str) -> Pool:
        pool = self.pool(name)
        if pool.asleep:
            raise CannotDo(f"{name} sleeps; `gemstead wake {name}` first")
        return pool

    # Endpoints.

    def _one_more(self, pool: Pool, release: Release) -> None:
        """A replica of this release in a seat that has none."""
        taken = [
            live.seat.name for live in self._of(pool.name) if live.release == release.label and live.staying
        ]
        seat = min(release.seats, key=lambda one: taken.count(one.name))
        self._start(seat, release.label)

    def _start(self, seat: Seat, release: str) -> Live:
        """A new endpoint, under a name that none had before: its figures are its own."""
        number = self._names[seat.name] = self._names.get(seat.name, 0) + 1
        watched = seat.start(seat.name if number == 1 else f"{seat.name}~{number}")
        live = Live(seat, release, watched, asyncio.create_task(watched.run()))
        self.lives.append(live)
        live.task.add_done_callback(lambda _: self._gone(live))
        return live

    def _drain(self, name: str) -> None:
        for live in self.lives:
            if live.watched.facts.name == name:
                live.watched.drain()

    def _gone(self, live: Live) -> None:
        """Drained and gone; or its watch broke, which must not cost the endpoint for ever."""
        if live not in self.lives or self.stopping:
            return
        self.lives.remove(live)
        error = None if live.task.cancelled() else live.task.exception()
        if error is not None:
            log.error("watching %s failed", live.seat.name, exc_info=error)
            self._trouble(f"watching {live.seat.name} failed ({error!r}); it is started afresh")
            asyncio.get_running_loop().call_later(AGAIN_S, self._afresh, live)
        self._changed()

    def _afresh(self, live: Live) -> None:
        if not self.stopping and live.seat.pool in self.pools:
            self._start(live.seat, live.release)
            self._changed()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def end(self) -> None:
        """Stop everything now."""
        self.stopping = True
        for task in self._background:
            task.cancel()
        for live in self.lives:
            live.watched.kill()
        await asyncio.gather(*(live.task for live in self.lives), *self._background, return_exceptions=True)

    def _spec(self, pool: str) -> RolloutSpec:
        return self._specs.get(pool, DEFAULT)


def _no_room(spec: RolloutSpec, old: Release, new: Release) -> str:
    """Why no further process may run beside the old release; "" when one may."""
    if not spec.extra:
        return "`rollout.extra` is false"
    return next((why for why in _reasons(new.seats) if why), "") if old.seats else ""


def _reasons(seats: Iterable[Seat]) -> Iterable[str]:
    return (seat.room() for seat in seats)
