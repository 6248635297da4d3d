"""Spans of time and moments, as people write and read them: `90s`, `30d`, `2026-12-31`."""

from __future__ import annotations

import argparse
import math
from datetime import UTC, datetime

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_MOST_S = 100 * _UNITS["y"]


def span(text: str) -> float:
    """Seconds of a span such as `90s`, `1.5h` or `30d`. For argparse's `type`.

    Without a unit it is none, but for 0: who writes `--expires 90` means days, and would get seconds.

    Raises:
        argparse.ArgumentTypeError: it is no span.
    """
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in _UNITS else (text, "")
    if not unit and number == "0":
        return 0.0
    try:
        seconds = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 <= seconds <= _MOST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time: write it as 90s, 45m, 12h, 30d or 2w")
    return seconds


def moment(text: str, *, now: float, back: bool) -> float:
    """Unix seconds of a date (`2026-12-31`, `2026-12-31T18:00`, UTC) or of a span from now, back or ahead.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return now - span(text) if back else now + span(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def shown(when: float | None, otherwise: str = "-") -> str:
    """A moment for a table, in UTC: `2026-11-21 03:00:00`."""
    if when is None:
        return otherwise
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return otherwise
