from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import FAILURES_TO_OPEN, State
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import STALE_S, Endpoint, EndpointFacts, Load
from gemstead.traffic.picker import CROWD, Picker
from gemstead.traffic.prefix import PrefixIndex


def endpoint(name: str, *, ready: bool = True, draining: bool = False, load: Load | None = None) -> Endpoint:
    facts = EndpointFacts(name=name, pool="m", host="127.0.0.1", port=1, ready=ready, draining=draining)
    return Endpoint(facts, load)


def pool(size: int) -> list[Endpoint]:
    return [endpoint(f"e{n}") for n in range(size)]


def a_picker(seed: int = 0) -> Picker:
    return Picker(PrefixIndex(), Random(seed).randrange)


def call(**facts) -> Call:
    return Call(model="m", **facts)


def send(picker: Picker, endpoints: list[Endpoint], now: float = 0.0, **facts) -> tuple[Endpoint, Call]:
    sent = call(**facts)
    chosen = picker.pick(sent, endpoints, now)
    picker.charge(chosen, sent)
    return chosen, sent


def fail(picker: Picker, chosen: Endpoint, times: int = FAILURES_TO_OPEN, now: float = 0.0) -> None:
    for _ in range(times):
        sent = call()
        picker.charge(chosen, sent)
        picker.settle(chosen, sent, False, now)


def books(endpoints: list[Endpoint]) -> list[tuple[float, ...]]:
    return [
        (e.in_flight, e.prefill_tokens, e.kv_booked, e.speaking, len(e.waiting), e.standing_s, e.crowd_s)
        for e in endpoints
    ]


# -- who is passed over ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1, 3])
def test_endpoints_that_are_not_ready_draining_or_tried_are_never_picked(others):
    endpoints = [endpoint("starts", ready=False), endpoint("leaves", draining=True), endpoint("tried")]
    endpoints += pool(others)
    chosen = set()
    for seed in range(30):
        try:
            chosen.add(a_picker(seed).pick(call(tried=("tried",)), endpoints, 0.0).name)
        except Refused as refused:
            assert (refused.reason, others) == (Reason.NO_ENDPOINT, 0)
            assert refused.retry_after_s
    assert chosen == {f"e{n}" for n in range(others)}


@pytest.mark.parametrize("endpoints", [[], [endpoint("a", ready=False)], [endpoint("a", draining=True)]])
def test_a_pool_where_nobody_can_take_the_call_refuses_and_says_when_to_come_back(endpoints):
    with pytest.raises(Refused) as refused:
        a_picker().pick(call(), endpoints, 0.0)
    assert refused.value.reason is Reason.NO_ENDPOINT
    assert refused.value.retry_after_s
    assert "m" in refused.value.message


def test_an_open_breaker_is_passed_over_until_its_time():
    endpoints, picker = pool(2), a_picker()
    fail(picker, endpoints[0])
    assert {send(picker, endpoints, 0.5)[0].name for _ in range(20)} == {"e1"}
    assert send(picker, endpoints, 1.5)[0].name == "e0"  # less busy by now, and one may try
    assert endpoints[0].breaker.state is State.HALF_OPEN
    assert {send(picker, endpoints, 1.5)[0].name for _ in range(20)} == {"e1"}


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_last_endpoints_of_a_pool_are_never_shut_out(size):
    endpoints, picker = pool(size), a_picker()
    for each in endpoints:
        fail(picker, each)
    chosen, sent = send(picker, endpoints, 0.1)
    picker.first_token(chosen, sent)
    assert chosen.breaker.state is State.CLOSED, "a call sent all the same finds out that the engine is back"


def test_a_client_that_leaves_a_probe_does_not_keep_the_endpoint_shut():
    endpoints, picker = pool(2), a_picker()
    fail(picker, endpoints[0])
    chosen, sent = send(picker, [endpoints[0], endpoint("other", ready=False)], 2.0)
    picker.settle(chosen, sent, None, 2.5)
    assert endpoints[0].breaker.state is State.OPEN
    assert picker.pick(call(tried=("e1",)), endpoints, 2.5) is endpoints[0]


