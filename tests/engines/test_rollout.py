"""A rollout played in a world of its own: the story, then the promises whatever happens in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.engines.canary import Verdict
from gemstead.engines.rollout import (
    Drain,
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

OLD, NEW = "1", "2"
GOOD, BAD = Judged(Verdict(enough=True, calls=50)), Judged(Verdict(bad="half of its calls fail"))


@dataclass
class World:
    """Endpoints that do as they are told, and a rollout that tells them. The promises are checked on the way."""

    order: Order
    now: float = 0.0
    members: dict[str, Member] = field(default_factory=dict)
    made: int = 0
    lowest: int = 99
    states: list = field(default_factory=list)

    def __post_init__(self):
        self.order = plain(self.order)
        for _ in range(self.order.old_count):
            self.start(OLD)
        for name in list(self.members):
            self.up(name)
        self.state = begin(self.order, self.now)

    def start(self, release):
        self.made += 1
        self.members[f"m{self.made}"] = Member(f"m{self.made}", release)

    def up(self, name):
        self.members[name] = replace(
            self.members[name], ready=not self.members[name].draining, served=True, ready_s=0.0
        )

    def ready(self):
        return [m for m in self.members.values() if m.ready and not m.draining]

    def look(self):
        self.tell(Looked(tuple(self.members.values())))

    def tell(self, event):
        turned_back = self.state.stage is Stage.BACK
        self.state, commands = step(self.state, event, self.now)
        self.states.append(self.state.stage)
        for command in commands:
            if isinstance(command, Start):
                assert not (turned_back and command.release == NEW), "a bad release is not started again"
                self.start(command.release)
                assert len(self.members) <= self.order.most, "no more processes than there is room for"
            else:
                assert isinstance(command, Drain)
                member = self.members[command.name]
                self.members[command.name] = replace(member, draining=True)
                if member.ready:
                    assert len(self.ready()) >= self.order.least, "a ready one was taken too early"
        shown = weights(self.state, tuple(self.members.values()))
        assert shown.keys() == self.members.keys()
        if self.ready() and self.state.stage is not Stage.WATCHING:
            able = [shown[m.name] for m in self.ready()]
            assert min(able) >= 0.0

    def settle(self, rounds=400):
        """Everything that starts comes up and everything that ends goes, until the rollout has ended."""
        for _ in range(rounds):
            if self.state.ended:
                return self
            self.now += 5.0
            for name, member in list(self.members.items()):
                if member.draining:
                    del self.members[name]
                elif not member.ready:
                    self.up(name)
                else:
                    self.members[name] = replace(member, ready_s=member.ready_s + 5.0)
            self.look()
        raise AssertionError(f"never ends: {self.state} {self.members}")

    def counts(self):
        live = [m.release for m in self.members.values() if not m.draining]
        return live.count(OLD), live.count(NEW)


ORDERS = st.builds(
    Order,
    old=st.just(OLD),
    new=st.just(NEW),
    old_count=st.integers(1, 4),
    count=st.integers(1, 4),
    strategy=st.sampled_from(Strategy),
    extra=st.integers(0, 4),
    watch_most_s=st.just(60.0),
)


def feasible(order):
    """What the head refuses to begin: see wiring/rollouts.py."""
    if order.strategy is Strategy.BLUE_GREEN:
        return replace(order, extra=max(order.extra, min(order.count, order.old_count)))
    return order


@given(ORDERS)
def test_a_good_release_arrives_whole(order):
    world = World(feasible(order)).settle()
    assert world.state.stage is Stage.DONE
    assert world.counts() == (0, order.count)


@pytest.mark.parametrize("strategy", Strategy)
def test_with_room_for_an_extra_one_no_replica_is_ever_missing(strategy):
    world = World(feasible(Order(OLD, NEW, 3, 3, strategy)))
    assert world.order.least == 3
    world.settle()
    assert world.counts() == (0, 3)


def test_without_room_one_at_a_time():
    world = World(Order(OLD, NEW, 3, 3, extra=0))
    assert (world.order.least, world.order.most) == (2, 3)
    world.look()
    assert world.counts() == (2, 0)
    world.look()
    assert world.counts() == (2, 0), "the first is gone before the second goes"
    world.settle()
    assert world.counts() == (0, 3)


def test_a_canary_gets_its_shares_in_turn():
    world = World(Order(OLD, NEW, 2, 2, Strategy.CANARY, shares=(0.1, 0.5), watch_s=10))
    world.look()
    assert world.counts() == (2, 1)
    world.up("m3")
    shares = []
    for _ in range(8):
        world.tell(GOOD)
        world.now += 5
        world.look()
        shown = weights(world.state, tuple(world.members.values()))
        shares.append(round(shown["m3"], 2))
        assert world.state.stage is not Stage.WATCHING or sum(shown.values()) == pytest.approx(1.0)
    assert shares[0] == 0.1
    assert 0.5 in shares
    assert shares[-1] == 1.0, "as rolling: all alike"


def test_a_canary_that_nobody_calls_waits_for_the_longest_time():
    world = World(Order(OLD, NEW, 1, 1, Strategy.CANARY, shares=(0.5,), watch_s=10, watch_most_s=100))
    world.look()
    world.up("m2")
    world.look()
    for world.now in (11, 99):
        world.look()
        assert world.state.stage is Stage.WATCHING
    world.now = 101
    world.look()
    assert world.state.stage is Stage.ROLLING


def test_blue_green_moves_all_at_once_and_keeps_the_old_warm():
    world = World(Order(OLD, NEW, 2, 2, Strategy.BLUE_GREEN, extra=2, keep_s=60))
    world.look()
    assert weights(world.state, tuple(world.members.values())) == {"m1": 0.5, "m2": 0.5, "m3": 0, "m4": 0}
    for name in ("m3", "m4"):
        world.up(name)
    world.look()
    assert weights(world.state, tuple(world.members.values())) == {"m1": 0, "m2": 0, "m3": 0.5, "m4": 0.5}
    world.now = 59
    world.look()
    assert world.counts() == (2, 2)
    world.tell(UndoAsked("asked for"))
    assert weights(world.state, tuple(world.members.values())) == {"m1": 0.5, "m2": 0.5, "m3": 0, "m4": 0}
    world.settle()
    assert (world.state.stage, world.counts()) == (Stage.UNDONE, (2, 0))
    assert "m1" in world.members, "the warm one, not another"


@pytest.mark.parametrize(
    "member",
    [
        {"failures": 3},
        {"hopeless": "its answers are no language"},
        {"served": True, "failures": 1},
    ],
)
@pytest.mark.parametrize("strategy", Strategy)
def test_an_engine_that_cannot_be_had_turns_it_back(strategy, member):
    world = World(feasible(Order(OLD, NEW, 2, 2, strategy)))
    world.look()
    name = next(m.name for m in world.members.values() if m.release == NEW)
    world.members[name] = replace(world.members[name], **member)
    world.look()
    assert world.state.stage is Stage.BACK
    assert name in world.state.why
    assert world.settle().counts() == (2, 0)


HAPPENINGS = st.one_of(
    st.tuples(st.just("up"), st.integers(0, 9)),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("gone"), st.integers(0, 9)),
    st.tuples(st.just("time"), st.integers(0, 90)),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.sampled_from(["good", "bad", "undo", "promote"]), st.just(0)),
)


def happen(world, what, number):
    names = sorted(world.members)
    name = names[number % len(names)] if names else ""
    member = world.members.get(name)
    if what == "up" and member and not member.ready:
        world.up(name)
    elif what == "crash" and member and member.ready:
        world.members[name] = replace(member, ready=False, failures=member.failures + 1)
    elif what == "fail" and member and not member.ready:
        world.members[name] = replace(member, failures=member.failures + 1)
    elif what == "gone" and member and member.draining:
        del world.members[name]
    elif what == "time":
        world.now += number
    elif what in ("look", "up", "crash", "fail", "gone"):
        world.look()
    else:
        events = {"good": GOOD, "bad": BAD, "undo": UndoAsked(), "promote": PromoteAsked()}
        if what in events:
            world.tell(events[what])


@settings(max_examples=300)
@given(ORDERS, st.lists(HAPPENINGS, max_size=60))
def test_whatever_happens_it_ends_whole_and_a_bad_release_is_gone(order, script):
    world = World(feasible(order))
    for what, number in script:
        happen(world, what, number)
        if what in ("bad", "undo") and world.state.stage is not Stage.DONE:
            assert world.state.stage in (Stage.BACK, Stage.UNDONE)
    turned_back = Stage.BACK in world.states
    world.settle()
    if turned_back:
        assert world.state.stage is Stage.UNDONE
    if world.state.stage is Stage.UNDONE:
        assert world.counts() == (order.old_count, 0)
    else:
        assert world.counts() == (0, order.count)


@given(ORDERS, st.lists(HAPPENINGS, max_size=40))
def test_looking_twice_changes_nothing(order, script):
    world = World(feasible(order))
    for what, number in script:
        happen(world, what, number)
        looked = Looked(tuple(world.members.values()))
        once, first = step(world.state, looked, world.now)
        again, _ = step(once, looked, world.now)
        if not first:
            third, commands = step(again, looked, world.now)
            assert third == again
            assert commands == step(once, looked, world.now)[1]
