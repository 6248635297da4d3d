"""One rollout carried out: what runs is looked at, the step function (`engines/rollout.py`) is asked, its commands are
done, and callers' luck with the new release is judged (`engines/canary.py`).

The loop looks `LOOK_S` often, so an engine that cannot start, dies or answers nonsense turns a rollout back within that
time; workers report every second, so calls do within about a second of being enough evidence. While it is watched, the
new release is also asked known questions, by whose second wrong answer in a row it goes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gemstead.engines.canary import Outcome, Tolerance, judge
from gemstead.engines.lifecycle import Phase
from gemstead.engines.rollout import (
    Drain,
    Event,
    Judged,
    Looked,
    Member,
    Order,
    PromoteAsked,
    Stage,
    Start,
    Strategy,
    UndoAsked,
    begin,
    plain,
    step,
    weights,
)
from gemstead.observe import names
from gemstead.observe.metrics import Snapshot, render_labels
from gemstead.spec.rollout import RolloutSpec
from gemstead.supervise.watched import Watched
from gemstead.wiring.release import Release

LOOK_S = 0.1
JUDGE_S = 1.0
WRONG_ANSWERS = 2
BOUNDS = names.ENDPOINT_FIRST_TOKEN.buckets
WATCHED = frozenset({Stage.WATCHING, Stage.KEEPING, Stage.ROLLING})
log = logging.getLogger("gemstead")


class Running(Protocol):
    """An endpoint that runs."""

    @property
    def release(self) -> str: ...
    @property
    def watched(self) -> Watched: ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What a rollout can do."""

    lives: Callable[[], Sequence[Running]]  # of this model
    start: Callable[[Release], None]  # one more replica
    drain: Callable[[str], None]  # an endpoint, by name
    changed: Callable[[], None]
    figures: Callable[[], Awaitable[Snapshot]]


class Rolling:
    """A rollout of one model. `run` returns when it has ended, one way or the other."""

    def __init__(
        self,
        pool: str,
        old: Release,
        new: Release,
        spec: RolloutSpec,
        extra: int,
        hands: Hands,
        why: str,
        ready: int,
    ) -> None:
        """Args:
        extra: processes that there is room for beyond those that run.
        why: what it is for: "reload", "restart", "undo".
        ready: replicas of the old release that are ready now. None: there is nothing to go back to.
        """
        strategy = Strategy.ROLLING if spec.strategy == "manual" else Strategy(spec.strategy)
        order = Order(
            old=old.label,
            new=new.label,
            old_count=len(old.seats),
            count=len(new.seats),
            strategy=strategy,
            extra=extra,
            shares=tuple(share / 100 for share in spec.shares),
            watch_s=spec.watch_s,
            watch_most_s=max(spec.watch_s, spec.watch_most_s),
            settle_s=spec.settle_s,
            keep_s=spec.keep_s,
            tries=spec.tries,
            whole=ready,
            one_way=ready == 0,
        )
        self.pool, self.old, self.new, self.spec = pool, old, new, spec
        self.reason = why  # of the rollout: "reload", "restart", ...
        self.began = time.time()
        self.state = begin(plain(order), time.monotonic())
        self.verdict = ""
        self.calls = 0
        self._hands = hands
        self._mark: dict[str, Outcome] = {}
        self._marked = False
        self._wrong = 0

    @property
    def gap(self) -> bool:
        """Whether there are moments with no engine at all: callers wait then."""
        return self.state.order.least == 0

    @property
    def undone(self) -> bool:
        return self.state.stage is Stage.UNDONE

    def weights(self) -> dict[str, float]:
        """Each endpoint's weight, by name."""
        return weights(self.state, self._members())

    def undo(self, why: str) -> None:
        self._tell(UndoAsked(why))

    def promote(self) -> None:
        self._tell(PromoteAsked())

    async def run(self) -> None:
        judging = asyncio.create_task(self._judging())
        proving = asyncio.create_task(self._proving())
        try:
            while not self.state.ended:
                self._tell(Looked(self._members()))
                await asyncio.sleep(LOOK_S)
        finally:
            for task in (judging, proving):
                task.cancel()
            await asyncio.gather(judging, proving, return_exceptions=True)

    def describe(self) -> dict[str, object]:
        """What `gemstead rollout` shows of it."""
        state, order = self.state, self.state.order
        return {
            "model": self.pool,
            "from": order.old,
            "to": order.new,
            "strategy": order.strategy.value,
            "stage": state.stage.value,
            "share": state.share,
            "for_s": round(time.monotonic() - state.since, 1),
            "began": self.began,
            "calls": self.calls,
            "why": state.why,
            "reason": self.reason,
            "ready": sum(m.ready for m in self._members() if m.release == order.new),
            "count": order.count,
        }

    def _members(self) -> tuple[Member, ...]:
        return tuple(_member(one) for one in self._hands.lives())

    def _tell(self, event: Event) -> None:
        before = (self.state.stage, self.state.at)
        self.state, commands = step(self.state, event, time.monotonic())
        for command in commands:
            if isinstance(command, Start):
                self._hands.start(self.new if command.release == self.new.label else self.old)
            elif isinstance(command, Drain):
                self._hands.drain(command.name)
        if commands or before != (self.state.stage, self.state.at):
            if before[0] is not self.state.stage:
                why = f": {self.state.why}" if self.state.why else ""
                log.info("rollout of %s: %s%s", self.pool, self.state.stage.value, why)
            self._hands.changed()

    async def _judging(self) -> None:
        tolerance = Tolerance(
            errors=self.spec.errors / 100, slower=self.spec.slower, least_calls=self.spec.least_calls
        )
        while True:
            await asyncio.sleep(JUDGE_S)
            try:
                members = self._members()
                if not any(m.ready for m in members if m.release == self.new.label):
                    continue
                snapshot = await self._hands.figures()
                if not self._marked:  # what the old release did before there was a new one is no comparison
                    self._marked = True
                    if self.state.order.strategy is not Strategy.BLUE_GREEN:
                        self._mark = {m.name: outcome(snapshot, [m.name]) for m in members}
                if self.state.stage in WATCHED:
                    new, old = self._outcome(snapshot, self.new), self._outcome(snapshot, self.old)
                    self.calls = new.calls
                    self._tell(Judged(judge(new, old, BOUNDS, tolerance)))
            except Exception:  # a verdict that cannot be had is none; the rollout goes on
                log.exception("judging the rollout of %s failed", self.pool)

    def _outcome(self, snapshot: Snapshot, release: Release) -> Outcome:
        names_ = [m.name for m in self._members() if m.release == release.label]
        total = outcome(snapshot, names_)
        return less(total, [self._mark[name] for name in names_ if name in self._mark])

    async def _proving(self) -> None:
        """Known questions for the new release while it is watched."""
        while True:
            await asyncio.sleep(self.spec.check_every_s)
            if self.state.stage not in WATCHED:
                continue
            for one in self._hands.lives():
                if one.release == self.new.label and one.watched.facts.ready:
                    why = await one.watched.prove()
                    self._wrong = self._wrong + 1 if why else 0
                    if self._wrong >= WRONG_ANSWERS:
                        self._tell(UndoAsked(f"{one.watched.facts.name}: {why}"))


