"""Replicas follow the load: what is made of reports, what is shown, and what is done."""

from __future__ import annotations

import pytest

from gemstead.spec.autoscale import AutoscaleSpec
from gemstead.traffic.endpoint import EndpointFacts, Load
from gemstead.traffic.saturation import MOST_IN_FLIGHT
from gemstead.wiring.autoscale import AGAIN_S, Autoscaler, Demand, Engine, scaling, seen

SPEC = AutoscaleSpec(least=1, most=4, up_after_s=10, down_after_s=60)


def engine(number: int = 0, in_flight: int = 0, load: Load | None = None, **facts) -> Engine:
    named = {"name": f"m-{number}", "pool": "m", "host": "127.0.0.1", "port": 1}
    return Engine(EndpointFacts(**(named | facts)), in_flight, load)


def demand(*engines: Engine, waiting: int = 0, spec: AutoscaleSpec | None = SPEC, **more) -> Demand:
    return Demand("m", len(engines), engines, waiting, spec, **more)


class World:
    """A model whose replicas are as many as were asked for."""

    def __init__(self, spec: AutoscaleSpec | None = SPEC, slots: int = 4) -> None:
        self.spec, self.slots = spec, slots
        self.replicas, self.calls, self.waiting = 1, 0, 0
        self.asleep = self.busy = False
        self.refusal = ""
        self.acts: list[tuple[int, str]] = []
        self.troubles: list[str] = []
        self.scaler = Autoscaler(self.demands, self.act, self.troubles.append)

    def demands(self) -> list[Demand]:
        if self.asleep:
            return []
        each = [engine(at, self.calls // self.replicas, slots=self.slots) for at in range(self.replicas)]
        return [demand(*each, waiting=self.waiting, spec=self.spec, busy=self.busy)]

    async def act(self, pool: str, count: int, why: str) -> str:
        assert pool == "m"
        self.acts.append((count, why))
        if self.refusal:
            raise RuntimeError(self.refusal)
        if count:
            self.replicas = count
        else:
            self.asleep = True
        return "done"

    async def watch(self, begin: int, end: int, calls: int, waiting: int = 0) -> int:
        """Look every two seconds with so much to do; how many are wanted at the end."""
        self.calls, self.waiting = calls, waiting
        for now in range(begin, end, 2):
            await self.scaler.look(float(now))
        return self.scaler.desired.get("m", 0)


def test_calls_are_counted_by_whoever_knows_of_more() -> None:
    ours = engine(in_flight=5)
    others = engine(load=Load(at=9.0, running=7, waiting=2))
    both = engine(in_flight=5, load=Load(at=9.0, running=3, waiting=2))
    assert [one.calls(10.0) for one in (ours, others, both)] == [(5, 0), (7, 2), (3, 2)]
    found = seen(demand(ours, others, waiting=4), 10.0)
    assert (found.replicas, found.running_calls, found.waiting_calls) == (2, 12, 6)


def test_what_an_engine_said_long_ago_does_not_count() -> None:
    assert engine(in_flight=1, load=Load(at=0.0, running=7, waiting=2, kv_used=0.5)).calls(10.0) == (1, 0)
    assert engine(kv_tokens=1000, load=Load(at=0.0, kv_used=0.5)).tokens(10.0) == 0.0


def test_tokens_in_flight_are_what_the_cache_holds_and_those_that_wait_are_like_those_that_run() -> None:
    full = engine(kv_tokens=1000, load=Load(at=0.0, running=2, waiting=0, kv_used=0.6))
    found = seen(demand(full, waiting=3), 1.0)
    assert (found.running_tokens, found.waiting_tokens) == (600.0, 900.0)
    assert scaling(demand(full), 1.0).replica_tokens == 1000.0


def test_a_replica_takes_its_slots_and_fewer_when_calls_wait_all_the_same() -> None:
    assert scaling(demand(engine(slots=4)), 0.0).replica_calls == 4
    assert scaling(demand(engine()), 0.0).replica_calls == MOST_IN_FLIGHT
    assert scaling(demand(engine(in_flight=20), waiting=1), 0.0).replica_calls == 20
    assert scaling(demand(engine(in_flight=0), waiting=1), 0.0).replica_calls == MOST_IN_FLIGHT
    starting = engine(1, in_flight=1, slots=8, ready=False)
    assert scaling(demand(engine(in_flight=6, slots=8), starting, waiting=1), 0.0).replica_calls == 6


async def test_more_come_when_they_are_wanted_and_go_one_by_one() -> None:
    world = World()
    assert await world.watch(0, 100, calls=2) == 1 and not world.acts
    assert await world.watch(100, 108, calls=4, waiting=6) == 1, "not for a burst"
    assert await world.watch(108, 130, calls=4, waiting=6) == 4
    assert [count for count, _ in world.acts] == [2, 4], "at most doubled at a time"
    assert world.acts[0][1] == "4 calls run and 6 wait"
    assert await world.watch(130, 180, calls=0) == 4, "a lull is waited out"
    await world.watch(180, 240, calls=0)
    assert [count for count, _ in world.acts[2:]] == [3, 2, 1]


async def test_without_the_field_it_is_only_shown() -> None:
    world = World(spec=None)
    await world.watch(0, 20, calls=2)
    assert await world.watch(20, 60, calls=4, waiting=20) == 2
    assert not world.acts


async def test_a_rollout_is_not_disturbed() -> None:
    world = World()
    world.busy = True
    assert await world.watch(0, 60, calls=4, waiting=20) == 2 and not world.acts


async def test_what_cannot_be_had_is_said_once_and_asked_for_again_later() -> None:
    world = World()
    world.refusal = "no room"
    await world.watch(0, 50, calls=4, waiting=20)
    assert len(world.acts) == 1 and world.troubles == ["autoscale: no room"]
    await world.watch(50, int(50 + AGAIN_S), calls=4, waiting=20)
    assert len(world.acts) == 2 and len(world.troubles) == 1
    world.refusal = ""
    await world.watch(110, 200, calls=4, waiting=20)
    assert world.replicas == 4


async def test_an_idle_model_whose_least_is_nothing_sleeps_and_begins_afresh() -> None:
    world = World(AutoscaleSpec(least=0, most=2, idle_s=100))
    assert await world.watch(0, 90, calls=0) == 1
    assert await world.watch(90, 110, calls=0) == 0
    assert [count for count, _ in world.acts] == [0] and "m" not in world.scaler.desired
    world.asleep = False
    assert await world.watch(110, 190, calls=0) == 1, "woken: the time without a call begins anew"


@pytest.mark.parametrize("spec", [SPEC, None])
async def test_a_model_that_is_gone_is_no_longer_shown(spec) -> None:
    world = World(spec)
    await world.watch(0, 4, calls=1)
    world.asleep = True
    await world.watch(4, 8, calls=1)
    assert world.scaler.desired == {}
