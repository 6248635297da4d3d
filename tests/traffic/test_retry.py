from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.retry import MEMORY_S, Budget, Hedge, Patience, copy_of
from gemstead.traffic.roster import Roster


def pool(size: int) -> Roster:
    return Roster(
        Endpoint(EndpointFacts(name=f"e{n}", pool="m", host="127.0.0.1", port=1)) for n in range(size)
    )


def test_a_quiet_pool_may_retry():
    budget = Budget()
    assert budget.take(0.0)


def test_in_a_storm_retries_are_a_share_of_the_calls():
    budget, retried = Budget(share=0.2, floor_per_s=10.0), 0
    for n in range(10_000):  # a hundred seconds of a hundred a second, all of which fail
        budget.call(n / 100)
        retried += budget.take(n / 100)
    assert retried <= 0.2 * 10_000 + 10.0 * (100 + MEMORY_S)
    assert retried > 0.2 * 10_000


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200), st.floats(0, 1), st.floats(0, 5))
def test_a_budget_is_never_overdrawn(steps, share, floor):
    budget, now, calls, taken = Budget(share, floor), 0.0, 0, 0
    for seconds, is_call in steps:
        now += seconds
        if is_call:
            budget.call(now)
            calls += 1
        else:
            taken += budget.take(now)
    assert taken <= share * calls + floor * (now + MEMORY_S) + 1e-6


def test_what_was_earned_long_ago_is_gone():
    budget = Budget(share=1.0, floor_per_s=0.0)
    for _ in range(100):
        budget.call(0.0)
    assert not budget.take(MEMORY_S)


@pytest.mark.parametrize("spread", [0.2, 0.8])
def test_patience_finds_what_nearly_all_stay_within(spread):
    random, patience = Random(1), Patience()
    times = [random.lognormvariate(0.0, spread) for _ in range(20_000)]
    for each in times:
        patience.learn(1.0, each)
    late = sum(each > patience.times for each in times[-5000:]) / 5000
    assert late < 0.05


def sent(picker: Picker, endpoints: Roster, now: float) -> Call:
    call = Call("m", prompt_tokens=100)
    picker.charge(picker.pick(call, endpoints, now), call)
    return call


def test_a_late_call_gets_a_second_copy_where_nobody_is():
    picker, hedge, endpoints = Picker(PrefixIndex(), Random(0).randrange), Hedge(share=1.0), pool(3)
    calls = [sent(picker, endpoints, 0.0) for _ in range(2)]
    idle = next(endpoint for endpoint in endpoints if not endpoint.in_flight)
    late = hedge.when(calls[0])
    for _ in range(5):
        hedge.budget.call(late)
    assert hedge.where(calls[0], endpoints, late - 0.01) is None
    assert hedge.where(calls[0], endpoints, late) is idle
    copy = copy_of(calls[0])
    picker.charge(idle, copy)
    assert hedge.where(calls[1], endpoints, late) is None, "nobody is idle any more"
    picker.settle(idle, copy, None, late)
    picker.first_token(calls[1].charged_to, calls[1], late)
    assert hedge.where(calls[1], endpoints, late) is None, "its first token is here"


def test_hedges_are_a_few_in_a_hundred():
    picker, hedge, endpoints, hedged = Picker(PrefixIndex(), Random(0).randrange), Hedge(), pool(2), 0
    call = sent(picker, endpoints, 0.0)
    for n in range(2000):
        now = 10.0 + n / 100
        hedge.budget.call(now)
        hedged += hedge.where(call, endpoints, now) is not None
    assert 0 < hedged <= 0.02 * 2000
