"""Calls that wait for the store of limits: none waits while what it needs is there."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemstead.gateway
from gemstead.gateway.settings import GatewaySettings
from gemstead.refused import Refused
from gemstead.traffic.budget import Rule, RuleBook
from gemstead.traffic.caller import Caller
from gemstead.traffic.window import Windows

# Where the gateway is compiled its classes take no pretend exchange, so these tests read the source itself.
found = spec_from_file_location("allowances", Path(gemstead.gateway.__path__[0]) / "allowances.py")
assert found is not None
assert found.loader is not None
allowances = module_from_spec(found)
found.loader.exec_module(allowances)
Allowances, Need, Waiting = allowances.Allowances, allowances.Need, allowances.Waiting

ANN = Caller(key_id="ann", tenant="acme", user="ann")


class Loop:
    """Timers that fire when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, after_s, what, *arguments):
        self.timers.append(timer := Timer(what, arguments))
        return timer

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            if not timer.cancelled:
                timer.what(*timer.arguments)


class Timer:
    def __init__(self, what, arguments) -> None:
        self.what, self.arguments, self.cancelled = what, arguments, False

    def cancel(self) -> None:
        self.cancelled = True


class Call:
    """As much of an exchange as waiting takes."""

    def __init__(self) -> None:
        self.done = False
        self.allowed = None
        self.refusal: Refused | None = None
        self.runs = False

    def allowed_in(self) -> None:
        self.runs = True

    def turned_away(self, refusal: Refused) -> None:
        self.refusal, self.done = refusal, True


class Worker:
    """One worker, and a store that answers when the test says so."""

    def __init__(self, share: float = 0.25, **limits) -> None:
        book = RuleBook(rules=(Rule(name="r", **limits),))
        self.loop, self.windows = Loop(), Windows()
        self.asked: list = []
        said = GatewaySettings(rulebook=book)
        self.allowances = Allowances(self.loop, "w", said, lambda *asked: self.asked.append(asked))
        self.calls: list[Call] = []

    def arrive(self, units: int) -> None:
        call = Call()
        found, accounts = self.allowances.accounts.terms(ANN, "m")
        self.calls.append(call)
        try:
            call.runs = self.allowances.decide(call, Need(found, accounts, units, units, 0), Waiting)
        except Refused as refusal:
            call.turned_away(refusal)

    def answer(self) -> None:
        if self.asked:
            batch, answered = self.asked.pop(0)
            answered(self.windows.apply(batch, monotonic()))

    def end(self) -> None:
        """The call that has run longest ends."""
        for call in self.calls:
            if call.runs and not call.done:
                call.done = True
                call.allowed.settle(0, 0, 0)
                return

    def come_to_rest(self) -> None:
        for _ in range(50):
            if not self.asked and not self.loop.timers:
                return
            self.answer()
            self.loop.fire()

    @property
    def waiting(self) -> int:
        return sum(not call.runs and not call.done for call in self.calls)


@pytest.mark.parametrize("earlier", [0, 5])
def test_calls_that_come_together_find_every_slot_of_a_limit(earlier):
    """Also when callers before them have just left. Nobody has to wait for another's end."""
    worker = Worker(concurrent=5)
    for _ in range(earlier):
        worker.arrive(1)
    worker.come_to_rest()
    for _ in range(earlier):
        worker.end()
    worker.come_to_rest()
    worker.calls.clear()
    for _ in range(5):
        worker.arrive(1)
    worker.come_to_rest()
    assert [call.runs for call in worker.calls] == [True] * 5


LIMITS = [{"concurrent": 4}, {"tokens_per_day": 400}, {"tokens_per_minute": 400}, {"requests_per_day": 30}]
EVENTS = st.one_of(st.integers(1, 60), st.just("answer"), st.just("fire"), st.just("end"))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(LIMITS), st.lists(EVENTS, max_size=40))
def test_whatever_happens_in_which_order_nobody_waits_on_when_the_store_has_answered(limit, events):
    worker = Worker(**limit)
    for event in events:
        if event == "answer":
            worker.answer()
        elif event == "fire":
            worker.loop.fire()
        elif event == "end":
            worker.end()
        else:
            worker.arrive(event)
    worker.come_to_rest()
    assert worker.waiting == 0, "each runs or was turned away"
