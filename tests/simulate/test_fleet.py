"""The fleet: nothing lost however it goes, the same each time, and more engines never hurt."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest
from fleets import ENGINE, played, some_load

from gemstead.simulate.fleet import Change
from gemstead.simulate.outcome import CUT, REFUSED, SERVED, TOO_LONG
from gemstead.simulate.report import summary
from gemstead.simulate.trial import NAMES
from gemstead.simulate.workload import Request, Workload


@pytest.mark.parametrize("policy", NAMES)
def test_every_request_ends_once_and_every_charge_is_given_back(policy):
    load = some_load()
    fleet, run = played(load, policy, gateways=2, changes=(Change(20.0, 1), Change(40.0, -1)))
    assert {one.status for one in run.outcomes} <= {SERVED, CUT, REFUSED}
    assert sum(1 for one in run.outcomes if one.status == SERVED) > 0.95 * len(load.requests)
    for gateway in fleet.gateways:
        for endpoint in gateway.endpoints:
            assert (endpoint.in_flight, endpoint.prefill_tokens) == (0, 0)
    for replica in fleet.replicas:
        assert not replica.running and not replica.waiting
        assert replica.cache.used_tokens == pytest.approx(0.0, abs=1e-5)


def test_tokens_read_and_found_are_the_tokens_that_came_in():
    load = some_load()
    _, run = played(load, "sticky", engine=replace(ENGINE, kv_tokens=400_000))
    assert run.preemptions == 0
    found = sum(one.hit_tokens for one in run.outcomes)
    assert found > 0
    assert sum(run.prompt_read) + found == sum(one.prompt_tokens for one in load.requests)


@pytest.mark.parametrize("policy", ["ours", "power-of-two", "oracle"])
def test_the_same_seed_gives_the_same_run_to_the_byte(policy):
    load = some_load()
    runs = [played(load, policy, seed=3)[1] for _ in range(2)]
    assert repr([asdict(one) for one in runs[0].outcomes]) == repr([asdict(one) for one in runs[1].outcomes])


def test_more_engines_never_raise_the_mean_wait():
    means = []
    for replicas in (2, 3, 4, 6, 8):
        rows = [summary(played(some_load(400, seed=seed), replicas=replicas)[1]) for seed in range(3)]
        means.append(sum(row.ttft_mean for row in rows) / 3)
    assert all(more <= 1.02 * fewer for fewer, more in itertools.pairwise(means)), means


def test_no_engine_rests_while_calls_wait_there():
    """Work conserving: with all calls at once each engine is busy from the first to its last end."""
    load = Workload("burst", tuple(Request(0.0, 1000, 50) for _ in range(60)))
    _, run = played(load, "round-robin")
    last = [max(one.end_s for one in run.outcomes if one.replica == place) for place in range(3)]
    assert run.busy_s == pytest.approx(last)


def test_calls_without_a_first_token_go_elsewhere_when_their_engine_dies_and_the_others_are_cut():
    load = Workload(
        "few",
        (
            Request(0.0, 100, 400),
            Request(0.0, 100, 400),
            *(Request(1.0, 30_000, 5),) * 2,
        ),
    )
    _, run = played(load, "round-robin", replicas=2, changes=(Change(1.5, 1),))
    statuses = [one.status for one in run.outcomes]
    assert statuses.count(CUT) == 1 and statuses.count(SERVED) == 3
    assert max(one.attempts for one in run.outcomes) == 2


def test_with_no_engine_left_calls_are_refused_and_none_hangs():
    load = some_load(50)
    _, run = played(load, "ours", replicas=2, changes=(Change(0.0, 2),), notice_s=0.1)
    assert {one.status for one in run.outcomes} == {REFUSED}


def test_a_request_that_never_fits_is_turned_away_at_once():
    load = Workload("long", (Request(0.0, 39_000, 2_000), Request(0.1, 100, 5)))
    _, run = played(load, replicas=1)
    assert [one.status for one in run.outcomes] == [TOO_LONG, SERVED]


def test_an_engine_that_comes_back_is_used_again():
    _, run = played(some_load(300), "ours", changes=(Change(10.0, 2), Change(20.0, -2)))
    late = [one for one in run.outcomes if one.arrived_s > 30.0]
    assert {one.replica for one in late} == {0, 1, 2}


def test_a_follower_comes_when_the_one_before_has_been_answered_and_thought_about():
    load = Workload(
        "loop",
        (Request(0.0, 1000, 20), Request(0.0, 1500, 20, (), "default", 0, 0, 3.0)),
    )
    _, run = played(load, replicas=1)
    assert run.outcomes[1].arrived_s == pytest.approx(run.outcomes[0].end_s + 3.0)


def test_several_gateways_see_only_what_they_sent_and_what_engines_report():
    load = Workload("busy", tuple(Request(0.001 * place, 2000, 200) for place in range(40)))
    fleet, _ = played(
        load,
        "least-outstanding",
        gateways=2,
        until_s=1.5,
        scrape_s=0.5,
        scrape_delay_s=0.1,
    )
    for gateway in fleet.gateways:
        assert sum(endpoint.in_flight for endpoint in gateway.endpoints) <= 20
        loads = [endpoint.load for endpoint in gateway.endpoints]
        assert all(load is not None and load.at == 1.0 for load in loads)
        assert sum(load.running + load.waiting for load in loads) > 20


def test_gateways_that_share_pick_better_than_gateways_that_do_not():
    load = some_load(600, rate=9.0)
    fleet, shared = played(load, "ours", replicas=4, gateways=4, share_s=0.25)
    _, alone = played(load, "ours", replicas=4, gateways=4)
    found = [sum(one.hit_tokens for one in run.outcomes) for run in (alone, shared)]
    assert found[1] > found[0]
    assert summary(shared).ttft_mean < summary(alone).ttft_mean
    for gateway in fleet.gateways:
        assert gateway.sharing.others == 3
        assert gateway.sharing.heads_taken > 100
