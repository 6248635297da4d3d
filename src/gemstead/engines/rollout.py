"""One release of a model in the place of another, without downtime: `step(state, event, now) -> (state, commands)`.

A *release* is what a model's engines run: files, engine, settings. A rollout moves from the old release to the new
one, and back when the new one is bad.

    rolling      replicas are replaced one by one; each serves beside the old ones for `settle_s` before the next
    canary       one replica gets a share of the calls, step by step; then as rolling
    blue_green   all of the new release start beside the old, unseen; then all calls move at once, and the old
                 release is kept warm for `keep_s`, to be switched back to

    ROLLING  -------------------------------> DONE
    WATCHING -> ... (steps) -> ROLLING
    PREPARING -> KEEPING -> ROLLING
       \\__ bad, or undo asked, from any of these __> BACK -> UNDONE

*Level, not edge.* What runs is shown as a whole (`Looked`) as often as one likes, and every command is worked out
from what is there: a look that was missed or came twice changes nothing, and a replica that dies in between is simply
seen. Only verdicts and an operator's words are remembered.

*Promises, whatever the order of events.* A ready replica is only taken away while `least` others are ready. No more
than `most` processes exist at once, those that end included. Once a rollout has turned back, no replica of the new
release is ever started again, and it ends only when the old release is whole and nothing of the new one is left. A
release is bad when one of its engines fails to start `tries` times, fails in a way that a restart cannot mend, dies
after it was ready, answers gibberish, or is judged worse by what callers got (`canary.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gemstead.engines.canary import Verdict


class Strategy(StrEnum):
    ROLLING = "rolling"
    CANARY = "canary"
    BLUE_GREEN = "blue_green"


class Stage(StrEnum):
    ROLLING = "rolling"
    WATCHING = "watching"
    PREPARING = "preparing"
    KEEPING = "keeping"
    BACK = "back"
    DONE = "done"
    UNDONE = "undone"


ENDED = frozenset({Stage.DONE, Stage.UNDONE})


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done. Times in seconds."""

    old: str  # label of the release that runs
    new: str
    old_count: int
    count: int
    strategy: Strategy = Strategy.ROLLING
    extra: int = 1  # processes that may run beyond the larger count, because there is memory for them
    least: int = 0  # replicas that stay ready; `plain` says how many are possible
    shares: tuple[float, ...] = (0.05, 0.25, 0.5)
    watch_s: float = 60.0  # for each share, at least
    watch_most_s: float = 600.0  # for each share, where callers are few
    settle_s: float = 10.0
    keep_s: float = 300.0
    tries: int = 3
    whole: int = 1_000_000  # of the old release, how many were ready when it began: more is not waited for
    one_way: bool = False  # nothing of the old release works, so there is nothing to go back to

    @property
    def most(self) -> int:
        return max(self.old_count, self.count) + self.extra


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint of either release."""

    name: str
    release: str
    ready: bool = False
    draining: bool = False
    ready_s: float = 0.0  # for how long
    failures: int = 0  # starts that failed, or deaths
    served: bool = False  # was ready once
    hopeless: str = ""  # why a restart cannot mend it


@dataclass(frozen=True, slots=True)
class Looked:
    """All endpoints of the model that exist now."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the calls say of the new release."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class UndoAsked:
    """Somebody, or a failed check, wants the old release back."""

    why: str = "asked for"


@dataclass(frozen=True, slots=True)
class PromoteAsked:
    """Somebody wants the new release without further watching."""


Event = Looked | Judged | UndoAsked | PromoteAsked


@dataclass(frozen=True, slots=True)
class Start:
    """One more replica of this release."""

    release: str


@dataclass(frozen=True, slots=True)
class Drain:
    """No new calls for this endpoint; it ends when its last one has."""

    name: str


Command = Start | Drain


@dataclass(frozen=True, slots=True)
class State:
    """How far a rollout is."""

    order: Order
    stage: Stage
    since: float  # when this stage, or this share, began
    at: int = 0  # which of the shares
    seen_s: float | None = None  # when the canary was first ready at this share
    enough: bool = False  # the canary has had the calls to be called good
    why: str = ""  # why it turned back

    @property
    def ended(self) -> bool:
        return self.stage in ENDED

    @property
    def share(self) -> float:
        """Of the calls, that the new release is to get now."""
        if self.stage is Stage.WATCHING:
            return self.order.shares[self.at]
        return 1.0 if self.stage in (Stage.KEEPING, Stage.DONE) else 0.0


Step = tuple[State, tuple[Command, ...]]


def plain(order: Order) -> Order:
    """The order with `least` as high as it can be kept: all, when there is room for an extra one; else all but one."""
    fewest = min(order.old_count, order.count)
    return replace(order, least=fewest if order.extra > 0 else max(fewest - 1, 0))


def begin(order: Order, now: float) -> State:
    """A rollout that has just been ordered. Its first commands come with the first look."""
    first = {
        Strategy.ROLLING: Stage.ROLLING,
        Strategy.CANARY: Stage.WATCHING,
        Strategy.BLUE_GREEN: Stage.PREPARING,
    }
    return State(order, first[order.strategy], now)


def step(state: State, event: Event, now: float) -> Step:
    """The rollout after `event`, and what has to be done. After its end nothing changes."""
    if state.ended:
        return state, ()
    if isinstance(event, Looked):
        return _looked(state, event.members, now)
    if isinstance(event, PromoteAsked):
        watching = state.stage in (Stage.WATCHING, Stage.KEEPING)
        return (_enter(state, Stage.ROLLING, now) if watching else state), ()
    if state.stage is Stage.BACK:
        return state, ()
    if isinstance(event, UndoAsked):
        return _back(state, event.why, now), ()
    if event.verdict.bad and not state.order.one_way:
        return _back(state, event.verdict.bad, now), ()
    return replace(state, enough=event.verdict.enough), ()


