"""Leases and holds: several workers against one store, in virtual time."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.refused import Reason, Refused
from gemstead.traffic.budget import Price, Rule, RuleBook, Selector, prompt_bound, terms
from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.hold import Accounts, Hold, Short, header_lines
from gemstead.traffic.window import Windows

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2
ANN = Caller(key_id="ann", tenant="acme", user="ann")
BOB = Caller(key_id="bob", tenant="acme", user="bob")


class Fleet:
    """Workers and their store. Its clock is `now`; wall time is noon plus that."""

    def __init__(self, rule: Rule, workers: int = 1, share: float = 0.01, **book) -> None:
        self.windows, self.now = Windows(), 0.0
        rules = RuleBook(rules=(rule,), **book)
        self.workers = [Accounts(f"w{n}", rules, RateLimit(), share) for n in range(workers)]
        self.away = False

    @property
    def wall(self) -> float:
        return NOON + self.now

    def tell(self, worker: Accounts) -> None:
        for _ in range(4):
            if (batch := worker.batch(self.now)) is None:
                return
            if self.away:
                worker.lost(batch)
                return
            worker.granted(batch, self.windows.apply(batch, self.now), self.now, self.wall)

    def call(self, worker: int = 0, caller: Caller = ANN, tokens: int = 1, bound: int = 1, money: int = 0):
        """A hold, or a refusal; asks the store like the gateway does."""
        mine = self.workers[worker]
        found, accounts = mine.terms(caller, "m")
        try:
            for _ in range(3):
                held = mine.hold(found, accounts, tokens, bound, money, self.now, self.wall)
                if isinstance(held, Hold):
                    return held
                mine.want(held, tokens, bound, money)
                self.tell(mine)
                self.now += 1e-6
        except Refused as refused:
            return refused
        return held

    def settle_all(self) -> None:
        for worker in self.workers:
            self.now += 2.0
            worker.sweep(self.now, self.wall)
            self.tell(worker)
            worker.sweep(self.now, self.wall)
            self.tell(worker)

    def used(self, name: str) -> int:
        return sum(s.used for s in self.windows.standings(self.now) if s.cap.name == name)


def rule(**more) -> Rule:
    return Rule(name="r", **more)


def test_a_budget_is_held_before_and_settled_after():
    fleet = Fleet(rule(tokens_per_day=1000))
    hold = fleet.call(bound=900)
    refused = fleet.call(bound=200)
    assert (refused.reason, refused.code, refused.kind) == (
        Reason.BUDGET_SPENT, "insufficient_quota", "insufficient_quota",
    )  # fmt: skip
    assert refused.retry_after_s == pytest.approx(DAY / 2, abs=1)
    hold.settle(100, 0, 50)
    hold.settle(100, 0, 50)
    fleet.now += 1.0
    assert isinstance(fleet.call(bound=850), Hold)
    assert isinstance(fleet.call(bound=1), Refused)


def test_a_new_day_begins_anew_and_what_was_held_before_it_does_not_come_back():
    fleet = Fleet(rule(tokens_per_day=1000))
    hold = fleet.call(bound=1000)
    fleet.now += DAY
    fleet.call(bound=600).settle(600, 0, 0)
    hold.settle(0, 0, 0)
    fleet.settle_all()
    assert fleet.used("tokens_per_day") == 600


def test_money_is_counted_by_its_price():
    fleet = Fleet(rule(money_per_month=10**9), prices={"m": Price(input=100, cached=10, output=400)})
    hold = fleet.call(money=10**9)
    hold.settle(1000, 500, 100)
    fleet.settle_all()
    assert fleet.used("money_per_month") == 500 * 100 + 500 * 10 + 100 * 400


def test_each_user_has_a_counter_of_its_own_and_the_tenant_one_for_all():
    each = Fleet(rule(select=Selector(tenant=("acme",), user=("*",)), tokens_per_day=100))
    assert isinstance(each.call(caller=ANN, bound=100), Hold)
    assert isinstance(each.call(caller=BOB, bound=100), Hold)
    together = Fleet(rule(select=Selector(tenant=("acme",)), tokens_per_day=100))
    assert isinstance(together.call(caller=ANN, bound=100), Hold)
    assert isinstance(together.call(caller=BOB, bound=100), Refused)
    others = Fleet(rule(select=Selector(tenant=("other",)), tokens_per_day=100))
    assert others.call(bound=10**9).parts == []


def test_all_rules_hold_and_a_refused_call_takes_nothing():
    book = RuleBook(rules=(Rule(name="a", requests_per_minute=10), Rule(name="b", tokens_per_day=100)))
    windows, worker = Windows(), Accounts("w", book, RateLimit(concurrent=2), 0.01)
    fleet = Fleet(rule(tokens_per_day=1))
    fleet.workers, fleet.windows = [worker], windows
    for _ in range(30):
        assert isinstance(fleet.call(bound=90), Hold | Refused)
    assert fleet.used("tokens_per_day") <= 100
    fleet.settle_all()
    assert fleet.used("requests_per_minute") <= 3


def test_a_call_larger_than_the_whole_limit_is_told_so():
    refused = Fleet(rule(tokens_per_day=100)).call(bound=101)
    assert "Request too large on tokens per day (rule r): Limit 100, Requested 101" in refused.message
    assert refused.retry_after_s is None


def test_slots_are_given_back_at_once_and_found_by_another_worker():
    fleet = Fleet(rule(concurrent=1), workers=2)
    hold = fleet.call(0)
    assert fleet.call(1).reason is Reason.TOO_MANY_AT_ONCE
    hold.settle(0, 0, 0)
    fleet.tell(fleet.workers[0])
    fleet.now += 0.1
    assert isinstance(fleet.call(1), Hold)


def test_a_key_with_one_connection_gets_its_whole_limit():
    """Everything comes to one of four workers: it is not held to a quarter."""
    fleet = Fleet(rule(requests_per_minute=100), workers=4)
    assert sum(isinstance(fleet.call(2), Hold) for _ in range(150)) == 100


@pytest.mark.parametrize("workers", [2, 4])
def test_gateways_share_one_rate_within_one_percent(workers):
    fleet, random, held = Fleet(rule(requests_per_minute=6000), workers=workers), Random(1), 0
    while fleet.now < 60.0:
        fleet.now += 1 / 400
        for worker in range(workers):
            if isinstance(fleet.call(worker), Hold):
                held += 1
            if random.random() < 0.02:
                fleet.workers[worker].sweep(fleet.now, fleet.wall)
                fleet.tell(fleet.workers[worker])
    most = 6000 + 6000 * fleet.now / 60
    assert 0.99 * most <= held <= most


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.sampled_from(["tokens_per_day", "tokens_per_minute", "requests_per_minute", "concurrent"]),
    st.randoms(use_true_random=False),
    st.floats(0.0, 0.5),
)
def test_never_more_than_the_limit_whoever_asks_when(workers, name, random, share):
    """Tokens used in all, counted when a call is let in, against what is allowed by then; aborts included."""
    limit = random.choice([3, 50, 1000])
    fleet = Fleet(rule(**{name: limit}), workers=workers, share=share)
    running, used, begun, count = [], 0, 0.0, 0
    for _ in range(80):
        fleet.now += random.choice([0.0, 0.01, 0.5, 5.0])
        worker = random.randrange(workers)
        units = random.randrange(1, max(limit // 2, 2))
        held = fleet.call(worker, tokens=units, bound=units)
        if isinstance(held, Hold):
            actual = random.choice([0, units, random.randrange(units + 1)])
            used, count = used + actual, count + 1
            running.append((held, actual))
        while running and random.random() < 0.6:
            hold, actual = running.pop(random.randrange(len(running)))
            hold.settle(actual, 0, 0)
        for mine in fleet.workers if random.random() < 0.3 or name == "concurrent" else ():
            mine.sweep(fleet.now, fleet.wall)
            fleet.tell(mine)
        earned = limit * (fleet.now - begun) / 60
        if name == "tokens_per_day":
            assert used <= limit
        elif name == "tokens_per_minute":
            assert used <= limit + earned + 1
        elif name == "requests_per_minute":
            assert count <= limit + earned + 1
        else:
            assert len(running) <= limit


@pytest.mark.parametrize("kind", ["tokens_per_day", "concurrent", "tokens_per_minute"])
def test_a_hundred_thousand_calls_with_aborts_leave_no_drift(kind):
    fleet, random, used = (
        Fleet(rule(**{kind: 10**9 if kind != "concurrent" else 300}), workers=2),
        Random(2),
        0,
    )
    running: deque = deque()
    for number in range(100_000):
        fleet.now += 0.0004
        held = fleet.call(number % 2, tokens=2000, bound=2000)
        if isinstance(held, Hold):
            if kind != "concurrent" and number % 5 == 0:  # it has become larger while it was held
                more = fleet.call(number % 2, tokens=300, bound=300)
                assert isinstance(more, Hold)
                more.first, held = held, more
            actual = random.choice([0, 2000, random.randrange(2500)])
            used += actual
            running.append((held, actual))
        if len(running) > 200 or (running and not isinstance(held, Hold)):
            hold, actual = running.popleft()
            hold.settle(actual, 0, 0)
        if number % 500 == 0:
            fleet.workers[number % 2].sweep(fleet.now, fleet.wall)
            fleet.tell(fleet.workers[number % 2])
    while running:
        hold, actual = running.popleft()
        hold.settle(actual, 0, 0)
    fleet.settle_all()
    if kind == "tokens_per_day":
        assert fleet.used(kind) == used
    elif kind == "concurrent":
        assert fleet.used(kind) == 0
    else:
        fleet.now += 60.0
        assert fleet.used(kind) == 0
    for worker in fleet.workers:
        assert all(a.held == 0 and a.holders == 0 and a.pool == 0 for a in worker.accounts.values())


def test_a_clock_that_steps_back_grants_nothing():
    fleet = Fleet(rule(requests_per_minute=5, tokens_per_day=50))
    for _ in range(5):
        fleet.call(bound=10)
    for step in (-100.0, -DAY, -40 * DAY):
        fleet.now = step
        assert isinstance(fleet.call(bound=1), Refused)


# -- the store is away ------------------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_and_nothing_counts_twice():
    fleet = Fleet(rule(tokens_per_day=1000))
    worker = fleet.workers[0]
    found, accounts = worker.terms(ANN, "m")
    short = worker.hold(found, accounts, 1, 300, 0, 0.0, fleet.wall)
    assert isinstance(short, Short)
    worker.want(short, 1, 300, 0)
    batch = worker.batch(0.0)
    fleet.windows.apply(batch, 0.0)  # done, but its answer is lost
    worker.lost(batch)
    again = worker.batch(0.1)
    assert again is batch
    worker.granted(again, fleet.windows.apply(again, 0.1), 0.1, fleet.wall)
    assert fleet.used("tokens_per_day") == 300
    assert accounts[0].pool == 300


def test_what_was_used_while_the_store_was_away_is_charged_when_it_is_back():
    fleet = Fleet(rule(tokens_per_day=1000))
    worker = fleet.workers[0]
    worker.free, fleet.away = True, True
    found, accounts = worker.terms(ANN, "m")
    for number in range(5):
        held = worker.hold(found, accounts, 1, 400, 0, fleet.now, fleet.wall)
        if isinstance(held, Short):
            assert worker.without_store(held, 1, 400, 0, fleet.now, fleet.wall, 1)
            held = worker.hold(found, accounts, 1, 400, 0, fleet.now, fleet.wall)
        held.settle(100, 0, 50 + number)
    fleet.away = False
    fleet.settle_all()
    assert fleet.used("tokens_per_day") == 5 * 150 + 10
    assert isinstance(fleet.call(bound=300), Refused)


def test_held_to_its_own_count_a_worker_gives_its_part():
    fleet = Fleet(rule(tokens_per_day=1000))
    worker = fleet.workers[0]
    worker.stand_in, got = Windows(), 0
    found, accounts = worker.terms(ANN, "m")
    for _ in range(20):
        short = worker.hold(found, accounts, 1, 100, 0, fleet.now, fleet.wall)
        if isinstance(short, Short) and not worker.without_store(short, 1, 100, 0, fleet.now, fleet.wall, 2):
            break
        got += isinstance(worker.hold(found, accounts, 1, 100, 0, fleet.now, fleet.wall), Hold)
    assert got == 5


# -- warnings, headers, bounds ------------------------------------------------------------------------------------


def test_a_budget_warns_once_at_80_and_once_at_100_percent():
    fleet = Fleet(rule(tokens_per_day=1000))
    for _ in range(30):
        fleet.call(bound=50)
    assert [one.level for one in fleet.workers[0].crossed] == [0.8, 1.0]


def test_headers_are_of_the_tightest_limit():
    book = RuleBook(rules=(Rule(name="a", requests_per_minute=10), Rule(name="b", requests_per_second=3)))
    worker, windows = Accounts("w", book, RateLimit(tokens_per_minute=6000), 0.01), Windows()
    fleet = Fleet(rule(tokens_per_day=1))
    fleet.workers, fleet.windows = [worker], windows
    fleet.call(tokens=600)
    fleet.call(tokens=600)
    lines = header_lines(worker.terms(ANN, "m")[1]).decode()
    assert "x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 1" in lines
    assert "x-ratelimit-limit-tokens: 6000\r\nx-ratelimit-remaining-tokens: 4800" in lines


def test_a_prompts_bound_does_not_count_the_letters_of_an_image():
    text = b'[{"role":"user","content":"hello"}]'
    assert len(text) <= prompt_bound(text) <= len(text) + 64
    image = (
        b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]}]'
    )
    assert prompt_bound(image % (b"A" * 1_000_000)) < 3000
    faked = b'[{"role":"user","content":"\\"url\\":\\"data:image/png;base64,%s\\" \\"image_url\\""}]'
    assert prompt_bound(faked % (b"A" * 100_000)) > 100_000


def test_the_smallest_bound_of_all_rules_holds():
    book = RuleBook(rules=(
        Rule(name="a", output_tokens=100, total_s=9.0), 
        Rule(name="b", output_tokens=50, on_output="refuse", total_s=30.0),
    ))  # fmt: skip
    found = terms(book, RateLimit(), ANN, "m")
    assert (found.output_tokens, found.clamps, found.total_s) == (50, False, 9.0)


@given(
    st.sampled_from([{"tokens_per_day": 10**6}, {"tokens_per_minute": 10**6}, {"concurrent": 10_000}]),
    st.lists(st.integers(1, 20), max_size=4),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.lists(st.integers(1, 20), max_size=6),
)
def test_a_limit_that_has_enough_left_refuses_nobody(limit, before, waiting, comers):
    """Also where some come while others wait for the store, and take what was there for those."""
    fleet = Fleet(rule(**limit), share=0.001)
    [mine] = fleet.workers
    found, accounts = mine.terms(ANN, "m")

    def ask(units):
        return mine.hold(found, accounts, units, units, units, fleet.now, fleet.wall)

    for units in before:
        fleet.call(tokens=units, bound=units).settle(0, 0, 0)
    fleet.now += 20.0
    short = [(units, held) for units in waiting if isinstance(held := ask(units), Short)]
    for units, held in short:
        mine.want(held, units, units, units)
    if (batch := mine.batch(fleet.now)) is None:
        return
    for units in comers:
        ask(units)
    mine.granted(batch, fleet.windows.apply(batch, fleet.now), fleet.now, fleet.wall)
    for units in [*waiting, *comers]:
        ask(units)  # raises nothing: it has what it needs, or asks again
