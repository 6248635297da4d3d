from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.season import WEEK, Hours, Outlook, Season, planned


def test_an_hour_is_expected_to_be_as_it_was():
    season = Season()
    for calls in (10.0, 20.0):
        season.learn(9, calls)
    assert season.expect(9) == 15.0
    assert season.expect(9 + WEEK) == 15.0


def test_old_weeks_are_forgotten():
    season = Season()
    for calls in [100.0] * 10 + [10.0] * 12:
        season.learn(0, calls)
    assert season.expect(0) < 15.0


def test_a_day_that_was_never_seen_is_taken_for_its_like():
    season = Season()
    season.learn(0 * 24 + 9, 30.0)  # Monday at nine
    season.learn(1 * 24 + 9, 50.0)
    assert season.expect(4 * 24 + 9) == 40.0
    assert season.expect(5 * 24 + 9) == 0.0, "Saturday is no workday"


def days(outlook: Outlook, count: int, calls, every_h: float = 0.1) -> float:
    """Look at days one after the other, from Monday on; the hour at the end."""
    steps = int(count * 24 / every_h)
    for number in range(steps):
        at = number * every_h
        outlook.look(at % WEEK, calls(at % 24))
    return steps * every_h % WEEK


def office(hour: float) -> float:
    return 40.0 if 8 <= hour < 18 else 0.0


def test_what_comes_at_eight_is_foreseen_shortly_before():
    outlook = Outlook()
    night = days(outlook, 2, office)
    assert outlook.foresee(night + 7.0, 0.5) == 0.0
    assert outlook.foresee(night + 7.8, 0.5) == pytest.approx(40.0, rel=0.1)


def test_on_a_holiday_little_is_expected_after_an_hour():
    outlook = Outlook()
    night = days(outlook, 2, office)
    for minute in range(0, 60 * 3, 2):
        outlook.look(night + 7.0 + minute / 60, 0.0)
    assert outlook.foresee(night + 10.0, 0.1) < 8.0


def test_a_busy_day_is_expected_to_go_on_busy():
    outlook = Outlook()
    night = days(outlook, 2, office)
    for minute in range(0, 60 * 3, 2):
        outlook.look(night + 8.0 + minute / 60, 60.0)
    assert outlook.foresee(night + 11.0, 0.1) == pytest.approx(60.0, rel=0.1)


def test_nothing_is_foreseen_where_nothing_was_seen():
    outlook = Outlook()
    for minute in range(30):
        outlook.look(minute / 60, 12.0)
        assert outlook.foresee(minute / 60, 0.5) == 0.0


def test_hours_that_nobody_watched_teach_nothing():
    outlook = Outlook()
    outlook.look(1.0, 50.0)
    for at in (7.4, 7.7, 7.95, 8.1):
        outlook.look(at, 50.0)
    assert [outlook.season.expect(hour) for hour in range(24)] == pytest.approx(
        [0.0] * 7 + [50.0] + [0.0] * 16
    )


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0, 1e4)), max_size=80), st.floats(0, 24))
def test_whatever_is_seen_no_more_is_foreseen_than_twice_the_most(steps, ahead_h):
    outlook, at, most = Outlook(), 0.0, 0.0
    for passed_h, calls in steps:
        at = (at + passed_h) % WEEK
        outlook.look(at, calls)
        most = max(most, calls)
        assert 0.0 <= outlook.foresee(at, ahead_h) <= 2.0 * most + 1e-6


# -- the calendar ---------------------------------------------------------------------------------------------

OFFICE = Hours((0, 1, 2, 3, 4), 8.0, 18.0, 3)


@pytest.mark.parametrize(
    ("week_h", "ahead_h", "replicas"),
    [
        (7.0, 0.5, 0),
        (7.6, 0.5, 3),
        (8.0, 0.0, 3),
        (17.9, 0.0, 3),
        (18.0, 0.0, 0),
        (5 * 24 + 9, 0.5, 0),
        (167.9, 8.5, 3),
    ],
)
def test_the_calendar_counts_from_the_time_to_start_before(week_h, ahead_h, replicas):
    assert planned([OFFICE], week_h, ahead_h) == replicas


def test_hours_over_midnight_and_whole_days():
    assert planned([Hours((6,), 22.0, 6.0, 2)], 3.0, 0.0) == 2, "Sunday's night is Monday's morning"
    assert planned([Hours((6,), 22.0, 6.0, 2)], 7.0, 0.0) == 0
    assert planned([Hours((2,), 0.0, 24.0, 5), OFFICE], 2 * 24 + 9.0, 0.0) == 5
