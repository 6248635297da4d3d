"""Growth, seen in days and carried forward."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.plan.forecast import DAYS_A_MONTH, Trend, forecast, reached, trend_of

WEEK = (1.2, 1.25, 1.2, 1.2, 1.15, 0.5, 0.5)


def days(count, monthly, level=1000.0, week=WEEK, noise=0.0):
    """Daily values that end at `level`, with a fixed unevenness instead of chance."""
    return [
        level
        * (1 + monthly) ** ((day - count + 1) / DAYS_A_MONTH)
        * week[day % 7]
        * math.exp(noise * math.sin(day * day))
        for day in range(count)
    ]


@given(monthly=st.floats(-0.3, 0.6), count=st.integers(14, 200), level=st.floats(1, 1e12))
def test_growth_and_week_are_found_again(monthly, count, level):
    trend = trend_of(days(count, monthly, level))
    assert trend.monthly_growth == pytest.approx(monthly, abs=1e-3)
    assert trend.level == pytest.approx(level * sum(WEEK) / 7, rel=1e-2)
    assert trend.weekdays == pytest.approx([part / (sum(WEEK) / 7) for part in WEEK], rel=1e-2)


def test_scatter_widens_the_bounds_and_distance_too():
    calm, wild = trend_of(days(60, 0.1)), trend_of(days(60, 0.1, noise=0.3))
    assert wild.scatter > 0.1 > calm.scatter and wild.growth_error > calm.growth_error
    months = forecast(wild, 12)
    widths = [month.mean.high / month.mean.low for month in months]
    assert widths == sorted(widths) and widths[-1] > 1.1


def test_more_days_make_growth_surer():
    assert trend_of(days(120, 0.1, noise=0.3)).growth_error < trend_of(days(30, 0.1, noise=0.3)).growth_error


def test_a_forecast_by_hand():
    months = forecast(Trend(level=100, monthly_growth=0.2), 12)
    assert [month.number for month in months] == list(range(1, 13))
    assert months[0].mean.likely == pytest.approx(100 * 1.2**0.5)
    assert months[11].mean.likely == pytest.approx(100 * 1.2**11.5)


def test_a_season_swings_around_todays_month():
    """December has half of November; the coming month is December."""
    season = [1.0] * 11 + [0.5]
    december, january = forecast(Trend(100, 0.0), 2, season, first_month=11)
    assert december.mean.likely == pytest.approx(50) and january.mean.likely == pytest.approx(100)


def test_limits_are_reached_in_order_and_earlier_at_the_upper_bound():
    trend = trend_of(days(90, 0.15, noise=0.3))
    now = trend.level * max(trend.weekdays)
    limits = {"far": now * 100, "cards": now * 2.5, "quota": now * 1.5, "past": now * 0.9}
    past, quota, cards, far = reached(forecast(trend, 12), now, limits)
    assert (past.name, past.month) == ("past", 0.0)
    assert quota.month < cards.month and far.month is None and far.margin == pytest.approx(100)
    assert quota.earliest < quota.month
    assert cards.month == pytest.approx(math.log(2.5) / math.log1p(trend.monthly_growth), abs=0.5)


@given(limit=st.floats(1, 1e6), lower=st.floats(0.1, 1), growth=st.floats(-0.5, 1), months=st.integers(1, 36))
def test_a_lower_limit_is_never_reached_later(limit, lower, growth, months):
    made = forecast(Trend(100, growth, scatter=0.2, growth_error=0.05), months)
    found = {one.name: one for one in reached(made, 100, {"high": limit, "low": limit * lower})}
    late, soon = (math.inf if found[n].month is None else found[n].month for n in ("high", "low"))
    assert soon <= late


def test_a_service_that_rests_on_sundays_or_is_idle_is_no_trouble():
    rested = trend_of(days(70, 0.1, week=(1, 1, 1, 1, 1, 1, 0)))
    assert rested.weekdays[6] < 0.05 and rested.monthly_growth == pytest.approx(0.1, abs=0.03)
    idle = trend_of([0.0] * 30)
    assert idle.level == 0 and forecast(idle)[0].mean.likely == 0


def test_too_few_days_and_impossible_ones_are_refused():
    for given_days in ([1.0] * 13, [-1.0] * 20, [math.nan] * 20):
        with pytest.raises(ValueError, match="14 days"):
            trend_of(given_days)
    with pytest.raises(ValueError, match="1 to 36"):
        forecast(Trend(1, 0), 37)
