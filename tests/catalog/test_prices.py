"""Prices carry their day and their source, grow stale, and yield to the user's own."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog import prices
from gemstead.catalog.accelerators import accelerators
from gemstead.catalog.models import models

DAY = datetime.date(2026, 11, 21)
BUILT_IN = datetime.date(2026, 11, 20)


def test_every_price_has_a_day_a_source_and_a_card_that_is_known() -> None:
    known = {card.id for card in accelerators()}
    for price in prices.gpu_prices():
        assert price.accelerator in known
        assert price.source
        assert price.kind in prices.RENT_KINDS
        assert 0.05 < price.usd_hour < 20
        assert datetime.date(2026, 1, 1) <= price.read <= BUILT_IN
    for tokens in prices.api_prices():
        assert tokens.model in {facts.size for facts in models()}
        assert tokens.source
        assert tokens.input_usd <= tokens.output_usd


def test_a_whole_machine_costs_what_its_cards_cost() -> None:
    for price in prices.gpu_prices():
        if price.machine_usd_hour:
            cards = price.machine_usd_hour / price.usd_hour
            assert cards == pytest.approx(8, abs=0.01), price


@pytest.mark.parametrize(
    ("said", "day"),
    [("2026-10-07", (2026, 10, 7)), ("2026-03", (2026, 3, 1)), ("2026", (2026, 1, 1))],
)
def test_a_day_that_is_half_known_is_as_old_as_it_may_be(said: str, day: tuple[int, int, int]) -> None:
    assert prices.day_of(said) == datetime.date(*day)


def test_what_is_half_known_is_not_shown_as_a_day() -> None:
    days = {price.day for price in prices.gpu_prices()}
    assert {"2026", "2026-03", "2026-11-09"} <= days


def test_old_prices_warn_and_new_ones_do_not() -> None:
    fresh = [price for price in prices.gpu_prices() if price.read >= datetime.date(2026, 10, 1)]
    assert prices.staleness(fresh, DAY) == ""
    assert prices.staleness(fresh, DAY + datetime.timedelta(days=365)).startswith("all prices are older")
    assert "gemstead catalog refresh" in prices.staleness(prices.gpu_prices(), DAY)
    assert prices.staleness([], DAY) == ""


def test_the_typical_rent_is_the_median_on_demand() -> None:
    h100 = prices.rents("h100-sxm")
    on_demand = sorted(price.usd_hour for price in h100 if price.kind == "on-demand")
    assert prices.typical(h100) == pytest.approx((on_demand[4] + on_demand[5]) / 2)
    assert prices.typical(prices.rents("t4")) is None  # only a card without its machine is known
    assert prices.typical([]) is None


def test_the_users_own_price_is_the_typical_one() -> None:
    h100 = prices.rents("h100-sxm")
    own = replace(h100[-1], usd_hour=9.0, kind="reserved", mine=True)
    assert prices.typical([*h100, own]) == 9.0
    assert prices.rents("h100-sxm", among=[*h100, own])[0] is own


def test_a_free_tier_is_no_basis_for_a_comparison() -> None:
    free = [one for one in prices.api_prices() if not one.is_paid]
    assert free
    assert not set(free) & set(prices.api("31B"))


def test_the_blend_of_three_in_for_one_out() -> None:
    deepinfra = next(one for one in prices.api("31B") if one.provider == "deepinfra")
    assert deepinfra.blended_usd() == pytest.approx(0.1925)


@given(st.floats(0.1, 50))
def test_a_blend_lies_between_its_parts(ratio: float) -> None:
    for one in prices.api_prices():
        assert one.input_usd - 1e-9 <= one.blended_usd(ratio) <= one.output_usd + 1e-9


def test_what_a_card_costs_to_buy_has_a_day_and_a_source() -> None:
    bought = [card.purchase for card in accelerators() if card.purchase]
    assert len(bought) >= 10
    for one in bought:
        assert one.source
        assert 900 <= one.middle_usd <= 60_000
        assert datetime.date(2026, 1, 1) <= one.read <= BUILT_IN
        assert one.low_usd is None or one.high_usd is None or one.low_usd <= one.middle_usd <= one.high_usd
    assert prices.staleness(bought[:1], DAY).startswith("the price is older than 90 days")
