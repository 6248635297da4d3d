"""The gateway's queue in front of a full fleet: nothing lost, bounded, and one caller cannot crowd out the others."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from fleets import ENGINE, played

from gemstead.simulate.outcome import REFUSED, SERVED
from gemstead.simulate.report import summary
from gemstead.simulate.workload import Request, Workload
from gemstead.traffic.queue import QueueBounds

SLOTS = 8
SMALL = replace(ENGINE, most_running=SLOTS)


def crowd(abuse, seconds=120.0):
    dice, made = Random(2), []
    for tenant, rate in (("a", 1.0), ("b", 1.0), ("abuser", abuse)):
        now = 0.0
        while rate and (now := now + dice.expovariate(rate)) < seconds:
            made.append(Request(now, 800, dice.randrange(10, 150), (), tenant))
    return Workload("crowd", tuple(sorted(made, key=lambda one: one.at_s)))


def test_everything_that_waits_is_served_or_refused_within_its_time():
    bounds = QueueBounds(requests=50, wait_s=20.0)
    fleet, run = played(crowd(30.0), "ours", replicas=2, engine=SMALL, queue=bounds)
    assert {one.status for one in run.outcomes} == {SERVED, REFUSED}
    assert max(one.queued_s for one in run.outcomes) <= 20.0
    assert not fleet.gateways[0].queue
    assert all(endpoint.in_flight == 0 for endpoint in fleet.gateways[0].endpoints)


def test_what_is_in_flight_stays_below_the_level():
    load = Workload("burst", tuple(Request(0.0, 500, 100) for _ in range(200)))
    fleet, run = played(load, "ours", replicas=2, engine=SMALL, queue=QueueBounds())
    assert all(one.status == SERVED for one in run.outcomes)
    assert max(len(replica.waiting) for replica in fleet.replicas) == 0
    running = sorted((one.arrived_s + one.queued_s, one.end_s) for one in run.outcomes)
    times = [(begin, 1) for begin, _ in running] + [(end, -1) for _, end in running]
    most = now = 0
    for _, by in sorted(times):
        now += by
        most = max(most, now)
    assert most <= 2 * SLOTS


def test_one_who_sends_ten_times_as_much_delays_the_others_little():
    def others(abuse):
        _, run = played(
            crowd(abuse),
            "ours",
            replicas=2,
            engine=SMALL,
            queue=QueueBounds(wait_s=30.0),
        )
        assert abuse < 10 or any(one.status == REFUSED for one in run.outcomes if one.tenant == "abuser")
        return summary(run, 0.1, tenants=["a", "b"])

    full, flooded = others(7.0), others(40.0)
    assert flooded.served == flooded.requests
    assert flooded.ttft_p99 < 1.5 * full.ttft_p99 + 0.1


def test_without_a_queue_the_same_flood_drowns_everyone():
    _, run = played(crowd(40.0), "ours", replicas=2, engine=SMALL)
    assert summary(run, 0.1, tenants=["a", "b"]).ttft_p99 > 20.0


def test_with_an_aim_three_times_too_much_costs_little_of_what_meets_it():
    def good(abuse):
        _, run = played(crowd(abuse), "ours", replicas=2, engine=SMALL, queue=QueueBounds(), begin_s=1.5)
        return summary(run, 0.1).good_per_s

    assert good(20.0) > 0.9 * good(7.0)
