from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import NOBODY, Endpoint, EndpointFacts, Load, Others
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.roster import Roster
from gemstead.traffic.sharing import FORGET_S, News, Share, Sharing, door, packed, unpacked


def facts(name, **more):
    return EndpointFacts(name=name, pool="m", host="10.0.0.1", port=8000 + ord(name), **more)


class Side:
    """One gateway with two endpoints."""

    def __init__(self, owner):
        self.picker = Picker(PrefixIndex(), lambda n: 0)
        self.endpoints = Roster([Endpoint(facts("a")), Endpoint(facts("b"))])
        self.doors = {door(one.facts, "here"): one for one in self.endpoints}
        self.sharing = Sharing(owner, self.picker.index)

    def send(self, place, prefix=(), tokens=4000, now=0.0):
        call = Call("m", prompt_tokens=tokens, prefix=prefix)
        self.picker.charge(self.endpoints[place], call)
        return call


def told(one, other, now):
    """`other` hears what `one` says, by way of the wire's form."""
    news = msgspec.msgpack.decode(msgspec.msgpack.encode(one.sharing.say(one.doors)), type=News)
    other.sharing.hear([news], other.doors, now)
    other.sharing.add_up(other.doors, now)


def test_a_gateway_avoids_what_another_has_loaded_and_comes_back_when_that_ended():
    one, two = Side("1"), Side("2")
    call = one.send(0)
    told(one, two, 0.0)
    assert two.endpoints[0].calls_elsewhere == 1
    assert two.endpoints[0].prefill_elsewhere == one.endpoints[0].prefill_tokens > 0
    assert two.picker.pick(Call("m", prompt_tokens=100), two.endpoints, 0.1).name == "b"
    one.picker.settle(one.endpoints[0], call, True, 1.0)
    told(one, two, 1.0)
    assert two.endpoints[0].others == NOBODY
    assert two.endpoints[0].standing_s == two.endpoints[1].standing_s


def test_a_gateway_goes_where_another_has_warmed_the_prompt():
    one, two = Side("1"), Side("2")
    prefix = tuple(range(100, 116))
    call = one.send(1, prefix)
    one.picker.settle(one.endpoints[1], call, True, 1.0)
    told(one, two, 1.0)
    again = Call("m", prompt_tokens=4000, prefix=prefix)
    assert two.picker.pick(again, two.endpoints, 1.1).name == "b"
    assert again.hit_tokens > 3000


def test_what_was_heard_is_not_said_again():
    one, two = Side("1"), Side("2")
    one.send(1, (1, 2, 3))
    told(one, two, 0.0)
    assert two.sharing.say(two.doors).heads == []


def test_a_gateway_that_falls_silent_has_nothing_any_more_and_its_heads_stay():
    one, two = Side("1"), Side("2")
    one.send(0, (7, 8))
    told(one, two, 0.0)
    assert two.sharing.others == 1
    two.sharing.add_up(two.doors, FORGET_S + 0.01)
    assert (two.sharing.others, two.endpoints[0].others, two.endpoints[0].calls_elsewhere) == (0, NOBODY, 0)
    assert two.picker.index.match((7, 8), ["a"]) == [2]


def test_heads_that_are_hashed_in_another_way_are_left_out_and_calls_count():
    one, two = Side("1"), Side("2")
    one.send(0, (7, 8))
    news = one.sharing.say(one.doors)
    news.probe += 1
    two.sharing.hear([news], two.doors, 0.0)
    two.sharing.add_up(two.doors, 0.0)
    assert two.endpoints[0].calls_elsewhere == 1
    assert two.picker.index.match((7, 8), ["a"]) == [0]
    assert two.sharing.unreadable == {"1"}


def test_heads_are_bounded_and_what_is_left_out_is_counted():
    one = Side("1")
    one.sharing.outbox.most_bytes = 80
    for n in range(5):
        one.send(0, tuple(range(100 * n, 100 * n + 4)))
    assert len(one.sharing.say(one.doors).heads) == 2
    assert one.sharing.outbox.left_out == 3
    one.send(0, (1, 2, 3, 4, 5))
    assert len(one.sharing.say(one.doors).heads) == 1


def test_endpoints_on_loopback_are_told_apart_by_machine_and_others_by_address():
    local = EndpointFacts(name="x", pool="m", host="127.0.0.1", port=1)
    far = EndpointFacts(name="y", pool="m", host="10.1.1.1", port=1)
    assert door(local, "one") != door(local, "two")
    assert door(far, "one") == door(far, "two")
    assert door(far, "one") != door(msgspec.structs.replace(far, pool="n"), "one")


def test_metrics_and_what_others_say_are_not_counted_twice():
    endpoint = Endpoint(facts("a"))
    endpoint.hear_others(Others(3, 1, 900, 5000))
    endpoint.load = Load(at=1.0, running=2, waiting=1)
    assert (endpoint.calls_elsewhere, endpoint.prefill_elsewhere) == (3, 900)
    endpoint.load = Load(at=2.0, running=5, waiting=0)
    assert endpoint.calls_elsewhere == 3  # once may be a moment's difference
    endpoint.load = Load(at=3.0, running=5, waiting=0)
    assert endpoint.calls_elsewhere == 5  # somebody calls it past all gateways
    endpoint.hear_others(NOBODY)
    assert endpoint.calls_elsewhere == 2
    endpoint.load = None
    assert endpoint.calls_elsewhere == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("12345"), st.floats(0, 20), st.lists(st.integers(0, 9), max_size=2)),
        max_size=30,
    )
)
def test_what_is_elsewhere_is_always_the_sum_of_whom_was_heard_lately(steps):
    two = Side("me")
    names = sorted(two.doors)
    heard, now = {}, 0.0
    for owner, passed, calls in steps:
        now += passed
        shares = [Share(name, count) for name, count in zip(names, calls, strict=False)]
        two.sharing.hear([News(owner, 1, two.sharing.probe, shares)], two.doors, now)
        two.sharing.add_up(two.doors, now)
        heard[owner] = (now, calls)
        for place, name in enumerate(names):
            wanted = sum(
                calls[place] for at, calls in heard.values() if now - at <= FORGET_S and place < len(calls)
            )
            assert two.doors[name].calls_elsewhere == wanted


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_hashes_come_back_as_they_went(prefix):
    assert unpacked(packed(prefix)) == tuple(prefix)
