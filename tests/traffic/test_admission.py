from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.admission import never_fits, room
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import STALE_S, Endpoint, EndpointFacts, Load
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.roster import Roster


def pool(size: int, **facts) -> Roster:
    return Roster(
        Endpoint(EndpointFacts(name=f"e{n}", pool="m", host="127.0.0.1", port=1, **facts))
        for n in range(size)
    )


def send(endpoints: Roster, now: float = 0.0, tokens: int = 10) -> Call:
    picker, call = Picker(PrefixIndex(), Random(0).randrange), Call("m", prompt_tokens=tokens)
    picker.charge(picker.pick(call, endpoints, now), call)
    return call


def test_a_pool_has_room_until_its_slots_are_taken():
    endpoints = pool(2, slots=3)
    assert room(endpoints, 0.0) == 6
    for left in range(5, -1, -1):
        send(endpoints)
        assert room(endpoints, 0.0) == left


def test_endpoints_that_take_no_calls_have_no_room():
    assert room(pool(2, slots=3, ready=False), 0.0) == 0
    assert room(pool(1, slots=3, draining=True), 0.0) == 0
    assert room([], 0.0) == 0


def test_an_engine_with_enough_to_read_has_no_room_until_it_has_read_it():
    endpoints = pool(2, prefill_tokens_s=1000.0)
    send(endpoints, tokens=1500)
    send(endpoints, tokens=1500)
    assert room(endpoints, 0.0) == 0
    assert room(endpoints, 1.1) == 0
    assert room(endpoints, 1.3) > 0


def test_a_full_cache_has_no_room():
    endpoints = pool(2, kv_tokens=1000)
    for _ in range(2):
        send(endpoints, tokens=900)
    assert room(endpoints, 10.0) == 0


def test_an_idle_engine_always_has_room_even_for_what_is_too_large():
    assert room(pool(1, slots=1), 0.0, priority=-1) == 1


def test_stale_metrics_are_full_for_what_may_be_shed_as_soon_as_anything_is_there():
    endpoints = pool(2, slots=5)
    for endpoint in endpoints:
        endpoint.load = Load(at=0.0, running=0, waiting=0)
    assert room(endpoints, STALE_S + 1, priority=-1) == 8
    send(endpoints, STALE_S + 1)
    assert room(endpoints, STALE_S + 1, priority=-1) == 4
    assert room(endpoints, STALE_S + 1) == 9, "others go by our own books"


def test_calls_that_may_be_shed_leave_room_for_others():
    endpoints = pool(2, slots=10)
    for _ in range(16):
        send(endpoints)
    assert room(endpoints, 0.0, priority=-1) == 0
    assert room(endpoints, 0.0) == 4


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 40))
def test_taking_what_room_says_never_overfills(size, slots, calls):
    endpoints = pool(size, slots=slots)
    for _ in range(calls):
        if not room(endpoints, 0.0):
            break
        send(endpoints)
    assert all(endpoint.in_flight <= slots for endpoint in endpoints)


@pytest.mark.parametrize(("tokens", "most"), [(100, 0), (1999, 0), (2000, 1000), (9000, 1000)])
def test_what_can_never_fit_is_known_at_once(tokens, most):
    assert never_fits(Call("m", prompt_tokens=tokens), pool(2, context_tokens=1000)) == most
    assert never_fits(Call("m", prompt_tokens=tokens), pool(2)) == 0