def weights(state: State, members: tuple[Member, ...]) -> dict[str, float]:
    """Each endpoint's weight in the model's calls, by name. All alike: whoever is freest takes the next."""
    if state.stage in (Stage.ROLLING, Stage.DONE, Stage.UNDONE):
        return {member.name: 1.0 for member in members}
    new = state.share
    shares = {state.order.new: new, state.order.old: 1.0 - new}
    ready = {
        release: sum(m.release == release and m.ready and not m.draining for m in members)
        for release in shares
    }
    return {m.name: shares.get(m.release, 0.0) / max(ready.get(m.release, 0), 1) for m in members}


# What is to exist, and how to get there.


def _looked(state: State, members: tuple[Member, ...], now: float) -> Step:
    if state.stage is not Stage.BACK and not state.order.one_way and (why := _bad(state, members)):
        state = _back(state, why, now)
    state = _on(state, members, now)
    if state.ended:
        return state, ()
    return state, _commands(state, members)


def _bad(state: State, members: tuple[Member, ...]) -> str:
    for member in members:
        if member.release != state.order.new or member.draining:
            continue
        if member.hopeless:
            return f"{member.name}: {member.hopeless}"
        if member.served and member.failures:
            return f"{member.name} died after it was ready"
        if member.failures >= state.order.tries:
            return f"{member.name} failed to start {member.failures} times"
    return ""


def _on(state: State, members: tuple[Member, ...], now: float) -> State:
    """The stage that follows from what is there."""
    order = state.order
    new, old = _count(members, order.new), _count(members, order.old)
    if state.stage is Stage.ROLLING and not old.live and new.ready >= order.count:
        return _enter(state, Stage.DONE, now)
    whole = min(order.whole, order.old_count)
    if state.stage is Stage.BACK and not new.all and old.live >= order.old_count and old.ready >= whole:
        return _enter(state, Stage.UNDONE, now)
    if state.stage is Stage.PREPARING and new.ready >= order.count:
        return _enter(state, Stage.KEEPING, now)
    if state.stage is Stage.KEEPING and now - state.since >= order.keep_s:
        return _enter(state, Stage.ROLLING, now)
    if state.stage is Stage.WATCHING:
        return _watched(state, new.ready > 0, now)
    return state


def _watched(state: State, ready: bool, now: float) -> State:
    """One share after another, each for its time and with the calls that it takes to say "good"."""
    if state.seen_s is None:
        return replace(state, seen_s=now) if ready else state
    watched_s = now - state.seen_s
    if watched_s < state.order.watch_s or not (state.enough or watched_s >= state.order.watch_most_s):
        return state
    if state.at + 1 < len(state.order.shares):
        return replace(state, at=state.at + 1, since=now, seen_s=now)
    return _enter(state, Stage.ROLLING, now)


def _targets(state: State) -> tuple[int, int]:
    """How many replicas of the old and of the new release there shall be."""
    order = state.order
    if state.stage is Stage.BACK:
        return order.old_count, 0
    if state.stage is Stage.WATCHING:
        return (order.old_count if order.extra else order.old_count - 1), 1
    if state.stage in (Stage.PREPARING, Stage.KEEPING):
        return order.old_count, order.count
    return 0, order.count


def _commands(state: State, members: tuple[Member, ...]) -> tuple[Command, ...]:
    order, (old_target, new_target) = state.order, _targets(state)
    old, new = _count(members, order.old), _count(members, order.new)
    forward = state.stage is not Stage.BACK
    # What comes is started first; what the other release lacks is its own supervision's business.
    coming, wanted = (order.new, new_target - new.live) if forward else (order.old, old_target - old.live)
    room = order.most - len(members)
    if wanted > 0 and room > 0:
        return (Start(coming),) * min(wanted, room)
    leaving, over = (order.old, old.live - old_target) if forward else (order.new, new.live - new_target)
    if over <= 0:
        return ()
    return _retire(state, members, leaving)


def _retire(state: State, members: tuple[Member, ...], leaving: str) -> tuple[Command, ...]:
    """One endpoint of the release that leaves, where that costs nobody an answer."""
    staying = [m for m in members if not m.draining]
    going = [m for m in staying if m.release == leaving]
    for member in going:
        if not member.ready:
            return (Drain(member.name),)
    if state.stage is Stage.ROLLING and state.order.strategy is not Strategy.BLUE_GREEN:
        fresh = [m for m in staying if m.release == state.order.new and m.ready]
        if any(m.ready_s < state.order.settle_s for m in fresh):
            return ()
    if sum(m.ready for m in staying) - 1 >= state.order.least:
        return (Drain(going[0].name),)
    return ()


@dataclass(frozen=True, slots=True)
class _Count:
    all: int
    live: int  # not draining
    ready: int


def _count(members: tuple[Member, ...], release: str) -> _Count:
    own = [m for m in members if m.release == release]
    live = [m for m in own if not m.draining]
    return _Count(len(own), len(live), sum(m.ready for m in live))


def _back(state: State, why: str, now: float) -> State:
    return replace(_enter(state, Stage.BACK, now), why=why)


def _enter(state: State, stage: Stage, now: float) -> State:
    return replace(state, stage=stage, since=now, seen_s=None)
