"""Prompts go where they ruin the fewest answers, the longest waits stay as they are, and nothing is left behind."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.interference import AIM_S, MOST, Writing
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.roster import Roster

TOKEN_S, STEP_S = 1e-4, 0.02


def writing(answers):
    """Answers as (first token at, tokens read there by then, expected tokens)."""
    made = Writing()
    for first_at, first_read, expected in answers:
        call = Call("m")
        call.first_at, call.first_read, call.expected_output = first_at, first_read, expected
        made.calls[call] = None
    return made


def look(made, now=0.0, read_tokens=0, coming=0.0, step_s=STEP_S, waiting=()):
    made.look(now, TOKEN_S, step_s, read_tokens, coming, dict.fromkeys(waiting), 0.0)
    return made


def test_nobody_loses_where_nobody_writes():
    assert look(writing([])).lost(10.0) == 0.0


def test_an_engine_that_is_too_slow_by_itself_has_nothing_to_lose():
    assert look(writing([(0.0, 0, 200.0)]), step_s=AIM_S).lost(1.0) == 0.0


def test_what_stood_still_for_too_long_is_lost_already_and_what_hardly_did_is_not_at_risk():
    on_the_brink = look(writing([(0.0, 0, 100.0)]), now=0.0)
    hopeless = look(writing([(0.0, 0, 100.0)]), now=30.0, read_tokens=250_000)
    safe = look(writing([(0.0, 0, 100.0)]), now=8.0)
    assert on_the_brink.lost(0.5) > 4 * hopeless.lost(0.5)
    assert on_the_brink.lost(0.5) > 4 * safe.lost(0.5)


def test_short_answers_are_the_first_to_be_lost():
    short, long = look(writing([(0.0, 0, 20.0)])), look(writing([(0.0, 0, 2000.0)]))
    assert short.lost(0.3) > 5 * long.lost(0.3)


def waiting(*prompts, at=0.0, expected=20.0):
    """Calls without a first token, by the tokens of their prompts, the oldest first."""
    made = []
    for tokens in prompts:
        call = Call("m")
        call.charged_at, call.charged_tokens, call.expected_output = at, tokens, expected
        made.append(call)
    return made


def test_answers_that_have_not_begun_can_be_lost_too_those_behind_which_nothing_waits_first():
    last = look(writing([]), coming=1000.0, waiting=waiting(1000))
    followed = look(writing([]), coming=10_000.0, waiting=waiting(1000, 9000, expected=2.0))
    assert last.lost(0.3) > 0.3
    assert followed.at_risk < 1.5  # the first stands still for 0.9 s in any case


def test_answers_whose_first_token_comes_too_late_cannot_be_lost():
    in_time = look(writing([]), coming=15_000.0, waiting=waiting(15_000))
    too_late = look(writing([]), coming=25_000.0, waiting=waiting(25_000))
    old = look(writing([]), now=3.0, coming=1000.0, waiting=waiting(1000, at=0.0))
    assert in_time.lost(0.3) > 0.3
    assert too_late.lost(0.3) == old.lost(0.3) == 0.0


ANSWERS = st.lists(
    st.tuples(st.floats(0, 50), st.integers(0, 10**6), st.floats(0, 5000)), min_size=1, max_size=MOST + 20
)


@given(ANSWERS, st.floats(0, 100), st.integers(0, 10**6), st.floats(0, 20), st.floats(0, 20))
def test_more_reading_never_costs_less_and_never_more_than_all(answers, after, read, less_s, more_s):
    made = look(writing(answers), 50.0 + after, 10**6 + read)
    low, high = sorted((less_s, more_s))
    assert 0.0 <= made.lost(low) <= made.lost(high) <= min(len(answers), MOST)


# -- in the picker --------------------------------------------------------------------------------------------


def pool(size):
    return Roster(
        Endpoint(
            EndpointFacts(
                name=f"e{n}",
                pool="m",
                host="127.0.0.1",
                port=1,
                prefill_tokens_s=10_000.0,
                decode_step_s=0.02,
            )
        )
        for n in range(size)
    )


def send(picker, endpoints, now, tokens):
    call = Call("m", prompt_tokens=tokens)
    chosen = picker.pick(call, endpoints, now)
    picker.charge(chosen, call)
    return chosen, call


def answer(picker, endpoints, endpoint, count, now=0.0):
    """So many answers are begun there."""
    for _ in range(count):
        call = Call("m", prompt_tokens=10)
        picker.pick(call, endpoints, now)
        picker.charge(endpoint, call)
        picker.first_token(endpoint, call, now)


def test_a_long_prompt_leaves_the_engine_in_peace_whose_answers_can_still_be_good():
    """One has few answers, all on the brink; the other has more, and those have stood still for so long that they
    are lost."""
    endpoints, picker = pool(2), Picker(PrefixIndex(), Random(1).randrange)
    for _ in range(200):
        picker.lengths.learn("m", "default", 60)
    lost, good = endpoints
    answer(picker, endpoints, lost, 12)
    lost.read_tokens += 200_000  # 20 s of others' prompts
    answer(picker, endpoints, good, 8, now=20.0)
    assert send(picker, endpoints, 20.01, 3000)[0] is lost


def test_the_longest_waits_stay_as_they_are():
    """Where nearly all wait for less, nobody is made to wait for others' sake."""
    endpoints, picker = pool(2), Picker(PrefixIndex(), Random(1).randrange)
    for _ in range(200):
        picker.lengths.learn("m", "default", 30)
    busy, quiet = endpoints
    call = Call("m", prompt_tokens=8000)
    picker.pick(call, endpoints, 0.0)
    picker.charge(busy, call)  # 0.8 s of reading
    answer(picker, endpoints, quiet, 40, now=0.0)
    endpoints.late_s = 0.05
    assert send(picker, endpoints, 0.0, 1000)[0] is quiet
    endpoints.late_s = 5.0
    assert send(picker, endpoints, 0.0, 1000)[0] is busy


