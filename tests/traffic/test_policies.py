"""The named policies choose as they are published."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.refused import Reason, Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, Load
from gemstead.traffic.policies import POLICIES

BLOCK = 512


def endpoint(name="a", **facts):
    return Endpoint(EndpointFacts(name=name, pool="m", host="h", port=1, **facts))


def pool(count=3, **facts):
    return [endpoint(f"e{place}", **facts) for place in range(count)]


def call(blocks=(), tokens=None, **more):
    tokens = len(blocks) * BLOCK if tokens is None else tokens
    return Call("m", prompt_tokens=tokens, prefix=tuple(blocks), block_tokens=BLOCK, **more)


def made(name, seed=1):
    return POLICIES[name](Random(seed).randrange)


def send(policy, one, endpoints, now=0.0):
    """Pick and charge."""
    chosen = policy.pick(one, endpoints, now)
    policy.charge(chosen, one)
    return chosen


def place(policy, target, one):
    """Charge a call to an endpoint, whatever the policy prefers."""
    policy.pick(one, [target], 0.0)
    policy.charge(target, one)


def test_random_takes_each_as_often():
    policy, endpoints, counts = made("random"), pool(4), {}
    for _ in range(4000):
        name = policy.pick(call(), endpoints, 0.0).name
        counts[name] = counts.get(name, 0) + 1
    assert min(counts.values()) > 900 and len(counts) == 4


def test_round_robin_goes_round():
    policy, endpoints = made("round-robin"), pool(3)
    names = [policy.pick(call(), endpoints, 0.0).name for _ in range(6)]
    assert names[:3] == names[3:] and len(set(names)) == 3


def test_least_outstanding_takes_the_fewest_in_flight():
    policy, endpoints = made("least-outstanding"), pool(3)
    for busy in (0, 0, 2):
        place(policy, endpoints[busy], call())
    assert policy.pick(call(), endpoints, 0.0).name == "e1"


def test_power_of_two_never_takes_the_busiest_of_two_and_draws_two_different_ones():
    policy, endpoints = made("power-of-two"), pool(2)
    place(policy, endpoints[0], call())
    assert {policy.pick(call(), endpoints, 0.0).name for _ in range(50)} == {"e1"}


def test_a_consistent_hash_finds_the_same_endpoint_and_moves_few_when_one_goes():
    policy, endpoints = made("consistent-hash"), pool(8)
    first = {key: policy.pick(call((key,)), endpoints, 0.0).name for key in range(400)}
    again = {key: policy.pick(call((key, 7)), endpoints, 0.0).name for key in range(400)}
    assert first == again
    fewer = {key: policy.pick(call((key,)), endpoints[1:], 0.0).name for key in range(400)}
    assert all(fewer[key] == first[key] for key in first if first[key] != "e0")


def test_a_consistent_hash_keeps_everyone_within_a_quarter_above_the_mean():
    policy, endpoints = made("consistent-hash"), pool(4)
    for _ in range(100):
        send(policy, call((5,)), endpoints)
    assert max(one.in_flight for one in endpoints) <= 1.25 * 101 / 4


def test_the_blend_weighs_prefix_3_queue_2_and_cache_2():
    policy, endpoints = made("score-blend"), pool(2)
    place(policy, endpoints[0], call(range(10)))
    endpoints[0].load = Load(at=0.0, running=1, waiting=4, kv_used=0.49)
    endpoints[1].load = Load(at=0.0, running=1, waiting=0, kv_used=0.0)
    # e0: 3 x 1 + 2 x 0 + 2 x 0.51 = 4.02; e1: 0 + 2 + 2 = 4
    assert policy.pick(call(range(10)), endpoints, 0.0).name == "e0"
    endpoints[0].load = Load(at=1.0, running=1, waiting=4, kv_used=0.51)
    assert policy.pick(call(range(10)), endpoints, 1.0).name == "e1"


def test_the_blend_counts_blocks_after_a_gap_as_published():
    policy, endpoints = made("score-blend"), pool(2)
    place(policy, endpoints[0], call((1, 2, 3)))
    place(policy, endpoints[1], call((9, 2, 3)))  # lacks block 1, has what follows
    one = call((1, 2, 3))
    policy.pick(one, endpoints, 0.0)
    assert policy._seen.match(one, endpoints) == [3, 2]


def test_cache_aware_follows_a_match_above_three_tenths():
    policy, endpoints = made("cache-aware"), pool(3)
    place(policy, endpoints[2], call(range(4)))
    assert policy.pick(call((0, 1, 2, 3, *range(50, 59))), endpoints, 0.0).name == "e2"  # 4 of 13
    assert policy.pick(call((0, 1, 2, 3, *range(50, 60))), endpoints, 0.0).name != "e2"  # 4 of 14


def test_cache_aware_sends_a_miss_to_the_smallest_tree_whatever_is_in_flight_there():
    policy, endpoints = made("cache-aware"), pool(2)
    place(policy, endpoints[0], call(range(100)))
    for _ in range(30):
        place(policy, endpoints[1], call())
    assert policy.pick(call(range(200, 210)), endpoints, 0.0).name == "e1"


@pytest.mark.parametrize(
    ("busy", "idle", "chosen"), [(64, 0, "e0"), (65, 0, "e1"), (193, 129, "e0"), (195, 129, "e1")]
)
def test_cache_aware_balances_above_64_more_and_half_as_many_again(busy, idle, chosen):
    policy, endpoints = made("cache-aware"), pool(2)
    place(policy, endpoints[0], call(range(10)))
    endpoints[0].in_flight, endpoints[1].in_flight = busy, idle
    assert policy.pick(call(range(10)), endpoints, 0.0).name == chosen


def test_sticky_keeps_to_those_that_hold_eight_tenths():
    policy, endpoints = made("sticky"), pool(2, prefill_tokens_s=1000.0)
    place(policy, endpoints[0], call(range(8)))
    policy.first_token(endpoints[0], Call("m"))
    held = call(range(10))
    assert policy.pick(held, endpoints, 0.0).name == "e0"
    assert held.hit_tokens == 8 * BLOCK
    endpoints[0].prefill_tokens = 9000  # more than what a hit of 7 in 10 saves
    assert policy.pick(call((*range(7), 97, 98, 99)), endpoints, 0.0).name == "e1"


@pytest.mark.parametrize(("owed", "chosen"), [(18_000, "e0"), (18_001, "e1")])
def test_sticky_leaves_when_the_wait_there_is_18_seconds_longer(owed, chosen):
    policy, endpoints = made("sticky"), pool(2, prefill_tokens_s=1000.0)
    one = call(range(10))
    place(policy, endpoints[0], one)
    policy.first_token(endpoints[0], one)
    endpoints[0].prefill_tokens = owed
    assert policy.pick(call(range(10)), endpoints, 0.0).name == chosen


def test_sticky_charges_what_it_expects_to_be_read_and_gives_it_back_at_the_first_token():
    policy, endpoints = made("sticky"), pool(2)
    first = call(range(10))
    target = send(policy, first, endpoints)
    assert target.prefill_tokens == 10 * BLOCK
    policy.first_token(target, first)
    again = call(range(11))
    assert send(policy, again, endpoints) is target
    assert target.prefill_tokens == BLOCK


def test_what_was_sent_is_remembered_up_to_the_size_of_the_cache():
    policy, endpoints = made("sticky"), pool(2, kv_tokens=4 * BLOCK)
    place(policy, endpoints[0], call(range(4)))
    place(policy, endpoints[0], call((10, 11)))
    one = call((2, 3))
    assert policy._seen.match(one, endpoints) == [2, 0]
    assert policy._seen.match(call((0, 1)), endpoints) == [0, 0]


@pytest.mark.parametrize("name", POLICIES)
def test_who_cannot_take_a_call_is_never_picked(name):
    policy, endpoints = made(name), pool(4)
    endpoints[0].facts = msgspec.structs.replace(endpoints[0].facts, ready=False)
    endpoints[1].facts = msgspec.structs.replace(endpoints[1].facts, draining=True)
    for number in range(30):
        assert send(policy, call(range(number)), endpoints).name in ("e2", "e3")
    assert policy.pick(call(tried=("e2",)), endpoints, 0.0).name == "e3"
    with pytest.raises(Refused) as refused:
        policy.pick(call(tried=("e2", "e3")), endpoints, 0.0)
    assert refused.value.reason is Reason.NO_ENDPOINT


@pytest.mark.parametrize("name", POLICIES)
def test_five_failures_shut_an_endpoint_out_until_its_breaker_lets_one_try(name):
    policy, endpoints = made(name), pool(2)
    for _ in range(5):
        one = call((1,))
        place(policy, endpoints[0], one)
        policy.settle(endpoints[0], one, False, 0.0)
    assert {policy.pick(call((number,)), endpoints, 0.5).name for number in range(40)} == {"e1"}
    one = call((1,))
    policy.pick(one, endpoints[:1], 1.5)
    policy.charge(endpoints[0], one)
    policy.settle(endpoints[0], one, True, 2.0)
    assert endpoints[0].open_from <= 2.0


@pytest.mark.parametrize("name", POLICIES)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["first", True, False, None])), max_size=40))
def test_books_return_to_nothing_however_calls_end(name, steps):
    policy, endpoints, open_calls = made(name), pool(3), []
    for number, (length, end) in enumerate(steps):
        one = call(range(length))
        open_calls.append((send(policy, one, endpoints, float(number)), one))
        target, other = open_calls[number // 2 % len(open_calls)]
        if end == "first":
            policy.first_token(target, other, float(number))
        else:
            policy.settle(target, other, end, float(number))
    for target, one in open_calls:
        policy.settle(target, one, True, 100.0)
        policy.settle(target, one, True, 100.0)
    assert [(one.in_flight, one.prefill_tokens) for one in endpoints] == [(0, 0)] * 3


@pytest.mark.parametrize("name", POLICIES)
def test_what_an_endpoint_held_is_forgotten_with_it(name):
    policy, endpoints = made(name), pool(2)
    place(policy, endpoints[0], call(range(10)))
    policy.settle(endpoints[0], call(), True, 0.0)
    policy.forget("e0")
    policy.forget("nobody")
    one = call(range(10))
    policy.pick(one, endpoints, 0.0)
    assert one.hit_tokens == 0
