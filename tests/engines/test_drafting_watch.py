"""A drafter that does not pay is lowered or switched off, and one of other weights is told at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.engines.drafting_watch import WINDOW_S, Seen, Verdict, begin, step


def windows(depth: int, shares: list[float], p99: list[float] | None = None, running: float = 8):
    state, drafted, kept, now = begin(depth), 0.0, 0.0, 0.0
    state = step(state, Seen(0, 0, p99[0] if p99 else None, running), now)
    for number, share in enumerate(shares):
        now += WINDOW_S
        drafted, kept = drafted + 10_000, kept + 10_000 * share
        state = step(state, Seen(drafted, kept, p99[number + 1] if p99 else None, running), now)
    return state


@pytest.mark.parametrize(
    ("depth", "shares", "verdict", "to"),
    [
        (4, [0.7, 0.7], Verdict.KEEP, 4),
        (4, [0.002], Verdict.WRONG_PAIR, 0),  # vllm-project/vllm#41789, at the first window
        (4, [0.199], Verdict.WRONG_PAIR, 0),
        (4, [0.25], Verdict.WATCHING, 4),  # once is not enough
        (4, [0.25, 0.25], Verdict.OFF, 0),
        (4, [0.40, 0.40], Verdict.LOWER, 2),
        (5, [0.40, 0.60, 0.40], Verdict.KEEP, 5),
        (1, [0.40, 0.40], Verdict.KEEP, 1),
        (0, [0.0, 0.0], Verdict.WATCHING, 0),
    ],
)
def test_what_is_kept_decides(depth, shares, verdict, to):
    state = windows(depth, shares)
    assert (state.verdict, state.to, state.alert) == (verdict, to, verdict is Verdict.WRONG_PAIR)


def test_slow_answers_lower_it_unless_the_load_grew():
    assert windows(4, [0.7, 0.7], [0.02, 0.04, 0.04]).verdict is Verdict.LOWER
    assert windows(4, [0.7, 0.7], [0.02, 0.025, 0.025]).verdict is Verdict.KEEP
    quiet = step(begin(4), Seen(0, 0, 0.02, 4), 0.0)
    for number in (1, 2):
        quiet = step(quiet, Seen(10_000 * number, 7_000 * number, 0.04, 40), WINDOW_S * number)
    assert quiet.verdict is Verdict.KEEP


def test_few_tokens_say_nothing_and_a_restart_begins_anew():
    state = step(begin(4), Seen(0, 0), 0.0)
    assert step(state, Seen(100, 0), 10 * WINDOW_S).verdict is Verdict.WATCHING
    late = step(step(state, Seen(9_000, 8_000), 10.0), Seen(5, 0), 20.0)
    assert late.first == state.first or late.verdict is Verdict.WATCHING


@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.floats(0, 5_000), st.floats(0, 1), st.floats(0, 900)), max_size=40),
)
def test_a_depth_is_never_raised(depth, course):
    state, drafted, kept, now = begin(depth), 0.0, 0.0, 0.0
    for more, share, wait in course:
        drafted, kept, now = drafted + more, kept + more * share, now + wait
        state = step(state, Seen(drafted, kept), now)
        assert 0 <= state.to <= depth
        assert (state.to == depth) or state.verdict is not Verdict.KEEP
