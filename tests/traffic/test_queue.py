from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gemstead.refused import Reason
from gemstead.traffic.objective import Objective, priority_of, strictest
from gemstead.traffic.queue import Queue, QueueBounds, Waiting


def one(tenant="t", priority=0, tokens=100.0, size=10, due_at=inf) -> Waiting:
    return Waiting(None, tenant, priority, tokens, size, due_at)


def fill(queue: Queue, *waiting: Waiting, now: float = 0.0) -> None:
    for each in waiting:
        assert queue.push(each, now) == []


# -- who is next ----------------------------------------------------------------------------------------------


def test_a_higher_priority_never_waits_behind_a_lower_one():
    queue = Queue()
    low, middle, high = one(priority=-1), one(), one(priority=7)
    fill(queue, low, middle, high)
    assert queue.take(0.0, 9) == [high, middle, low]


def test_within_a_tenant_the_first_comes_first():
    queue, calls = Queue(), [one() for _ in range(9)]
    fill(queue, *calls)
    assert queue.take(0.0, 99) == calls


def test_what_is_due_first_goes_first_where_there_are_aims():
    queue = Queue()
    late, soon, never = one(due_at=9.0), one(due_at=5.0), one()
    fill(queue, never, late, soon)
    assert queue.take(0.0, 3) == [soon, late, never]


def test_a_tenant_that_floods_the_queue_gets_no_more_than_its_share():
    queue = Queue()
    fill(queue, *[one("flood") for _ in range(500)], *[one("calm") for _ in range(10)])
    served = Counter(each.tenant for each in queue.take(0.0, 20))
    assert served == {"flood": 10, "calm": 10}


def test_shares_are_of_tokens_not_of_calls():
    queue = Queue()
    fill(
        queue, *[one("long", tokens=1000) for _ in range(50)], *[one("short", tokens=10) for _ in range(500)]
    )
    taken = queue.take(0.0, 303)
    tokens = Counter()
    for each in taken:
        tokens[each.tenant] += each.tokens
    assert abs(tokens["long"] - tokens["short"]) <= 1000


def test_weights_divide_a_band():
    queue = Queue(weights={"gold": 3.0})
    fill(queue, *[one("gold") for _ in range(100)], *[one("other") for _ in range(100)])
    assert Counter(each.tenant for each in queue.take(0.0, 40)) == {"gold": 30, "other": 10}


def test_absence_earns_nothing():
    queue = Queue()
    fill(queue, *[one("here") for _ in range(100)])
    queue.take(0.0, 50)
    fill(queue, *[one("back") for _ in range(100)])
    assert Counter(each.tenant for each in queue.take(0.0, 20))["back"] <= 11


def test_what_an_answer_really_cost_is_charged_afterwards():
    queue = Queue()
    fill(queue, *[one(tenant) for tenant in ("a", "b") for _ in range(50)])
    for each in queue.take(0.0, 20):
        queue.settle(each, 1100 if each.tenant == "a" else 100)
    assert Counter(each.tenant for each in queue.take(0.0, 20)) == {"b": 20}


# -- who has to go --------------------------------------------------------------------------------------------


def test_when_it_is_full_the_newest_of_who_has_most_goes():
    queue = Queue(QueueBounds(requests=4))
    flood = [one("flood") for _ in range(3)]
    fill(queue, *flood, one("calm"))
    calm = one("calm")
    assert queue.push(calm, 0.0) == [flood[-1]]
    assert not calm.gone


def test_a_newcomer_that_is_over_served_goes_itself():
    queue = Queue(QueueBounds(requests=2))
    fill(queue, one("a"), one("b"))
    again = one("a")
    assert queue.push(again, 0.0) == [again]
    assert queue.full().reason is Reason.OVERLOADED
    assert queue.full().retry_after_s


def test_nobody_goes_for_a_less_important_call():
    queue = Queue(QueueBounds(requests=3))
    high = [one(priority=1) for _ in range(3)]
    fill(queue, *high)
    low = one(priority=0)
    assert queue.push(low, 0.0) == [low]
    higher = one(priority=2)
    assert queue.push(higher, 0.0) == [high[-1]]


def test_bytes_are_bounded_too():
    queue = Queue(QueueBounds(bytes=100))
    fill(queue, one(size=40), one(size=60))
    assert len(queue.push(one("other", size=50), 0.0)) == 1
    huge = one(size=101)
    assert queue.push(huge, 0.0) == [huge]
    assert queue.bytes <= 100


def test_a_wait_ends_and_says_so():
    queue = Queue(QueueBounds(wait_s=10.0))
    first, second = one(), one()
    fill(queue, first)
    fill(queue, second, now=5.0)
    assert queue.next_expiry() == 10.0
    assert queue.expire(9.9) == []
    assert queue.expire(10.0) == [first]
    assert queue.take(10.0, 9) == [second]
    refused = queue.late(first, True, 10.0)
    assert refused.reason is Reason.OVERLOADED
    assert refused.retry_after_s >= 1
    assert "10.0 s" in refused.message
    assert queue.late(first, False, 10.0).reason is Reason.NO_ENDPOINT


