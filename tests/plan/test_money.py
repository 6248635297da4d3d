"""What it costs, and from which volume it pays."""

from __future__ import annotations

import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.prices import ApiPrice
from gemstead.plan.money import HOURS_A_MONTH, Owning, api_usd_month, break_even, cost, owned, rented, spot


def price(usd_in, usd_out, provider="DeepInfra"):
    return ApiPrice(provider, "31B", usd_in, usd_out, datetime.date(2026, 11, 20), "litellm 1.109.1")


DEEPINFRA = price(0.13, 0.38)


@pytest.mark.parametrize(
    ("card", "usd_hour", "billions", "per_s"),
    [
        ("RTX PRO 6000, RunPod", 1.57, 6.0, 2266),
        ("RTX PRO 6000, Google Cloud", 4.50, 17, 6494),
        ("H100, RunPod community", 2.69, 10.2, 3882),
        ("H100, AWS", 6.88, 26, 9928),
    ],
)
def test_the_volumes_at_which_31b_breaks_even(card, usd_hour, billions, per_s):
    """Three tokens in for one out at DeepInfra's 0.13 and 0.38: 0.1925 a million, prices of autumn 2026."""
    made = break_even(rented(1, usd_hour), DEEPINFRA, 3.0)
    assert made.usd_per_million == pytest.approx(0.1925)
    assert made.tokens_a_month / 1e9 == pytest.approx(billions, rel=0.01)
    assert made.tokens_per_s == pytest.approx(per_s, rel=0.001)


def test_twenty_to_fifty_million_tokens_a_month_cost_a_few_dollars_elsewhere():
    """At which some guides say that self-hosting pays: it is off by more than a hundred."""
    assert api_usd_month(DEEPINFRA, 20e6) == pytest.approx(3.85)
    assert api_usd_month(DEEPINFRA, 50e6) == pytest.approx(9.63, abs=0.01)
    assert break_even(rented(1, 1.57), DEEPINFRA).tokens_a_month > 100 * 50e6


@pytest.mark.parametrize(
    ("usd_hour", "output_per_s", "usd"),
    [
        (1.57, 1168, 0.37),
        (4.59, 7366, 0.17),
    ],  # 31B FP8 on an RTX PRO 6000; 26B-A4B on an H200: published rates
)
def test_published_rates_at_full_load(usd_hour, output_per_s, usd):
    made = cost(rented(1, usd_hour), output_per_s, prompt_tokens=500, output_tokens=500)
    assert made.usd_per_million_output == pytest.approx(usd, abs=0.01)
    assert made.usd_per_million_tokens == pytest.approx(usd / 2, abs=0.01)
    assert made.usd_per_request == pytest.approx(500e-6 * made.usd_per_million_output)


def test_the_verdict_says_when_it_is_not_for_the_price():
    never = break_even(rented(1, 4.50), DEEPINFRA, 3.0, able_output_tokens_per_s=1000)
    assert never.load > 1 and "not for the price" in never.verdict and "4,000" in never.verdict
    hardly = break_even(rented(1, 1.57), DEEPINFRA, 3.0, able_output_tokens_per_s=1000)
    assert 0.5 < hardly.load < 1 and "Count on control" in hardly.verdict
    dear = price(0.99, 1.49, "Cerebras")
    pays = break_even(rented(1, 1.57), dear, 3.0, able_output_tokens_per_s=1000)
    assert pays.load < 0.5 and pays.verdict.startswith("Cheaper than Cerebras from")
    free = break_even(rented(1, 1.57), price(0, 0, "a free tier"))
    assert free.tokens_a_month == math.inf and "asks nothing" in free.verdict


@given(
    gpus=st.integers(1, 64),
    usd_hour=st.floats(0.1, 20),
    usd_in=st.floats(0.01, 5),
    usd_out=st.floats(0.01, 20),
    ratio=st.floats(0, 20),
)
def test_at_the_break_even_both_cost_the_same(gpus, usd_hour, usd_in, usd_out, ratio):
    bill, other = rented(gpus, usd_hour), price(usd_in, usd_out)
    made = break_even(bill, other, ratio)
    assert api_usd_month(other, made.tokens_a_month, ratio) == pytest.approx(bill.usd_month)
    assert made.tokens_per_s * HOURS_A_MONTH * 3600 == pytest.approx(made.tokens_a_month)
    # Hardware that does exactly this much, and is as busy day and night, costs per token what the other asks.
    spent = cost(bill, made.tokens_per_s / (ratio + 1), prompt_tokens=ratio * 100, output_tokens=100)
    assert spent.usd_per_million_tokens == pytest.approx(made.usd_per_million)


@given(load=st.floats(0.01, 1), more=st.floats(0, 0.5))
def test_a_busier_machine_never_makes_dearer_tokens(load, more):
    first, second = (
        cost(rented(2, 3.0), 900, prompt_tokens=500, output_tokens=500, load=min(1, share))
        for share in (load, load + more)
    )
    assert second.usd_per_million_output <= first.usd_per_million_output
    assert first.usd_month == second.usd_month


def test_owning_by_hand():
    """Two cards of 9,000 and 600 W over three years: power is (2 x 600 x 0.7 + 2 x 150) W x 730 h x 0.15."""
    bill = owned(2, 9000, 600)
    by_name = {line.what: line.usd_month for line in bill.lines}
    assert by_name["cards, written off"] == pytest.approx(2 * 9000 * 0.9 / 36)
    assert by_name["power"] == pytest.approx(1.14 * 730 * 0.15)
    assert by_name["cooling and losses"] == pytest.approx(0.4 * by_name["power"])
    assert by_name["staff"] == 1000
    assert bill.usd_month == pytest.approx(sum(by_name.values()))
    assert bill.hidden_usd_month == pytest.approx(bill.usd_month - by_name["cards, written off"])
    assert bill.usd_gpu_hour == pytest.approx(bill.usd_month / 730 / 2)
    assert owned(2, 9000, 600, Owning(years=4)).usd_month < bill.usd_month


def test_rent_only_for_the_hours_that_are_used():
    assert rented(2, 3.0, hours_a_month=220).usd_month == pytest.approx(1320)
    assert rented(2, 3.0, other_usd_month=50, staff_usd_month=100).hidden_usd_month == 150


def test_spot_pays_until_it_is_taken_away_too_often():
    """H100 at 2.53 on spot against 6.88: a start of 15 minutes is paid but answers nothing."""
    calm = spot(2.53, 6.88, interruptions_a_day=2, restart_s=900)
    assert calm.available == pytest.approx(1 - 1800 / 86400) and calm.worth_it
    assert calm.usd_useful_hour == pytest.approx(2.53 / calm.available)
    edge = spot(2.53, 6.88, calm.breaks_even_at, 900)
    assert edge.usd_useful_hour == pytest.approx(6.88)
    assert not spot(2.53, 6.88, calm.breaks_even_at + 1, 900).worth_it
    assert spot(2.53, 6.88, 1000, 900).usd_useful_hour == math.inf
    assert spot(2.53, 6.88, 2, 0).breaks_even_at == math.inf


def test_a_cost_without_tokens_is_refused():
    for rate, load in ((0, 1), (100, 0), (100, 1.1)):
        with pytest.raises(ValueError, match="tokens a second"):
            cost(rented(1, 1), rate, prompt_tokens=1, output_tokens=1, load=load)
