from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gemstead.traffic.breaker import (
    CLOSED,
    FAILURES_TO_OPEN,
    FIRST_BACKOFF_S,
    MOST_BACKOFF_S,
    PROBE_S,
    Breaker,
    Event,
    State,
    step,
)


def after(*events: Event, breaker: Breaker = CLOSED, now: float = 0.0) -> Breaker:
    for event in events:
        breaker = step(breaker, event, now)
    return breaker


FAILING = [Event.FAILED] * FAILURES_TO_OPEN


def test_five_failures_in_a_row_open_it_and_four_do_not():
    assert after(*FAILING[1:]).state is State.CLOSED
    assert after(*FAILING) == Breaker(State.OPEN, 0, 1, FIRST_BACKOFF_S)


def test_a_success_between_failures_starts_the_count_again():
    assert after(*FAILING[1:], Event.SUCCEEDED, *FAILING[1:]).state is State.CLOSED


def test_first_tokens_alone_do_not_excuse_answers_that_break_off():
    assert after(*[Event.ANSWERED, Event.FAILED] * FAILURES_TO_OPEN).state is State.OPEN


def test_an_engine_that_answers_and_always_breaks_off_is_kept_away_for_longer_each_time():
    once = after(*FAILING, Event.TRY, Event.ANSWERED, *FAILING)
    assert once.shut_until == 2 * FIRST_BACKOFF_S


@pytest.mark.parametrize("late", [Event.FAILED, Event.SUCCEEDED, Event.ANSWERED, Event.PROBE_FAILED])
def test_what_old_calls_report_to_an_open_breaker_is_not_news(late):
    opened = after(*FAILING)
    assert step(opened, late, 0.5) == opened


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.ANSWERED, State.CLOSED),
        (Event.SUCCEEDED, State.CLOSED),
        (Event.PROBE_FAILED, State.OPEN),
        (Event.PROBE_LEFT, State.OPEN),
        (Event.FAILED, State.HALF_OPEN),
    ],
)
def test_the_probe_decides(event, state):
    assert after(*FAILING, Event.TRY, event).state is state


def test_a_probe_whose_client_left_makes_room_for_the_next_at_once():
    assert after(*FAILING, Event.TRY, Event.PROBE_LEFT, now=9.0).shut_until == 9.0


def test_a_silent_probe_is_followed_by_another():
    assert after(*FAILING, Event.TRY, now=9.0).shut_until == 9.0 + PROBE_S


class Breakers(RuleBasedStateMachine):
    """Against a model that keeps the whole history instead of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now = CLOSED, 0.0
        self.in_a_row = self.probes_failed = 0

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.breaker.state is State.CLOSED)
    @rule(event=st.sampled_from([Event.FAILED, Event.SUCCEEDED, Event.ANSWERED]))
    def a_call_reports(self, event):
        self.breaker = step(self.breaker, event, self.now)
        self.in_a_row = {Event.FAILED: self.in_a_row + 1, Event.SUCCEEDED: 0}.get(event, self.in_a_row)
        assert (self.breaker.state is State.OPEN) == (self.in_a_row >= FAILURES_TO_OPEN)
        if event is Event.SUCCEEDED:
            self.probes_failed = 0
        if self.breaker.state is State.OPEN:
            self.opened()

    @precondition(lambda self: self.breaker.state is not State.CLOSED)
    @rule(event=st.sampled_from([Event.FAILED]))
    def an_old_call_reports_a_failure(self, event):
        assert step(self.breaker, event, self.now) == self.breaker

    @precondition(lambda self: self.breaker.state is State.OPEN and self.now >= self.breaker.shut_until)
    @rule()
    def a_probe_is_sent(self):
        self.breaker = step(self.breaker, Event.TRY, self.now)
        assert self.breaker.state is State.HALF_OPEN
        assert self.breaker.shut_until > self.now, "a second call does not follow the first"

    @precondition(lambda self: self.breaker.state is State.HALF_OPEN)
    @rule(event=st.sampled_from([Event.ANSWERED, Event.SUCCEEDED, Event.PROBE_FAILED, Event.PROBE_LEFT]))
    def the_probe_reports(self, event):
        self.breaker = step(self.breaker, event, self.now)
        if event is Event.PROBE_FAILED:
            self.opened()
        elif event is not Event.PROBE_LEFT:
            assert self.breaker.state is State.CLOSED
            self.in_a_row = 0
            if event is Event.SUCCEEDED:
                self.probes_failed = 0

    def opened(self) -> None:
        wait_s = self.breaker.shut_until - self.now
        assert wait_s == pytest.approx(min(FIRST_BACKOFF_S * 2**self.probes_failed, MOST_BACKOFF_S))
        self.in_a_row = 0
        self.probes_failed += 1

    @invariant()
    def it_is_never_shut_for_good(self):
        assert self.breaker.shut_until - self.now <= max(MOST_BACKOFF_S, PROBE_S) + 1e-6


TestBreakers = Breakers.TestCase
