"""Rates that the plan foresees decide before anything is learned, and wrong ones are put right by what is learned."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, knee
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.roster import Roster

FAST, SLOW = 16_000.0, 4_000.0  # prompt tokens a second
WITHIN = (
    5  # calls to each after which rates that were twice off are within a quarter of the truth; 4 were enough
)


def pool(fast: float, slow: float) -> Roster:
    return Roster(
        Endpoint(
            EndpointFacts(
                name=name, pool="m", host="127.0.0.1", port=1, slots=32, prefill_tokens_s=rate,
                decode_step_s=0.015, decode_step_slot_s=0.0002,
            )
        )
        for name, rate in (("fast", fast), ("slow", slow))
    )  # fmt: skip


def prompt(dice: Random) -> Call:
    return Call("m", prompt_tokens=dice.randrange(1000, 4000))


def test_the_first_calls_of_a_cold_start_go_where_prompts_are_read_soonest():
    endpoints, picker = pool(FAST, SLOW), Picker(PrefixIndex(), Random(1).randrange)
    share = 0
    for _ in range(20):
        call = Call("m", prompt_tokens=2000)
        endpoint = picker.pick(call, endpoints, 0.0)
        picker.charge(endpoint, call)
        share += endpoint.name == "fast"

    # Four times as fast: of twenty that come at once it takes sixteen, give or take one.
    assert 15 <= share <= 17


def test_without_a_plan_both_get_as_many():
    endpoints, picker = pool(0.0, 0.0), Picker(PrefixIndex(), Random(1).randrange)
    share = 0
    for _ in range(20):
        call = Call("m", prompt_tokens=2000)
        endpoint = picker.pick(call, endpoints, 0.0)
        picker.charge(endpoint, call)
        share += endpoint.name == "fast"
    assert 8 <= share <= 12


@pytest.mark.parametrize(("fast", "slow"), [(FAST / 2, SLOW / 2), (FAST * 2, SLOW * 2), (FAST * 2, SLOW / 2)])
def test_rates_that_are_twice_off_are_put_right_by_some_calls(fast, slow):
    endpoints, picker, dice = pool(fast, slow), Picker(PrefixIndex(), Random(1).randrange), Random(2)
    truth, now = {"fast": FAST, "slow": SLOW}, 0.0
    for _ in range(WITHIN):  # each endpoint has answered so many, one at a time
        for endpoint in endpoints:
            call = prompt(dice)
            picker._now = now
            picker.charge(endpoint, call)
            now += 0.015 + call.charged_tokens / truth[endpoint.name] * dice.uniform(0.8, 1.25)
            picker.first_token(endpoint, call, now)
            picker.settle(endpoint, call, True, now + 1.0, 50)
            now += 2.0
    for endpoint in endpoints:
        assert 1 / endpoint.token_s == pytest.approx(truth[endpoint.name], rel=0.25)


def test_a_planned_number_of_calls_is_not_second_guessed():
    facts = EndpointFacts(
        name="e", pool="m", host="", port=1, slots=84, decode_step_s=0.0065, decode_step_slot_s=0.0005
    )
    assert knee(facts) < 84
    planned = EndpointFacts(
        name="e",
        pool="m",
        host="",
        port=1,
        slots=84,
        knee=84,
        decode_step_s=0.0065,
        decode_step_slot_s=0.0005,
    )
    assert knee(planned) == 84


def test_what_was_learned_stays_when_an_engine_says_how_much_it_holds():
    (endpoint, _) = pool(FAST, SLOW)
    rates = endpoint.rates
    endpoint.facts = replace(endpoint.facts, kv_tokens=100_000, slots=64)
    assert endpoint.rates is rates
    endpoint.facts = replace(endpoint.facts, prefill_tokens_s=SLOW)
    assert endpoint.rates is not rates