def test_what_can_no_longer_meet_its_aim_makes_room():
    queue = Queue()
    aimed = one(due_at=2.0)
    fill(queue, aimed)
    assert queue.expire(2.0) == [aimed]


def test_a_call_may_wait_longer_for_an_engine_that_starts():
    queue = Queue(QueueBounds(wait_s=10.0, starting_wait_s=300.0))
    cold = one(due_at=2.0)
    assert queue.push(cold, 0.0, starting=True) == []
    assert queue.expire(299.0) == []
    assert queue.expire(300.0) == [cold]


def test_when_to_come_back_follows_from_how_fast_the_queue_drains():
    queue = Queue()
    fill(queue, *[one() for _ in range(140)])
    for second in range(1, 41):
        queue.take(second / 2, 1)  # two a second
    assert queue.retry_after_s() == pytest.approx(50, rel=0.1)


# -- properties -----------------------------------------------------------------------------------------------


class Line(RuleBasedStateMachine):
    """A queue beside the plainest model of it: a list."""

    @initialize(requests=st.integers(1, 8), size=st.integers(20, 200))
    def begin(self, requests, size):
        self.bounds = QueueBounds(requests=requests, bytes=size, wait_s=10.0)
        self.queue, self.now, self.model = Queue(self.bounds), 0.0, []

    @rule(
        tenant=st.sampled_from("abc"),
        priority=st.integers(-1, 1),
        tokens=st.floats(0, 1000),
        size=st.integers(0, 90),
        aim=st.one_of(st.just(inf), st.floats(0, 20)),
    )
    def push(self, tenant, priority, tokens, size, aim):
        call = Waiting(None, tenant, priority, tokens, size, self.now + aim)
        out = self.queue.push(call, self.now)
        self.model = [each for each in [*self.model, call] if each not in out]
        assert all(each.priority <= priority for each in out), "somebody more important had to go"
        if out and out != [call]:
            assert min(each.priority for each in self.model) >= max(each.priority for each in out)

    @rule(most=st.integers(1, 3))
    def take(self, most):
        taken = self.queue.take(self.now, most)
        assert len(taken) == min(most, len(self.model))
        for each in taken:
            assert each.priority == max(other.priority for other in self.model)
            mine = [o for o in self.model if (o.tenant, o.priority) == (each.tenant, each.priority)]
            first = min(mine, key=lambda o: o.number)  # it has the turn of every fourth
            assert each in (min(mine, key=lambda o: (o.due_at, o.number)), first)
            self.model.remove(each)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data):
        call = data.draw(st.sampled_from(self.model))
        assert self.queue.leave(call)
        assert not self.queue.leave(call)
        self.model.remove(call)

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds):
        self.now += seconds
        gone = self.queue.expire(self.now)
        over = [e for e in self.model if min(e.arrived_at + 10.0, e.due_at) <= self.now]
        assert {id(each) for each in gone} == {id(each) for each in over}
        self.model = [each for each in self.model if each not in over]

    @invariant()
    def it_is_bounded_and_counts_right(self):
        if not hasattr(self, "queue"):
            return
        assert len(self.queue) == len(self.model) <= self.bounds.requests
        assert self.queue.bytes == sum(each.size_bytes for each in self.model) <= self.bounds.bytes
        assert {id(each) for each in self.queue} == {id(each) for each in self.model}
        assert self.queue.tokens == pytest.approx(sum(each.tokens for each in self.model), abs=1e-6)


TestLine = Line.TestCase


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 50)), min_size=1, max_size=80))
def test_within_a_priority_nobody_starves(arrivals):
    """However others come, a call is served before any tenant beside it got more than its tokens and one call more."""
    queue, mine = Queue(), one("mine", tokens=50)
    for tenant, tokens in arrivals[: len(arrivals) // 2]:
        fill(queue, one(tenant, tokens=tokens))
    fill(queue, mine)
    got: Counter[str] = Counter()
    for tenant, tokens in arrivals[len(arrivals) // 2 :]:
        fill(queue, one(tenant, tokens=tokens))
        (taken,) = queue.take(0.0)
        if taken is mine:
            return
        got[taken.tenant] += taken.tokens
        assert got[taken.tenant] <= 50 + 2 * 50
    while taken := queue.take(0.0):
        if taken[0] is mine:
            return
        got[taken[0].tenant] += taken[0].tokens
        assert got[taken[0].tenant] <= 50 + 2 * 50
    raise AssertionError("it was never served")


def test_what_is_kept_of_tenants_is_bounded():
    queue = Queue()
    for number in range(10_000):
        fill(queue, one(f"t{number}"))
        queue.take(float(number))
    assert sum(len(band.flows) for band in queue._bands.values()) <= 4096


# -- objectives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "priority"), [("critical", 1), ("Standard", 0), ("sheddable", -1), ("-7", -7), (3, 3)]
)
def test_priorities_have_names(word, priority):
    assert priority_of(word) == priority


def test_a_word_that_is_no_priority_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="critical, standard, sheddable"):
        priority_of("urgent")


def test_of_several_objectives_the_strictest_holds():
    both = strictest(Objective(priority=-1, ttft_s=2.0), None, Objective(priority=1, tpot_s=0.05))
    assert both == Objective(priority=1, ttft_s=2.0, tpot_s=0.05)
