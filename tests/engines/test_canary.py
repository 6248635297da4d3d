"""Judging a release: what must be seen, what must not, and how often chance may fool us."""

from __future__ import annotations

from math import log
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemstead.engines.canary import LEAST_BASELINE, TESTS, Outcome, Tolerance, judge, upper, wealth
from gemstead.observe.names import ENDPOINT_FIRST_TOKEN

BOUNDS = ENDPOINT_FIRST_TOKEN.buckets
PLAIN = Tolerance()


def histogram(seconds):
    counts = [0] * (len(BOUNDS) + 1)
    for one in seconds:
        counts[sum(bound < one for bound in BOUNDS)] += 1
    return tuple(counts)


def lognormal(chance, count, median_s, spread=0.5):
    return histogram(median_s * chance.lognormvariate(0, spread) for _ in range(count))


def test_an_old_release_without_faults_and_a_new_one_that_only_fails():
    old = Outcome(served=400)
    found = next(n for n in range(1, 50) if judge(Outcome(failed=n), old, BOUNDS, PLAIN).bad)
    assert found <= 5, "five failures in a row are no accident"
    assert judge(Outcome(failed=found), old, BOUNDS, PLAIN).bad == (
        f"{found} of {found} calls failed (the old release: 0 of 400)"
    )


def test_one_failure_is_no_proof_and_a_failing_baseline_excuses():
    assert not judge(Outcome(served=3, failed=1), Outcome(served=400), BOUNDS, PLAIN).bad
    assert not judge(Outcome(served=50, failed=50), Outcome(served=200, failed=200), BOUNDS, PLAIN).bad
    assert judge(Outcome(served=20, failed=80), Outcome(served=200, failed=200), BOUNDS, PLAIN).bad


def test_a_release_without_a_baseline_is_judged_by_its_errors_alone():
    slow = histogram([9.0] * 100)
    assert not judge(Outcome(served=100, first_token=slow), Outcome(), BOUNDS, PLAIN).bad
    assert judge(Outcome(failed=10), Outcome(), BOUNDS, PLAIN).bad


@pytest.mark.parametrize("field", ["first_token", "per_token"])
def test_three_times_as_slow_is_seen_within_some_dozen_calls(field):
    chance = Random(5)
    old = Outcome(served=300, **{field: lognormal(chance, 300, 0.2)})
    new = Outcome(served=60, **{field: lognormal(chance, 60, 0.6)})
    assert "more than" in judge(new, old, BOUNDS, PLAIN).bad
    alike = Outcome(served=60, **{field: lognormal(chance, 60, 0.2)})
    assert judge(alike, old, BOUNDS, PLAIN) == judge(alike, old, BOUNDS, PLAIN)
    assert not judge(alike, old, BOUNDS, PLAIN).bad


def test_a_slower_tail_is_seen_too():
    chance = Random(6)
    old = Outcome(served=300, first_token=lognormal(chance, 300, 0.1))
    mixed = [0.1 * chance.lognormvariate(0, 0.5) for _ in range(70)] + [5.0] * 40
    assert judge(Outcome(served=110, first_token=histogram(mixed)), old, BOUNDS, PLAIN).bad


def test_milliseconds_that_nobody_sees_are_no_reason():
    old = Outcome(served=300, first_token=histogram([0.002] * 300))
    new = Outcome(served=100, first_token=histogram([0.015] * 100))
    assert not judge(new, old, BOUNDS, PLAIN).bad


def test_good_takes_as_many_calls_as_was_asked_for():
    old = Outcome(served=300)
    assert not judge(Outcome(served=19), old, BOUNDS, PLAIN).enough
    assert judge(Outcome(served=20), old, BOUNDS, PLAIN).enough


def test_a_young_baseline_has_no_times():
    old = Outcome(served=5, first_token=histogram([0.01] * (LEAST_BASELINE - 1)))
    assert not judge(Outcome(served=90, first_token=histogram([9.0] * 90)), old, BOUNDS, PLAIN).bad


def test_looking_after_every_call_calls_few_good_releases_bad():
    """Ville's bound, tried: 400 releases that fail exactly as often as is allowed, looked at 300 times each."""
    chance, alarm = Random(11), 0.05
    fooled = 0
    for _ in range(400):
        heads, worst = 0, 0.0
        for tosses in range(1, 301):
            heads += chance.random() < 0.1
            worst = max(worst, wealth(heads, tosses, 0.1))
        fooled += worst >= -log(alarm)
    assert fooled / 400 <= alarm


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.0, 1.0))
@example(0, 1, 0.9999999999999999)  # where what is above it rounds to 1
def test_more_failures_never_look_better(failed, served, share0):
    assert wealth(failed + 1, served + failed + 1, share0) >= wealth(failed, served + failed + 1, share0)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_upper_end_is_above_the_share(heads, more):
    tosses = heads + more
    assert heads / tosses <= upper(heads, tosses) <= 1.0


def test_every_test_is_counted():
    assert TESTS == 5
