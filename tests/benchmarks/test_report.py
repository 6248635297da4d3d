"""Figures as people read them."""

from __future__ import annotations

import math

import pytest
from benchmarks.gateway.bars import Bar
from benchmarks.gateway.report import bars_table, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0101, "0.0101"),  # a bar of 1 % must not be rounded away
        (0.66, "0.66"),
        (47.93, "47.9"),
        (431, "431"),
        (16163.8, "16,164"),
        (math.inf, "not in 3 s"),
        (math.nan, "–"),
    ],
)
def test_a_figure_is_shown_as_closely_as_it_means_something(value, text):
    assert number(value) == text


def test_a_missed_bar_stands_out_and_an_unmeasured_one_claims_nothing():
    table = bars_table("mine", [Bar("a", 2.0, 1.0, "×", spread=(1.5, 2.5)), Bar("b", None, 1.0, "×")])
    assert "| a | at most 1 × | 2 | 1.50 … 2.50 | FAIL |" in table
    assert "| b | at most 1 × | – | – | not measured |" in table
