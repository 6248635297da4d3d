from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.limits import UNLIMITED, WINDOW_S, Limits, duration

ANN = Caller(key_id="ann")


def limits(*, share: float = 1.0, **limit) -> Limits:
    return Limits(RateLimit(**limit), share)


def admitted(book: Limits, tokens: int, now: float, caller: Caller = ANN):
    try:
        return book.hold(caller, tokens, now)
    except Refused as refused:
        return refused


# -- requests -------------------------------------------------------------------------------------------------


def test_a_minutes_worth_of_requests_at_once_and_the_next_when_it_is_due():
    book = limits(requests_per_minute=3)
    for _ in range(3):
        book.hold(ANN, 0, 100.0)
    refused = admitted(book, 0, 100.0)
    assert (refused.reason, refused.code) == (Reason.RATE_LIMITED, "rate_limit_exceeded")
    assert refused.message == (
        "Rate limit reached on requests per min (RPM): Limit 3, Requested 1. Please try again in 20s."
    )
    assert refused.retry_after_s == pytest.approx(20.0)
    assert isinstance(admitted(book, 0, 119.9), Refused)
    book.hold(ANN, 0, 100.0 + refused.retry_after_s)


def test_keys_do_not_share_a_limit():
    book = limits(requests_per_minute=1)
    book.hold(ANN, 0, 0.0)
    book.hold(Caller(key_id="bob"), 0, 0.0)
    assert isinstance(admitted(book, 0, 0.0), Refused)


def test_a_keys_own_limit_replaces_the_default():
    book = limits(requests_per_minute=1)
    for _ in range(5):
        book.hold(Caller(key_id="own", limit=RateLimit(requests_per_minute=5)), 0, 0.0)
    assert book.hold(Caller(key_id="free", limit=RateLimit()), 10**9, 0.0) is UNLIMITED


# -- calls at once --------------------------------------------------------------------------------------------


def test_calls_at_once_are_bounded_and_given_back_once():
    book = limits(concurrent=2)
    first, second = book.hold(ANN, 0, 0.0), book.hold(ANN, 0, 0.0)
    assert admitted(book, 0, 0.0).reason is Reason.TOO_MANY_AT_ONCE
    first.settle(0, 1.0)
    first.settle(0, 1.0)
    book.hold(ANN, 0, 1.0)
    assert admitted(book, 0, 1.0).reason is Reason.TOO_MANY_AT_ONCE
    second.settle(0, 1.0)


def test_a_refused_call_takes_nothing():
    book = limits(requests_per_minute=2, tokens_per_minute=100, concurrent=2)
    for _ in range(10):
        assert isinstance(admitted(book, 1000, 0.0), Refused)
    book.hold(ANN, 50, 0.0)
    assert isinstance(admitted(book, 51, 0.0), Refused)
    book.hold(ANN, 50, 0.0)


# -- tokens ---------------------------------------------------------------------------------------------------


def test_what_was_held_and_not_used_comes_back():
    book = limits(tokens_per_minute=1000)
    hold = book.hold(ANN, 1000, 0.0)
    refused = admitted(book, 100, 0.0)
    assert refused.retry_after_s == pytest.approx(6.0)
    assert "tokens per min (TPM): Limit 1000, Requested 100" in refused.message
    hold.settle(200, 0.0)
    book.hold(ANN, 800, 0.0)
    assert isinstance(admitted(book, 1, 0.0), Refused)


def test_what_was_used_beyond_the_hold_is_charged():
    book = limits(tokens_per_minute=1000)
    book.hold(ANN, 10, 0.0).settle(1500, 0.0)
    assert admitted(book, 1, 0.0).retry_after_s == pytest.approx(30.06)


def test_a_request_that_can_never_fit_is_told_so_and_not_to_wait():
    refused = admitted(limits(tokens_per_minute=1000), 1001, 0.0)
    assert refused.retry_after_s is None
    assert "Limit 1000, Requested 1001" in refused.message


def test_a_split_limit_does_not_forbid_what_the_limit_allows():
    book = limits(tokens_per_minute=1000, requests_per_minute=2, concurrent=2, share=0.25)
    book.hold(ANN, 1000, 0.0).settle(1000, 0.0)
    assert isinstance(admitted(book, 1, 179.0), Refused), "the debt is worked off at the worker's share"
    book.hold(ANN, 1, 181.0)


def test_time_does_not_pay_back_twice():
    book = limits(tokens_per_minute=1000)
    old = book.hold(ANN, 1000, 0.0)
    book.hold(ANN, 1000, 60.0)
    old.settle(0, 60.0)  # its debt is worked off already; the second's is not its to give back
    assert isinstance(admitted(book, 10, 60.0), Refused)


