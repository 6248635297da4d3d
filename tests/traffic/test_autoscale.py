from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.autoscale import Scaling, Seen, State, step

PACE = Scaling(least=1, most=10, replica_tokens=1000.0, down_window_s=300.0)


def follow(scaling: Scaling, tokens, replicas: int = 1, every_s: float = 15.0, **more) -> list[int]:
    """What is wanted over time, when it is carried out at once; `tokens` in flight at each step."""
    state, wanted = State(), []
    for number, in_flight in enumerate(tokens):
        seen = Seen(replicas=replicas, running_tokens=in_flight, running_calls=int(in_flight > 0), **more)
        state, replicas = step(scaling, state, seen, number * every_s)
        wanted.append(replicas)
    return wanted


def test_load_is_divided_by_what_a_replica_should_carry():
    assert follow(PACE, [3200.0] * 4)[-1] == 4


def test_at_most_doubled_at_a_time():
    assert follow(PACE, [8000.0] * 5) == [2, 4, 8, 10, 10]


def test_up_once_it_was_wanted_for_the_whole_window_from_the_first_look_on():
    scaling = Scaling(least=1, most=10, replica_tokens=1000.0, up_window_s=30.0)
    assert follow(scaling, [1600.0] * 4) == [1, 1, 2, 2]
    assert set(follow(scaling, [1600.0, 100.0] * 10)) == {1}


def test_a_little_more_or_less_changes_nothing():
    assert set(follow(PACE, [1600.0, 1740.0, 1460.0] * 40, replicas=2)) == {2}


def test_a_dip_does_not_cost_a_replica_and_a_lull_costs_one_at_a_time():
    down = follow(PACE, [3200.0] * 30 + [100.0] * 19 + [3200.0] * 5, replicas=4)
    assert set(down) == {4}
    down = follow(PACE, [3200.0] * 30 + [100.0] * 40, replicas=4)
    assert down[30 + 20] >= 3
    assert all(a - b <= 1 for a, b in itertools.pairwise(down))
    assert down[-1] == 1


def test_calls_that_wait_count_and_keep_replicas():
    assert follow(PACE, [800.0] * 3, replicas=1, waiting_tokens=2400.0, waiting_calls=3)[-1] == 4
    assert set(follow(PACE, [10.0] * 60, replicas=3, waiting_calls=1)) == {3}


def test_late_first_tokens_ask_for_more():
    scaling = Scaling(least=1, most=10, replica_tokens=1e9, ttft_s=2.0)
    assert follow(scaling, [10.0] * 2, replicas=2, ttft_s=3.0)[0] == 3
    assert follow(scaling, [10.0] * 2, replicas=2, ttft_s=200.0)[0] == 4


def test_a_forecast_starts_replicas_before_they_are_needed():
    assert follow(PACE, [0.0], forecast_tokens=1600.0) == [2]
    assert follow(PACE, [0.0], forecast_replicas=2) == [2]


def test_an_idle_pool_goes_to_nothing_and_comes_back():
    scaling = Scaling(least=0, most=4, replica_tokens=1000.0, idle_s=900.0)
    wanted = follow(scaling, [100.0] + [0.0] * 70)
    assert wanted[59] == 1
    assert wanted[-1] == 0
    state, _ = step(scaling, State(), Seen(replicas=0), 0.0)
    assert step(scaling, state, Seen(replicas=0, waiting_calls=1, waiting_tokens=5.0), 1.0)[1] == 1


def test_an_empty_pool_that_nobody_calls_stays_empty():
    scaling = Scaling(least=0, most=4, idle_s=900.0)
    assert follow(scaling, [0.0] * 100, replicas=0)[-1] == 0


def test_a_window_for_going_up_passes_over_a_spike():
    scaling = Scaling(least=1, most=10, replica_tokens=1000.0, up_window_s=60.0)
    assert set(follow(scaling, [700.0] * 10 + [5000.0] + [700.0] * 10)) == {1}


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 50), st.floats(0, 100)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.integers(0, 6),
)
def test_what_is_wanted_stays_within_its_bounds_and_steps(steps, least, more):
    scaling = Scaling(least=least, most=least + more, replica_tokens=1000.0, ttft_s=2.0, idle_s=60.0)
    state, replicas = State(), least
    for number, (tokens, waiting, ttft_s) in enumerate(steps):
        seen = Seen(replicas=replicas, running_tokens=tokens, waiting_calls=waiting, ttft_s=ttft_s)
        state, wanted = step(scaling, state, seen, number * 30.0)
        assert least <= wanted <= least + more
        assert wanted <= max(2 * replicas, replicas + 1)
        assert len(state.asked) <= 256
        replicas = wanted


def test_slow_further_tokens_ask_for_more_and_keep_what_is_there():
    scaling = Scaling(least=1, most=10, replica_tokens=1e9, tpot_s=0.05)
    assert follow(scaling, [10.0] * 2, replicas=2, tpot_s=0.075)[0] == 3
    slow = follow(scaling, [10.0] * 60, replicas=3, tpot_s=0.0525)
    assert min(slow) >= 3, "nothing goes while tokens are late"


def test_calls_that_are_foreseen_count_like_calls_that_are_there():
    scaling = Scaling(least=1, most=10, replica_calls=10)
    assert follow(scaling, [0.0] * 3, forecast_calls=32.0)[-1] == 4
    idle = Scaling(least=0, most=4, replica_calls=10, idle_s=60.0)
    assert follow(idle, [0.0] * 40, replicas=1, forecast_calls=0.1)[-1] == 0, "next to nothing wakes nobody"
    assert follow(idle, [0.0] * 40, replicas=0, forecast_calls=5.0)[-1] == 1


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.integers(0, 100), st.integers(1, 8))
def test_more_foreseen_never_wants_fewer(less, more, running, replicas):
    scaling = Scaling(least=0, most=50, replica_calls=10)

    def wanted(calls: float) -> int:
        return step(
            scaling, State(), Seen(replicas=replicas, running_calls=running, forecast_calls=calls), 0.0
        )[1]

    assert wanted(min(less, more)) <= wanted(max(less, more))
