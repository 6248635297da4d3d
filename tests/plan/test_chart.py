"""Charts are well-formed, say what they show, and are the same each time."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from speed_runs import setup

from gemstead.plan.chart import Curve, Panel, forecast_chart, load_chart, short, svg
from gemstead.plan.forecast import Trend, forecast
from gemstead.plan.throughput import Range, estimate

PAIR = setup("31B", "bf16", "rtx-pro-6000-server", 2)
LOADS = [estimate(PAIR, n, 1000, 500, most_running=100) for n in (1, 4, 16, 64, 256)]
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn):
    return [node.text for node in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def points(drawn, which=0):
    line = list(ElementTree.fromstring(drawn).iter(f"{SVG}polyline"))[which]
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_a_load_chart_shows_throughput_time_and_cost():
    drawn = load_chart(LOADS, usd_hour=3.14, title="31B on two")
    said = texts(drawn)
    assert "31B on two: throughput" in said and "$ per million output tokens" in said
    assert said.count("full") == 3
    assert drawn == load_chart(LOADS, usd_hour=3.14, title="31B on two")
    rates, times, costs = (points(drawn, which) for which in range(3))
    assert [y for _, y in rates] == sorted((y for _, y in rates), reverse=True)  # up is less in SVG
    assert [y for _, y in times] == sorted((y for _, y in times), reverse=True)
    assert [y for _, y in costs] == sorted(y for _, y in costs)
    assert "Cost" not in load_chart(LOADS)


def test_everything_drawn_lies_inside_the_picture():
    drawn = load_chart(LOADS, usd_hour=3.14) + "\n"
    root = ElementTree.fromstring(drawn)
    for which in range(3):
        assert all(0 <= x <= 760 and 0 <= y <= 420 for x, y in points(drawn, which))
    assert root.get("height") == str(3 * 420)


def test_a_forecast_chart_names_its_limits():
    months = forecast(Trend(1e8, 0.15, scatter=0.1), 12)
    said = texts(forecast_chart(1e8, months, {"4 GPUs": 3e8}, "tokens a day"))
    assert "4 GPUs: 300M" in said and "now" in said and "+12" not in said and "tokens a day" in said


def test_text_is_escaped():
    panel = Panel("<script>&", "x", "y", (Curve("a", ((0.0, Range(1, 1, 1)), (1.0, Range(1, 2, 3)))),))
    assert "<script>" not in svg([panel]) and "<script>&" in texts(svg([panel]))


def test_a_flat_line_of_nothing_is_drawn():
    empty = Curve("none", ((0.0, Range(0, 0, 0)), (1.0, Range(0, 0, 0))))
    ElementTree.fromstring(svg([Panel("t", "x", "y", (empty,))]))


def test_one_estimate_is_no_chart():
    with pytest.raises(ValueError, match="two concurrencies"):
        load_chart(LOADS[:1])


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.153, "0.153"), (64, "64"), (1250, "1250"), (12500, "12.5k"), (3.4e6, "3.4M"), (2e9, "2G")],
)
def test_ticks_are_short(value, said):
    assert short(value) == said