def test_the_bound_for_the_longest_waits_does_not_move_with_the_waits_that_it_allows():
    endpoints, picker = pool(2), Picker(PrefixIndex(), Random(1).randrange)
    for _ in range(200):
        picker.lengths.learn("m", "default", 30)
    busy, quiet = endpoints
    long = Call("m", prompt_tokens=5000)
    picker.pick(long, endpoints, 0.0)
    picker.charge(busy, long)
    answer(picker, endpoints, quiet, 40)
    endpoints.late_s = 1.0
    found = []
    for _ in range(1500):
        chosen, call = send(picker, endpoints, 0.0, 1000)
        picker.settle(chosen, call, None, 0.0)
        found.append(chosen)
    assert found[0] is busy  # for the sake of forty answers
    assert endpoints.late_s < 0.3  # but nobody has to wait for half a second
    assert found[-1] is quiet


@given(st.lists(st.sampled_from(["first", "ok", "failed", "left"]), max_size=6), st.booleans())
def test_nothing_is_left_however_a_call_ends(ends, streams):
    endpoints, picker = pool(2), Picker(PrefixIndex(), Random(1).randrange)
    call = Call("m", prompt_tokens=2000, streams=streams)
    chosen = picker.pick(call, endpoints, 0.0)
    picker.charge(chosen, call)
    for end in [*ends, "left"]:
        if end == "first":
            picker.first_token(chosen, call, 1.0)
        else:
            picker.settle(chosen, call, {"ok": True, "failed": False, "left": None}[end], 2.0)
    assert all(not endpoint.writing.calls for endpoint in endpoints)


@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_how_long_few_calls_wait_is_learned(seconds):
    endpoints, picker = pool(2), Picker(PrefixIndex(), Random(1).randrange)
    for n in range(400):
        chosen, call = send(picker, endpoints, 100.0 * n, int(seconds * 10_000))
        picker.settle(chosen, call, None, 100.0 * n + 50.0)
    assert seconds / 1.5 < endpoints.late_s < seconds * 2.0