def test_a_client_that_leaves_is_not_the_engines_failure():
    (only,) = endpoints = pool(1)
    picker = a_picker()
    for _ in range(100):
        chosen, sent = send(picker, endpoints)
        picker.settle(chosen, sent, None, 0.0)
    assert (only.breaker.state, only.failures, only.served) == (State.CLOSED, 0, 0)


def test_stale_and_full_endpoints_are_passed_over_while_others_are_well():
    stale = endpoint("stale", load=Load(at=0.0, running=0, waiting=0, kv_used=0.0))
    full = endpoint("full", load=Load(at=10.0, running=0, waiting=0, kv_used=0.98))
    silent = endpoint("silent")
    now = STALE_S + 5.0
    silent.in_flight = 50
    silent.weigh()
    assert {a_picker(s).pick(call(), [stale, full, silent], now).name for s in range(20)} == {"silent"}
    assert {a_picker(s).pick(call(), [stale, full], now).name for s in range(20)} <= {"stale", "full"}


# -- who is preferred -----------------------------------------------------------------------------------------


def test_idle_endpoints_share_calls_by_chance():
    chosen = [a_picker(seed).pick(call(), pool(4), 0.0).name for seed in range(200)]
    assert min(chosen.count(f"e{n}") for n in range(4)) > 20


def test_concurrent_calls_spread_evenly():
    endpoints, picker = pool(5), a_picker()
    for _ in range(500):
        send(picker, endpoints, prompt_tokens=20)
    assert max(e.in_flight for e in endpoints) - min(e.in_flight for e in endpoints) <= 1


def test_a_long_prefill_on_its_way_weighs_until_its_first_token():
    endpoints, picker = pool(2), a_picker()
    long_one, sent = send(picker, endpoints, prompt_tokens=100_000)
    assert {send(picker, endpoints, prompt_tokens=1)[0] for _ in range(20)} == {*endpoints} - {long_one}
    picker.first_token(long_one, sent)
    assert send(picker, endpoints, prompt_tokens=1)[0] is long_one


def test_work_that_came_through_others_counts_until_the_next_load():
    endpoints, picker = pool(2), a_picker()
    endpoints[0].load = Load(at=0.0, running=8, waiting=0, kv_used=0.1)
    assert {send(picker, endpoints, 1.0)[0].name for _ in range(5)} == {"e1"}
    endpoints[0].load = Load(at=2.0, running=0, waiting=0, kv_used=0.1)
    assert send(picker, endpoints, 2.0)[0].name == "e0"


def test_an_older_load_is_passed_over():
    one = endpoint("a", load=Load(at=5.0, running=3))
    one.load = Load(at=4.0, running=900)
    assert one.load.running == 3


def test_what_the_engine_counts_is_not_counted_twice():
    endpoints, picker = pool(1), a_picker()
    for _ in range(7):
        send(picker, endpoints)
    endpoints[0].load = Load(at=1.0, running=7, waiting=0)
    assert endpoints[0].calls_elsewhere == 0


def test_a_conversation_stays_where_its_prefix_is():
    endpoints, picker = pool(8), a_picker()
    prefix = tuple(range(100, 108))
    first, sent = send(picker, endpoints, prompt_tokens=2000, prefix=prefix)
    picker.settle(first, sent, True, 0.0)
    for turn in range(1, 20):
        longer = prefix + tuple(range(turn))
        chosen, sent = send(picker, endpoints, prompt_tokens=2000 + 256 * turn, prefix=longer)
        assert chosen is first
        assert chosen.prefill_tokens <= 1.2 * (2000 - 8 * 256 + 256 * turn), (
            "what is cached is not booked as prefill"
        )
        picker.settle(first, sent, True, 0.0)


def test_a_single_blocks_hit_breaks_the_tie():
    endpoints, picker = pool(8), a_picker()
    first, sent = send(picker, endpoints, prompt_tokens=256, prefix=(1,))
    picker.settle(first, sent, True, 0.0)
    assert {picker.pick(call(prompt_tokens=300, prefix=(1,)), endpoints, 0.0) for _ in range(20)} == {first}


@pytest.mark.parametrize("blocks", [1, 8, 500])
def test_a_prefix_that_everybody_shares_does_not_pile_up_on_one_replica(blocks):
    endpoints, picker = pool(4), a_picker()
    prefix, tokens = tuple(range(blocks)), 256 * blocks
    held = []
    for _ in range(400):
        chosen, sent = send(picker, endpoints, prompt_tokens=tokens, prefix=prefix)
        picker.first_token(chosen, sent)
        held.append(sent)
        most, least = max(e.in_flight for e in endpoints), min(e.in_flight for e in endpoints)
        assert most <= 2 * least + CROWD + 1
    assert least > 50


