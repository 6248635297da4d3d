"""Small engines and loads for the tests."""

from __future__ import annotations

from random import Random

from gemstead.simulate.engine import Engine
from gemstead.simulate.fleet import Conditions, Fleet
from gemstead.simulate.trial import policies
from gemstead.simulate.workload import Request, Workload

ENGINE = Engine(
    base_s=0.02,
    each_s=0.0001,
    context_s=2e-8,
    window_s=0.0,
    window=0,
    prefill_s=0.0001,
    deeper_s=2e-9,
    deeper_window_s=0.0,
    step_tokens=2048,
    most_running=32,
    kv_tokens=40_000,
)


def some_load(count=300, rate=4.0, seed=1, longest=6000, answers=200):
    """Requests of a few sessions that share beginnings."""
    dice, now, made = Random(seed), 0.0, []
    for number in range(count):
        now += dice.expovariate(rate)
        prompt = dice.randrange(1, longest)
        session = dice.randrange(12)
        shared = dice.randrange(0, prompt // 512 + 1)
        blocks = tuple(
            1_000 * session + place if place < shared else 1_000_000 + 100 * number + place
            for place in range(prompt // 512)
        )
        tenant = f"t{session % 3}"
        made.append(Request(now, prompt, dice.randrange(1, answers), blocks, tenant))
    return Workload("some", tuple(made))


def played(
    load,
    policy="least-outstanding",
    replicas=3,
    engine=ENGINE,
    seed=1,
    gateways=1,
    **conditions,
):
    """A run and its fleet."""
    made = policies(policy, Random(seed).randrange, gateways)
    fleet = Fleet(load, [engine] * replicas, made, Conditions(**conditions))
    return fleet, fleet.run()
