"""Replicas that come and go in virtual time: paid for from when they are begun, and nobody's answer is cut."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from fleets import ENGINE

from gemstead.simulate.elastic import Elastic
from gemstead.simulate.fleet import Conditions
from gemstead.simulate.outcome import SERVED
from gemstead.simulate.trial import policies
from gemstead.simulate.workload import Request, Workload
from gemstead.traffic.queue import QueueBounds

SMALL = replace(ENGINE, most_running=4)


def load(seconds=600.0, rate=1.0) -> Workload:
    dice, made, now = Random(1), [], 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        made.append(Request(now, 400, dice.randrange(20, 120)))
    return Workload("load", tuple(made))


def elastic(decide, begin=1, start_s=60.0, most=4):
    fleet = Elastic(
        load(), (SMALL,) * most, policies("ours", Random(0).randrange), Conditions(queue=QueueBounds()), decide,
        begin=begin, start_s=start_s,
    )  # fmt: skip
    return fleet, fleet.run()


def test_a_fixed_number_is_paid_for_all_the_time():
    fleet, run = elastic(lambda seen, now: 2, begin=2)
    assert abs(fleet.replica_s - 2 * run.until_s) < 1e-6
    assert all(one.replica in (0, 1) for one in run.outcomes)


def test_what_is_wanted_is_there_after_its_start_and_paid_for_from_its_begin():
    fleet, run = elastic(lambda seen, now: 3 if now >= 100.0 else 1)
    late = [one for one in run.outcomes if one.replica > 0]
    assert min(one.arrived_s + one.queued_s for one in late) >= 160.0
    assert abs(fleet.replica_s - (run.until_s + 2 * (run.until_s - 100.0))) < 1e-6


def test_whoever_leaves_ends_its_calls_first():
    fleet, run = elastic(lambda seen, now: 1 if 300.0 <= now < 500.0 else 4, begin=4, start_s=10.0)
    assert all(one.status == SERVED for one in run.outcomes)
    assert fleet.replica_s < 4 * run.until_s - 3 * 150.0
    assert not fleet.gateways[0].queue


def test_what_is_seen_is_what_is_there():
    seen_all = []

    def decide(seen, now):
        seen_all.append(seen)
        return 2

    elastic(decide, begin=2)
    assert {seen.replicas for seen in seen_all} == {2}
    assert max(seen.running_calls for seen in seen_all) <= 8
    assert any(seen.ttft_s > 0 and seen.tpot_s > 0 for seen in seen_all)
