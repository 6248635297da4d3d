"""What engines say of their caches corrects what we thought: prefixes, room and rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import LEAST_HELD, PrefixIndex
from gemstead.traffic.rates import SETTLED
from gemstead.traffic.roster import Roster

BLOCK = 256  # tokens


def a_pool() -> Roster:
    return Roster(
        Endpoint(EndpointFacts(name=name, pool="m", host="10.0.0.1", port=1 + n, kv_tokens=10**7))
        for n, name in enumerate("ab")
    )


class House:
    def __init__(self):
        self.picker, self.endpoints, self.now = Picker(PrefixIndex(), lambda n: 0), a_pool(), 0.0

    def sent(self, prefix, place=0):
        call = Call("m", prompt_tokens=BLOCK * len(prefix), prefix=tuple(prefix))
        call.hit_tokens = min(
            BLOCK * self.picker.index.match(call.prefix, [self.endpoints[place].name])[0],
            call.prompt_tokens - 16,
        )
        self.picker._now = self.now
        self.picker.charge(self.endpoints[place], call)
        return call

    def ended(self, call, cached, place=0):
        self.now += 0.5
        self.picker.first_token(self.endpoints[place], call, self.now)
        self.now += 0.5
        self.picker.settle(self.endpoints[place], call, True, self.now, 50, cached)

    def call(self, prefix, cached=-1, place=0):
        call = self.sent(prefix, place)
        self.ended(call, cached, place)
        return call

    def known(self, prefix, place=0):
        return self.picker.index.match(tuple(prefix), [self.endpoints[place].name])[0]


def told(house):
    """The engine has shown that it says what it finds."""
    house.call(range(900, 910))
    house.call(range(900, 910), cached=9 * BLOCK)
    return house


def test_an_engine_that_has_lost_a_prompt_has_lost_what_is_older_and_not_what_is_newer():
    house = told(House())
    for start in (100, 200, 300):
        house.call(range(start, start + 20))
    house.call(range(200, 220), cached=0)  # thought: all of it
    assert house.known(range(100, 120)) == 20, "once may be a beginning that it cannot take up"
    house.call(range(200, 220), cached=0)
    assert house.known(range(900, 910)) == 0
    assert house.known(range(100, 120)) == 0
    assert house.known(range(200, 220)) == 20  # just read
    assert house.known(range(300, 320)) == 20


def test_a_prompt_that_leaves_an_older_one_midway_may_find_nothing_though_nothing_was_lost():
    """Sliding layers keep the end of a prompt and no place in its middle."""
    house = told(House())
    house.call(range(100, 120))
    house.call([*range(200, 220), 1, 2])
    house.call([*range(200, 220), 3, 4], cached=0)
    assert house.known(range(100, 120)) == 20
    house.call([*range(200, 220), 3, 4, 5, 6], cached=0)  # and this one goes on where the last one ended
    house.call([*range(200, 220), 3, 4, 5, 6, 7], cached=0)
    assert house.known(range(100, 120)) == 0


def picked(house, prefix):
    call = Call("m", prompt_tokens=BLOCK * len(prefix), prefix=tuple(prefix))
    house.now += 1.0
    place = house.endpoints.index(house.picker.pick(call, house.endpoints, house.now))
    house.picker.charge(house.endpoints[place], call)
    return call, place


@pytest.mark.parametrize("keeps_windows_only", [True, False])
def test_what_engines_find_of_a_prompt_that_parts_from_an_older_one_is_learned(keeps_windows_only):
    house = told(House())
    begins = range(200, 220)
    for n in range(60):
        call, place = picked(house, [*begins, 1000 + n, 2000 + n])
        house.ended(call, 0 if keeps_windows_only else min(n, 1) * 20 * BLOCK, place)
    midway = house.endpoints[0].rates.midway
    assert midway < 0.05 if keeps_windows_only else midway > 0.9
    parts, _ = picked(house, [*begins, 3, 4])
    goes_on, _ = picked(house, [*begins, 1059, 2059, 5, 6])
    assert goes_on.hit_tokens == 22 * BLOCK
    assert parts.hit_tokens < BLOCK if keeps_windows_only else parts.hit_tokens > 18 * BLOCK


def test_what_an_engine_has_and_will_not_find_still_keeps_a_prompt_there():
    """A second copy of the beginning would push out what others want."""
    house = told(House())
    house.endpoints[0].rates.midway = 0.0
    first, place = picked(house, range(300, 330))
    house.ended(first, 0, place)
    for n in range(20):
        call, there = picked(house, [*range(300, 320), 1000 + n])
        assert (there, call.hit_tokens) == (place, 0)
        house.ended(call, 0, there)


def test_an_engine_that_never_says_anything_is_not_taken_at_its_word():
    house = House()
    house.call(range(100, 120))
    house.call(range(200, 220))
    house.call(range(200, 220), cached=0)
    assert house.known(range(100, 120)) == 20


def test_what_differs_by_little_means_the_same():
    house = told(House())
    house.call(range(100, 120))
    house.call(range(200, 220))
    house.call(range(200, 220), cached=16 * BLOCK)
    assert house.known(range(100, 120)) == 20


def test_a_prompt_that_was_still_being_read_says_nothing_about_what_is_kept():
    house = told(House())
    house.call(range(100, 120))
    first = house.sent(range(200, 220))
    second = house.sent(range(200, 220))
    house.ended(first, 0)
    house.ended(second, 0)  # it came too early to find the first one's
    assert house.known(range(100, 120)) == 20


def test_room_comes_down_to_what_an_engine_holds_and_goes_up_again():
    index = PrefixIndex()
    index.insert("a", (0,))
    turn = index.turn
    for n in range(1, 2000):
        index.insert("a", (n,))
    index.missed("a", turn + 2000)
    assert index.match((500,), ["a"]) == [0]
    for n in range(40):
        index.insert("a", (5000 + n,))
        index.missed("a", index.turn - 600)
    assert index._seen["a"].holds <= 310
    index.insert("a", tuple(range(10_000, 11_000)))
    assert len(index._seen["a"].blocks) <= 310
    room = index._seen["a"].holds
    for _ in range(10):
        index.found("a")
    assert index._seen["a"].holds > 2 * room


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.data())
def test_what_is_missed_is_gone_with_all_that_is_older_and_nothing_else(sent, data):
    index, last = PrefixIndex(), {}
    for n in sent:
        index.insert("a", (n,))
        last[n] = index.turn + 1  # where a prompt ends
    turn = data.draw(st.integers(0, index.turn + 2))
    index.missed("a", turn)
    for n in range(41):
        assert index.match((n,), ["a"]) == [int(last.get(n, -1) > turn)]
    assert index._seen["a"].holds >= LEAST_HELD


@pytest.mark.parametrize("tells", [True, False])
def test_rates_are_learned_from_what_was_read_and_not_from_what_we_thought(tells):
    """An engine of 5,000 tokens a second that has lost what we think it has would seem to be slower."""
    house = House()
    endpoint, picker = house.endpoints[0], house.picker
    endpoint.tells_cached = tells
    for n in range(4 * SETTLED):
        prefix = tuple(range(1000 * n, 1000 * n + 5 + 7 * n % 40))
        if n >= 2 * SETTLED:
            picker.index.insert("a", prefix)  # what we think: all of it is there
        call = house.sent(prefix)
        house.now += call.prompt_tokens / 5000
        picker.first_token(endpoint, call, house.now)
        house.now += 1.0
        picker.settle(endpoint, call, True, house.now, 50, 0)
    learned = 1 / endpoint.token_s
    assert learned == pytest.approx(5000, rel=0.2) if tells else learned < 3000 or learned > 8000


def test_a_call_that_ends_without_a_word_teaches_all_the_same():
    house = told(House())
    count = house.endpoints[0].rates.prefill.count
    for n in range(SETTLED + 10):
        house.call(range(1000 * n, 1000 * n + 20))
    assert house.endpoints[0].rates.prefill.count == count + SETTLED + 10
