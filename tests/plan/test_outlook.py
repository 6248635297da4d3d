"""A plan carried ahead: by hand, and laws that hold whatever the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.plan import plan
from gemstead.plan.forecast import Trend
from gemstead.plan.outlook import outlook
from gemstead.refused import Refused

TODAY = plan("31B", "RTX PRO 6000", None, requests_per_s=2.5, compare=False)
TIGHT = plan("12B", "L4", 4, requests_per_s=0.4, longest_tpot_s=0.2, compare=False)


def met(found, name):
    (limit,) = [one for one in found.limits if one.name.startswith(name)]
    return limit


def test_limits_are_met_when_growth_brings_use_to_them():
    """20 % a month: use is at `most` after log(most / now) / log(1.2) months."""
    found = outlook(TODAY, Trend(1.0, 0.2), 24)
    for name in ("planned load", "requests", "output tokens"):
        limit = met(found, name)
        ratio = limit.most / limit.now
        assert ratio > 1 and limit.reached.month is not None
        assert 1.2**limit.reached.month == pytest.approx(ratio, rel=0.01), name


def test_todays_row_is_today_and_cards_are_those_of_the_plan():
    now, first, *_ = outlook(TODAY, Trend(1.0, 0.1), 12).months
    assert now.number == 0 and now.requests_per_s.likely == pytest.approx(2.5)
    assert now.output_tokens_per_s.likely == pytest.approx(2.5 * 256)
    assert now.cards == TODAY.chosen.cards
    assert now.in_air == pytest.approx(TODAY.chosen.capacity.in_air, rel=0.15)
    assert first.requests_per_s.likely == pytest.approx(2.5 * 1.1**0.5)


def test_more_cards_than_are_needed_are_met_later():
    few = plan("31B", "RTX PRO 6000", TODAY.chosen.cards, requests_per_s=2.5, compare=False)
    many = plan("31B", "RTX PRO 6000", 4 * TODAY.chosen.cards, requests_per_s=2.5, compare=False)
    early, late = (met(outlook(one, Trend(1.0, 0.2), 24), "cards").reached.month for one in (few, many))
    assert early is not None and late is not None and late > early + 6


def test_the_cache_is_full_before_the_card_and_both_are_said():
    found = outlook(TODAY, Trend(1.0, 0.2), 24)
    cache, memory = met(found, "cache"), met(found, "memory")
    assert cache.reached.month <= memory.reached.month
    assert cache.now < cache.most and memory.now < memory.most
    assert [row.cache_share for row in found.months][-1] is None, "it is full by then"


def test_a_budget_is_a_limit():
    usd = TODAY.best.bill.usd_month
    found = outlook(TODAY, Trend(1.0, 0.2), 24, usd_month=usd * 1.5)
    limit = met(found, "budget")
    assert limit.now == pytest.approx(usd) and 0 < limit.reached.month < 24


def test_a_season_moves_the_months():
    """A December of twice as much, from November: the coming month is December."""
    season = [1.0] * 11 + [2.0]
    found = outlook(TODAY, Trend(1.0, 0.0), 3, season, first_month=11)
    assert [round(row.requests_per_s.likely, 2) for row in found.months] == [2.5, 5.0, 2.5, 2.5]


def test_growth_that_is_unsure_says_the_earliest_too():
    limit = met(outlook(TODAY, Trend(1.0, 0.1, growth_error=0.05, scatter=0.2), 24), "requests")
    assert limit.reached.earliest < limit.reached.month


def test_no_growth_meets_nothing_and_says_so():
    found = outlook(TODAY, Trend(1.0, -0.02), 12)
    assert all(limit.reached.month is None for limit in found.limits)
    assert any("does not grow" in note for note in found.notes)


def test_without_a_demand_there_is_nothing_to_forecast():
    with pytest.raises(Refused, match="users or requests a second"):
        outlook(plan("31B", "H100", compare=False), Trend(1.0, 0.1))
    with pytest.raises(Refused, match="1 to 36"):
        outlook(TODAY, Trend(1.0, 0.1), 37)


@settings(max_examples=20, deadline=None)
@given(slow=st.floats(0.0, 0.2), more=st.floats(0.0, 0.2), which=st.sampled_from([TODAY, TIGHT]))
def test_faster_growth_never_meets_a_limit_later(slow, more, which):
    def months(growth):
        return {one.name: one.reached.month for one in outlook(which, Trend(1.0, growth), 12).limits}

    later, sooner = months(slow), months(slow + more)
    for name, month in later.items():
        assert month is None or (sooner[name] is not None and sooner[name] <= month + 1e-9)
