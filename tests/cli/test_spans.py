"""Spans of time as people write them."""

from __future__ import annotations

import argparse

import pytest

from gemstead.cli.spans import moment, span


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("30d", 2_592_000), ("2W", 1_209_600), ("0", 0)]
)
def test_a_span_has_a_unit(text: str, seconds: float) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize("text", ["90", "5", "1.5", "", "d", "-3d", "yesterday", "nand", "1000y"])
def test_what_has_none_is_refused_instead_of_taken_for_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it as 90s, 45m, 12h, 30d or 2w"):
        span(text)
    with pytest.raises(argparse.ArgumentTypeError):
        moment(text, now=0.0, back=False)