def _member(one: Running) -> Member:
    watched = one.watched
    facts, standing = watched.facts, watched.standing
    return Member(
        name=facts.name,
        release=one.release,
        ready=facts.ready,
        draining=facts.draining or watched.phase in (Phase.DRAINING, Phase.STOPPED),
        ready_s=standing.ready_s,
        failures=standing.failures,
        served=standing.served,
        hopeless=standing.hopeless,
    )


def outcome(snapshot: Snapshot, endpoints: Iterable[str]) -> Outcome:
    """What these endpoints did together, as the workers counted it."""
    total = Outcome(0, 0, _nought(), _nought())
    calls = snapshot.get(names.ENDPOINT_CALLS.name, {})
    first = snapshot.get(names.ENDPOINT_FIRST_TOKEN.name, {})
    per_token = snapshot.get(names.ENDPOINT_PER_OUTPUT_TOKEN.name, {})
    for name in endpoints:
        served, failed = (
            calls.get(render_labels(names.ENDPOINT_CALLS.labels, (name, how)), [0.0])[0]
            for how in ("served", "failed")
        )
        one = render_labels(names.ENDPOINT_FIRST_TOKEN.labels, (name,))
        total = Outcome(
            total.served + int(served),
            total.failed + int(failed),
            _added(total.first_token, first.get(one), 1),
            _added(total.per_token, per_token.get(one), 1),
        )
    return total


def less(total: Outcome, before: Iterable[Outcome]) -> Outcome:
    """What came since."""
    for one in before:
        total = Outcome(
            max(total.served - one.served, 0),
            max(total.failed - one.failed, 0),
            _added(total.first_token, one.first_token, -1),
            _added(total.per_token, one.per_token, -1),
        )
    return total


def _nought() -> tuple[int, ...]:
    return (0,) * (len(BOUNDS) + 1)


def _added(counts: tuple[int, ...], more: Sequence[float] | None, sign: int) -> tuple[int, ...]:
    """Counts by bucket; `more` may have the sum before them, as a snapshot has it."""
    if more is None:
        return counts
    own = more[-len(counts) :]
    return tuple(max(a + sign * int(b), 0) for a, b in zip(counts, own, strict=True))
