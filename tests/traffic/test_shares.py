from __future__ import annotations

from collections import Counter
from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.admission import has_room, next_one, room
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.queue import OLDEST_EVERY, Queue, Waiting
from gemstead.traffic.roster import Roster
from gemstead.traffic.shares import ACTIVE_S, CALM_S, MEAN_S, Shares

SLOTS = 10


def one(tenant="t", tokens=100.0, read_s=0.0, priority=0) -> Waiting:
    return Waiting(None, tenant, priority, tokens, 10, inf, read_s)


def flight(**tokens: float) -> list[tuple[int, str, float]]:
    return [(0, tenant, count) for tenant, count in tokens.items()]


def heavy(shares: Shares) -> set[str]:
    return {tenant for _, tenant in shares.heavy}


# -- who is heavy ---------------------------------------------------------------------------------------------


def test_who_has_its_part_and_wants_more_is_heavy():
    shares = Shares()
    shares.measure(flight(abuser=50.0, a=20.0, b=20.0), flight(abuser=900.0), {}, 0.0)
    assert heavy(shares) == {"abuser"}
    assert shares.is_heavy(0, "abuser")
    assert not shares.is_heavy(1, "abuser"), "another priority is another matter"


def test_one_tenant_alone_may_have_everything():
    shares = Shares()
    shares.measure(flight(only=500.0), flight(only=900.0), {}, 0.0)
    assert not shares.heavy


def test_where_everybody_wants_more_than_its_part_nobody_is_heavy():
    shares = Shares()
    shares.measure(flight(a=50.0, b=50.0), flight(a=900.0, b=900.0), {}, 0.0)
    assert not shares.heavy


def test_who_has_been_held_back_below_its_part_is_not_heavy():
    shares = Shares()
    shares.measure(flight(flood=5.0, a=50.0, b=50.0), flight(flood=900.0), {}, 0.0)
    assert "flood" not in heavy(shares)


def test_weights_make_parts():
    shares = Shares()
    shares.measure(flight(gold=60.0, a=20.0), flight(gold=10.0), {"gold": 3.0}, 0.0)
    assert not shares.heavy


def test_a_few_calls_at_once_are_no_flood():
    shares = Shares()
    shares.measure(flight(flood=90.0, calm=10.0), flight(flood=900.0), {}, 0.0)
    shares.measure(flight(flood=45.0, calm=55.0), flight(flood=900.0, calm=60.0), {}, 0.1)
    assert heavy(shares) == {"flood"}


def test_who_was_there_lately_keeps_its_part_free():
    shares = Shares()
    shares.measure(flight(flood=90.0, a=10.0), flight(flood=900.0), {}, 0.0)
    shares.measure(flight(flood=100.0), flight(flood=900.0), {}, ACTIVE_S / 2)
    assert heavy(shares) == {"flood"}
    shares.measure(flight(flood=100.0), flight(flood=900.0), {}, ACTIVE_S + 1.0)
    assert not shares.heavy, "whoever has gone leaves its part"


def test_when_nothing_has_waited_for_a_while_nobody_is_heavy():
    shares = Shares()
    shares.measure(flight(flood=90.0, a=10.0), flight(flood=900.0), {}, 0.0)
    shares.measure(flight(flood=90.0, a=10.0), [], {}, CALM_S / 2)
    assert heavy(shares) == {"flood"}
    shares.measure(flight(flood=90.0, a=10.0), [], {}, CALM_S + 0.1)
    assert not shares.heavy


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1000), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 1000), min_size=1),
)
def test_somebody_is_always_free_to_take_what_is_kept(used, asked):
    shares = Shares()
    shares.measure(flight(**used), flight(**asked), {}, 0.0)
    assert heavy(shares) < used.keys() | asked.keys()


# -- what it changes ------------------------------------------------------------------------------------------


def full_pool(calls: int) -> Roster:
    endpoints = Roster([Endpoint(EndpointFacts(name="e", pool="m", host="127.0.0.1", port=1, slots=SLOTS))])
    picker = Picker(PrefixIndex(), Random(0).randrange)
    for _ in range(calls):
        call = Call("m", "flood", prompt_tokens=10)
        picker.charge(picker.pick(call, endpoints, 0.0), call)
    return endpoints


def crowded(*waiting: Waiting) -> Queue:
    queue = Queue()
    for each in waiting:
        assert queue.push(each, 0.0) == []
    queue.measure(flight(flood=900.0, calm=10.0), 0.0)
    assert queue.shares.is_heavy(0, "flood")
    return queue


def test_a_heavy_tenant_leaves_places_that_others_get():
    endpoints, flood, calm = full_pool(int(0.8 * SLOTS)), one("flood"), one("calm")
    queue = crowded(flood, calm)
    assert not has_room(endpoints, 0.0, heavy=True)
    assert next_one(queue, endpoints, 0.0) is calm
    assert next_one(queue, endpoints, 0.0) is None
    assert queue.lets_by(0, "calm")
    assert not queue.lets_by(0, "flood")
    assert not queue.lets_by(-1, "calm"), "lower priorities wait behind everybody"
    assert room(endpoints, 0.0) == SLOTS - int(0.8 * SLOTS)


def test_it_gets_all_the_rest():
    queue = crowded(*[one("flood") for _ in range(20)])
    endpoints = full_pool(0)
    assert next_one(queue, endpoints, 0.0) is not None


def test_nothing_waits_for_ever():
    """A flood that has been held back below its part is served like everybody else."""
    queue = crowded(one("flood"))
    queue.measure(flight(flood=1.0, calm=900.0), MEAN_S)
    assert next_one(queue, full_pool(9), MEAN_S) is not None


# -- long prompts ---------------------------------------------------------------------------------------------


def test_what_is_quickly_read_goes_before_what_takes_long():
    queue, long, short = Queue(), one(read_s=2.0), one(read_s=0.01)
    for each in (long, short):
        queue.push(each, 0.0)
    assert queue.take(0.0, 2) == [short, long]


def test_a_long_prompt_is_not_overtaken_by_what_comes_much_later():
    queue, long, late = Queue(), one(read_s=0.5), one()
    queue.push(long, 0.0)
    queue.push(late, 6.0)
    assert queue.take(6.0, 2) == [long, late]


@given(st.integers(1, 30))
def test_the_longest_prompt_gets_its_turn_in_any_flood(before):
    queue, long = Queue(), one(read_s=1e6)
    queue.push(long, 0.0)
    for number in range(before + OLDEST_EVERY):
        queue.push(one(), float(number))
    assert long in queue.take(100.0, OLDEST_EVERY)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), max_size=40), st.randoms())
def test_each_call_leaves_once_whatever_the_order(calls, dice):
    queue, waiting = Queue(), [one(tenant, read_s=read_s) for tenant, read_s in calls]
    for number, each in enumerate(waiting):
        queue.push(each, float(number))
    gone = [each for each in waiting if dice.random() < 0.3]
    for each in gone:
        assert queue.leave(each)
    queue.measure(flight(a=dice.random(), b=dice.random()), 0.0)
    taken = []
    while len(queue):
        taken += queue.take(1.0, 1, light=dice.random() < 0.5 and queue.has_light)
    assert Counter(map(id, taken + gone)) == Counter(map(id, waiting))
    assert (queue.bytes, queue.tokens) == (0, 0)