def test_a_pool_of_one_needs_no_chance():
    (only,) = endpoints = pool(1)
    assert (
        Picker(PrefixIndex(), lambda n: pytest.fail("no chance needed")).pick(call(), endpoints, 0.0) is only
    )


# -- the books ------------------------------------------------------------------------------------------------

ENDS = st.lists(st.sampled_from(["first", "ok", "failed", "left", "moved"]), max_size=6)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9), ENDS), max_size=25), st.randoms())
def test_charges_return_to_nothing_however_calls_end(calls, order):
    endpoints, picker = pool(3), a_picker()
    running = []
    for tokens, blocks, ends in calls:
        _, sent = send(picker, endpoints, prompt_tokens=tokens, prefix=tuple(range(blocks)))
        running.append((sent, [*ends, order.choice(["ok", "failed", "left"])]))
    while running:
        sent, ends = order.choice(running)
        at, end = sent.charged_to, ends.pop(0)
        if not ends:
            running.remove((sent, ends))
        if at is None:
            continue
        if end == "first":
            picker.first_token(at, sent)
        elif end == "moved":  # charged elsewhere without having been settled
            picker.charge(order.choice(endpoints), sent)
        else:
            picker.settle(at, sent, {"ok": True, "failed": False, "left": None}[end], 0.0)
            picker.settle(at, sent, True, 0.0)  # said twice
    assert books(endpoints) == [(0, 0, 0, 0, 0, 0.0, 0.0)] * 3
    assert all(e.probe is None for e in endpoints)


class Fleet(RuleBasedStateMachine):
    """A pool under everything at once: the counters equal the calls that are there, and nobody is lost."""

    @initialize(size=st.integers(1, 4), seed=st.integers(0, 99))
    def begin(self, size, seed):
        self.endpoints, self.picker, self.now = pool(size), a_picker(seed), 0.0
        self.calls: list[Call] = []

    @rule(tokens=st.integers(0, 3000), blocks=st.integers(0, 4))
    def a_call_comes(self, tokens, blocks):
        sent = call(prompt_tokens=tokens, prefix=tuple(range(blocks)))
        try:
            chosen = self.picker.pick(sent, self.endpoints, self.now)
        except Refused:
            assert not any(e.takes_calls for e in self.endpoints)
            return
        assert chosen.takes_calls
        shut = [e for e in self.endpoints if e.takes_calls and e.breaker.shut_until > self.now]
        if chosen in shut:
            assert shut == [e for e in self.endpoints if e.takes_calls], "shut out while another was open"
        self.picker.charge(chosen, sent)
        self.calls.append(sent)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["first", True, False, False, False, None]))
    def a_call_goes_on(self, data, how):
        sent = data.draw(st.sampled_from(self.calls))
        at = sent.charged_to
        assert at is not None
        if how == "first":
            self.picker.first_token(at, sent)
        else:
            self.picker.settle(at, sent, how, self.now)
            self.calls.remove(sent)

    @rule(data=st.data(), ready=st.booleans(), draining=st.booleans())
    def the_fleet_changes(self, data, ready, draining):
        each = data.draw(st.sampled_from(self.endpoints))
        each.facts = endpoint(each.name, ready=ready, draining=draining).facts

    @rule(data=st.data(), running=st.integers(0, 9), kv=st.one_of(st.none(), st.floats(0, 1)))
    def an_engine_reports(self, data, running, kv):
        each = data.draw(st.sampled_from(self.endpoints))
        each.load = Load(at=self.now, running=running, waiting=running // 3, kv_used=kv)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def the_books_are_right(self):
        for each in getattr(self, "endpoints", []):
            there = [sent for sent in self.calls if sent.charged_to is each]
            assert each.in_flight == len(there)
            assert each.prefill_tokens == sum(sent.charged_tokens for sent in there)
            assert each.probe is None or each.probe in there
            assert (each.breaker.state is State.HALF_OPEN) <= (each.probe is not None)


TestFleet = Fleet.TestCase
