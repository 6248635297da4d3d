"""From users to cards."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speed_runs import setup

from gemstead.plan.capacity import DAYS, Demand, burst, capacity, latency_s

CARD = setup("26B-A4B", "fp8", "h100-sxm")
OFFICE = Demand(prompt_tokens=1500, output_tokens=300, users=5000, requests_per_user_day=20)


def test_users_become_requests_in_the_busiest_hour():
    """5000 x 20 = 100,000 a day; the busiest of the office's hours has 12 parts of 112."""
    assert OFFICE.requests_per_day == 100_000
    assert OFFICE.busiest_per_s == pytest.approx(100_000 * 12 / 112 / 3600)
    assert sum(OFFICE.requests_per_s(hour) * 3600 for hour in range(24)) == pytest.approx(100_000)


def test_a_known_peak_replaces_users():
    known = replace(OFFICE, users=0, peak_requests_per_s=8)
    assert known.busiest_per_s == pytest.approx(8)


def test_requests_in_the_air_follow_littles_law():
    """Rate times stay, and the replicas together do not hold more than they may."""
    made = capacity(CARD, OFFICE)
    assert made.in_air == pytest.approx(made.requests_per_s * made.busiest.latency_s(300))
    assert made.in_air <= (made.replicas - made.spares) * made.most_each
    assert made.load <= 0.65 and made.gpus == made.replicas


def test_twice_the_users_need_about_twice_the_replicas_and_one_spare():
    one = capacity(CARD, replace(OFFICE, users=50_000))
    two = capacity(CARD, replace(OFFICE, users=100_000))
    working = one.replicas - 1
    assert 2 * working - 1 <= two.replicas - 1 <= 2 * working


def test_a_tighter_aim_needs_more_replicas_and_an_impossible_one_is_told():
    """An aim divides the rate of a replica; it never multiplies the number of cards."""
    many = replace(OFFICE, users=50_000)
    easy = capacity(CARD, many)
    tight = capacity(CARD, replace(many, longest_tpot_s=0.012))
    assert tight.replicas > easy.replicas and tight.most_each < easy.most_each
    assert tight.busiest.tpot_s.likely <= 0.012
    assert capacity(CARD, replace(many, longest_tpot_s=0.0001)) is None
    assert capacity(CARD, replace(many, longest_ttft_s=0.001)) is None


def test_what_does_not_fit_has_no_capacity():
    assert capacity(setup("31B", "bf16", "l4"), OFFICE) is None


def test_a_pair_counts_two_cards_a_replica():
    pair = setup("31B", "bf16", "rtx-pro-6000-server", 2)
    made = capacity(pair, OFFICE)
    assert made.gpus == 2 * made.replicas


def test_an_empty_demand_and_a_full_headroom_are_refused():
    with pytest.raises(ValueError, match="demand is empty"):
        capacity(CARD, replace(OFFICE, users=0))
    with pytest.raises(ValueError, match="headroom"):
        capacity(CARD, OFFICE, headroom=1.0)


def test_a_burst_carries_what_the_own_replicas_do_not():
    many = replace(OFFICE, users=50_000)
    made = capacity(CARD, many)
    enough = burst(many, made, made.replicas - made.spares)
    few = burst(many, made, 1)
    none = burst(many, made, 0)
    assert (enough.share_out, enough.hours_out) == (0, 0)
    assert 0 < few.share_out < none.share_out == pytest.approx(1)
    assert few.busiest_out_per_s == pytest.approx(many.busiest_per_s - made.rate_each * 0.65)


def test_what_must_stay_needs_own_replicas_for_itself():
    many = replace(OFFICE, users=50_000)
    made = capacity(CARD, many)
    bound = burst(many, made, 1, must_stay=1.0)
    assert bound.least_own_replicas == made.replicas - made.spares and not bound.allowed
    assert burst(many, made, 1, must_stay=0.0).allowed


@settings(max_examples=40)
@given(users=st.integers(100, 200_000), replicas=st.integers(1, 40), more=st.integers(0, 20))
def test_more_replicas_never_raise_latency(users, replicas, more):
    demand = replace(OFFICE, users=users)
    few, many = (latency_s(CARD, demand, n, most_running=300) for n in (replicas, replicas + more))
    assert many <= few


@settings(max_examples=40)
@given(
    users=st.integers(100, 200_000),
    low=st.floats(0, 0.9),
    more=st.floats(0, 0.09),
    spares=st.integers(0, 3),
    day=st.sampled_from(sorted(DAYS)),
)
def test_more_headroom_never_needs_fewer_replicas_nor_raises_the_load(users, low, more, spares, day):
    demand = replace(OFFICE, users=users, day=DAYS[day])
    first, second = (
        capacity(CARD, demand, most_running=300, headroom=share, spares=spares) for share in (low, low + more)
    )
    assert second.replicas >= first.replicas and second.load <= first.load + 1e-9
    assert first.load <= 1 - low + 1e-9 and second.replicas > spares
    assert math.isfinite(first.in_air)