def test_a_refund_moves_up_the_debts_behind_it():
    book = limits(tokens_per_minute=1000)
    first, second = book.hold(ANN, 500, 0.0), book.hold(ANN, 500, 0.0)
    first.settle(0, 0.0)
    book.hold(ANN, 1000, 30.0)
    second.settle(0, 30.0)  # worked off by now, because the first no longer stood before it
    assert isinstance(admitted(book, 10, 30.0), Refused)


@pytest.mark.parametrize("error", [None, ValueError("engine failed")])
@pytest.mark.parametrize("used", [None, 300])
def test_a_hold_that_is_left_settles_itself(error, used):
    book = limits(tokens_per_minute=1000, concurrent=1)
    try:
        with book.hold(ANN, 1000, 0.0) as hold:
            hold.used = used
            if error:
                raise error
    except ValueError:
        pass
    taken = used if used is not None else 0 if error else 1000
    if taken < 1000:
        book.hold(ANN, 1000 - taken, 0.0).settle(1000 - taken, 0.0)
    assert isinstance(admitted(book, 1, 0.0), Refused)


# -- clocks, memory, other settings ---------------------------------------------------------------------------


def test_a_clock_that_steps_back_grants_nothing():
    book = limits(requests_per_minute=1, tokens_per_minute=10)
    book.hold(ANN, 10, 1000.0)
    for now in (999.0, 0.0, 900.0, -5.0, 1059.0, 0.0, 1059.9):
        assert isinstance(admitted(book, 1, now), Refused), now
    book.hold(ANN, 1, 1060.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 30)), max_size=60))
def test_calls_that_are_reported_late_and_out_of_order_grant_nothing(steps):
    """Each call is held, asked about and settled with times that lie some way back."""
    book, now, count = limits(requests_per_minute=6, tokens_per_minute=600), 0.0, 0
    for pause, late in steps:
        now += pause
        hold = admitted(book, 100, now - late)
        if not isinstance(hold, Refused):
            count += 1
            book.headers(hold, now - late)
            hold.settle(100, now)
    assert count <= 6 + 6 * now / WINDOW_S


def test_keys_that_owe_nothing_are_forgotten_and_others_are_not():
    book = limits(requests_per_minute=60)
    book.hold(Caller(key_id="runs"), 0, 0.0)
    for n in range(20_000):
        book.hold(Caller(key_id=f"k{n}"), 0, float(n)).settle(0, float(n))
    assert len(book) < 10
    assert "runs" in book._accounts


def test_forgetting_a_key_never_grants_more():
    forgetful, plain = limits(requests_per_minute=6), limits(requests_per_minute=6)
    random, now = Random(5), 0.0
    for n in range(3000):
        now += random.random() * 8
        forgetful.hold(Caller(key_id=f"noise{n}"), 0, now).settle(0, now)
        outcomes = [admitted(book, 0, now) for book in (forgetful, plain)]
        assert isinstance(outcomes[0], Refused) == isinstance(outcomes[1], Refused)
        for outcome in outcomes:
            if not isinstance(outcome, Refused):
                outcome.settle(0, now)


def test_new_settings_keep_what_keys_owe_and_what_is_held():
    book = limits(tokens_per_minute=1000)
    hold = book.hold(ANN, 1000, 0.0)
    book = book.with_default(RateLimit(tokens_per_minute=500), 0.5)
    assert isinstance(admitted(book, 10, 0.0), Refused)
    hold.settle(0, 0.0)
    book.hold(ANN, 250, 0.0)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_an_error_of_ours(share):
    with pytest.raises(ValueError, match="share"):
        Limits(RateLimit(), share)


# -- properties -----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.floats(0, 40),  # seconds that pass first
        st.integers(1, 700),  # tokens to hold
        st.floats(0, 1),  # share of them that is used in the end
        st.integers(0, 6),  # how many calls begin before this one ends
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS, st.integers(1, 9))
def test_no_stretch_of_time_sees_more_than_the_burst_and_what_the_rate_gives(steps, requests):
    """Counted as used at admission, in every window between two admissions, however calls interleave."""
    book = limits(requests_per_minute=requests, tokens_per_minute=1000)
    now, running, taken = 0.0, [], []
    for number, (pause, tokens, share, lasts) in enumerate(steps):
        now += pause
        for entry in [entry for entry in running if entry[0] <= number]:
            running.remove(entry)
            entry[1].settle(entry[2], now)
        hold = admitted(book, tokens, now)
        if not isinstance(hold, Refused):
            used = int(tokens * share)
            taken.append((now, used))
            running.append((number + 1 + lasts, hold, used))
    for first, (begin, _) in enumerate(taken):
        total = 0
        for count, (end, used) in enumerate(taken[first:], start=1):
            total += used
            gives = (end - begin) / WINDOW_S
            assert total <= 1000 + 1000 * gives + 0.1
            assert count <= requests + requests * gives + 0.001


