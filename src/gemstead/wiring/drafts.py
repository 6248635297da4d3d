"""Drafters that do not pay are written shorter, or left out, by a rollout of the model.

Each engine's watch (`engines/drafting_watch.py`) says whether its drafter earns its keep; what it cannot see itself,
how long the slowest answers take for each token, it is told here from what the gateway's workers counted. When a watch
asks for another depth, the model is planned again with it and rolled out as its `rollout` says, so no call is lost.
A depth that the file names (`draft_tokens`) is the user's: then it is only advised. What was changed here holds until
the model's entry in the file changes or the service is restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gemstead.engines.canary import Outcome
from gemstead.engines.drafting_watch import WINDOW_S, Verdict, Watch
from gemstead.observe.metrics import Snapshot
from gemstead.plan.deploy import pool_name
from gemstead.spec.model import ModelSpec, Spec
from gemstead.supervise.watched import Watched
from gemstead.wiring.rollouts import BOUNDS, less, outcome
from gemstead.wiring.scale import Scaled
from gemstead.wiring.wanted import Seat

LOOK_S = 15.0
LEAST_CALLS = 200  # answers in a window: the slowest hundredth of fewer is one or two of them
CHANGES = frozenset({Verdict.LOWER, Verdict.OFF, Verdict.WRONG_PAIR})
log = logging.getLogger("gemstead")


@runtime_checkable
class Drafting(Protocol):
    """An engine of ours whose drafter is watched."""

    drafts: Watch
    slowest_s: float | None


class Live(Protocol):
    """An endpoint that runs."""

    @property
    def seat(self) -> Seat: ...
    @property
    def watched(self) -> Watched: ...


@dataclass(frozen=True, slots=True)
class Advice:
    """Another depth for a model's drafter; 0: none."""

    pool: str
    depth: int
    why: str


class Drafts:
    """Keeps looking at the engines that draft. `redraft` raises what speaks against it now."""

    def __init__(
        self,
        lives: Callable[[], Sequence[Live]],
        figures: Callable[[], Awaitable[Snapshot]],
        redraft: Callable[[Advice], Awaitable[str]],
    ) -> None:
        self._lives, self._figures, self._redraft = lives, figures, redraft
        self._marks: dict[str, tuple[float, Outcome]] = {}
        self._said: set[Advice] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look(time.monotonic())
            except Exception:  # a look that fails changes nothing
                log.exception("looking at the drafters failed")

    async def look(self, now: float) -> None:
        """Tell each watch how slow its engine's slowest answers are, and do what a watch asks for."""
        watched = [(one.watched, one.watched.facts) for one in self._lives()]
        drafting = [
            (one, facts.name) for one, facts in watched if isinstance(one, Drafting) and one.drafts.depth
        ]
        if not drafting:
            return
        snapshot = await self._figures()
        for one, name in drafting:
            one.slowest_s = self._slowest_s(name, snapshot, now)
        for advice in advised(self._lives()):
            if advice in self._said:
                continue
            try:
                log.info("%s", await self._redraft(advice))
            except Exception as error:
                log.info("%s keeps its drafter for now: %s", advice.pool, error)
                continue
            self._said.add(advice)

    def _slowest_s(self, name: str, snapshot: Snapshot, now: float) -> float | None:
        """Seconds for each token that one answer in a hundred exceeds, in the last whole window."""
        found = outcome(snapshot, [name])
        began, mark = self._marks.setdefault(name, (now, found))
        recent = less(found, [mark])
        if now - began >= WINDOW_S:
            self._marks[name] = (now, found)
        return percentile(recent.per_token, 0.99)


def advised(lives: Iterable[Live]) -> Iterator[Advice]:
    """What the watches ask for: one advice for each model, the most cautious of its replicas'."""
    found: dict[str, Advice] = {}
    for one in lives:
        watched = one.watched
        name = watched.facts.name
        if not isinstance(watched, Drafting) or watched.drafts.verdict not in CHANGES:
            continue
        advice = Advice(one.seat.pool, watched.drafts.to, f"{name}: {watched.drafts.why}")
        if one.seat.pool not in found or advice.depth < found[one.seat.pool].depth:
            found[one.seat.pool] = advice
    yield from found.values()


def redrafted(spec: Spec, advice: Advice, before: Scaled | None) -> Scaled:
    """The model's entry with another depth, and with the replicas that it was scaled to `before`.

    Raises:
        ValueError: the file names a depth itself, or has no such model.
    """
    entry = next((model for model in spec.models if pool_name(model) == advice.pool), None)
    if entry is None:
        raise ValueError(f"the file has no model {advice.pool}")
    if entry.draft_tokens is not None:
        to = f"`draft_tokens: {advice.depth}`" if advice.depth else '`draft: "off"`'
        raise ValueError(
            f"the file says `draft_tokens: {entry.draft_tokens}`; better is {to}, because {advice.why}"
        )
    scaled = before.instead if before is not None and before.entry == entry else entry
    return Scaled(entry, with_depth(scaled, advice.depth))


def with_depth(entry: ModelSpec, depth: int) -> ModelSpec:
    """A model's entry that drafts so many tokens; 0: none."""
    if depth:
        return entry.model_copy(update={"draft_tokens": depth})
    return entry.model_copy(update={"draft": "off"})


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The upper bound of the bucket in which that share of the counts is reached; None: too few."""
    total = sum(counts)
    if total < LEAST_CALLS:
        return None
    reached = 0
    for bound, count in zip(BOUNDS, counts, strict=False):
        reached += count
        if reached >= share * total:
            return bound
    return BOUNDS[-1]