@settings(max_examples=300)
@given(STEPS, st.booleans())
def test_settling_never_gives_back_more_than_holding_the_used_tokens_would_have_left(
    steps, time_stands_still
):
    """The same calls twice: held and settled, and held exactly. At one moment both then owe the same."""
    book, exact = limits(tokens_per_minute=10**6), limits(tokens_per_minute=10**6)
    now, running = 0.0, []
    for number, (pause, tokens, share, lasts) in enumerate(steps):
        now += 0.0 if time_stands_still else pause
        for entry in [entry for entry in running if entry[0] <= number]:
            running.remove(entry)
            entry[1].settle(entry[2], now)
        used = int(tokens * share) * 30
        running.append((number + 1 + lasts, book.hold(ANN, tokens * 30, now), used))
        exact.hold(ANN, used, now).settle(used, now)
    for _, hold, used in running:
        hold.settle(used, now)
    owed, least = (max(each._accounts["ann"].tokens_until - now, 0.0) for each in (book, exact))
    assert owed >= least - 1e-6
    assert owed <= least + 1e-6 or not time_stands_still


@settings(max_examples=300)
@given(STEPS, st.booleans())
def test_a_hold_that_grows_owes_what_one_made_so_large_would(steps, time_stands_still):
    """The same calls twice: held in two parts and settled, and held exactly as used."""
    book, exact = limits(tokens_per_minute=10**6), limits(tokens_per_minute=10**6)
    now, running = 0.0, []
    for number, (pause, tokens, share, lasts) in enumerate(steps):
        now += 0.0 if time_stands_still else pause
        for entry in [entry for entry in running if entry[0] <= number]:
            running.remove(entry)
            book.grow(entry[1], entry[3], now)
            entry[1].settle(entry[2], now)
        used = int(tokens * share) * 30
        first = book.hold(ANN, tokens * 7, now)
        if number % 2:
            book.grow(first, tokens * 30, now)
        running.append((number + 1 + lasts, first, used, tokens * 30))
        exact.hold(ANN, used, now).settle(used, now)
    for _, hold, used, _ in running:
        hold.settle(used, now)
    account = book._accounts["ann"]
    assert (account.in_flight, len(account.open)) == (0, 0)
    owed, least = (max(each._accounts["ann"].tokens_until - now, 0.0) for each in (book, exact))
    assert owed >= least - 1e-6
    assert owed <= least + 1e-6 or not time_stands_still


def test_a_hold_that_cannot_grow_is_as_it_was():
    book = limits(tokens_per_minute=1000)
    hold = book.hold(ANN, 100, 0.0)
    with pytest.raises(Refused, match="too large"):
        book.grow(hold, 1001, 0.0)
    other = book.hold(ANN, 800, 0.0)
    with pytest.raises(Refused, match="Rate limit reached"):
        book.grow(hold, 300, 0.0)
    other.settle(0, 0.0)
    book.grow(hold, 300, 0.0)
    hold.settle(250, 0.0)
    assert isinstance(admitted(book, 751, 0.0), Refused)
    book.hold(ANN, 750, 0.0)


def test_a_hundred_thousand_calls_with_aborts_leave_no_drift():
    book, random, now, running = limits(tokens_per_minute=60_000, concurrent=50), Random(1), 0.0, []
    for _ in range(100_000):
        now += random.random() / 50
        if running and random.random() < 0.5:
            hold = running.pop(random.randrange(len(running)))
            hold.settle(random.choice([0, hold.tokens, random.randrange(hold.tokens + 50)]), now)
        hold = admitted(book, random.randrange(1, 2000), now)
        if not isinstance(hold, Refused):
            running.append(hold)
    for hold in running:
        hold.settle(0, now)
    account = book._accounts["ann"]
    assert (account.in_flight, len(account.open)) == (0, 0)
    book.hold(ANN, 60_000, now + WINDOW_S)  # all of it is there again
    assert isinstance(admitted(book, 1, now + WINDOW_S), Refused)


# -- headers --------------------------------------------------------------------------------------------------


def test_headers_say_what_is_left_and_when_it_is_full_again():
    book = limits(requests_per_minute=10, tokens_per_minute=6000)
    hold = book.hold(ANN, 600, 0.0)
    assert dict(book.headers(hold, 0.0)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"6s",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"5400",
        b"x-ratelimit-reset-tokens": b"6s",
    }
    hold.settle(0, 1.0)
    assert dict(book.headers(hold, 10.0))[b"x-ratelimit-remaining-requests"] == b"10"


def test_callers_without_limits_get_no_headers():
    assert limits().headers(limits().hold(ANN, 5, 0.0), 0.0) == ()
    book = limits(concurrent=3)
    assert not book.headers(book.hold(ANN, 5, 0.0), 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"0s"),
        (0.012, b"12ms"),
        (1, b"1s"),
        (7.66, b"7.66s"),
        (20, b"20s"),
        (360, b"6m0s"),
        (61.5, b"1m1.5s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds, text):
    assert duration(seconds) == text
