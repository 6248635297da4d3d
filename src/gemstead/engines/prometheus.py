"""Prometheus text, as far as an engine's figures need it.

A page of vLLM has thousands of lines and is read each second for each engine: only lines whose name is wanted are
looked at further. Values of one name with different labels are added up (one engine process, several cores), shares
are averaged. A name that is not there is not in the answer: a missing figure is never a silent zero.

Two kinds of lines repeat what another has said, and count once. Ranks of one tensor- or pipeline-parallel group report
the same figure each (SGLang: `tp_rank`, `pp_rank`, `moe_ep_rank`); a priority scheduler reports a figure for each
priority beside their sum, whose `priority` is empty (SGLang 0.5.12 and later).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from math import isfinite

REPEATED = re.compile(r'(?:tp_rank|pp_rank|moe_ep_rank)="[^"]*",?')
PRIORITY = re.compile(r'priority="([^"]*)",?')


def read(text: str, wanted: Collection[str], shares: Collection[str] = ()) -> dict[str, float]:
    """One figure for each wanted metric that the page has: the sum over its series, the mean of those in `shares`."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name in wanted and (value := _value(line)) is not None:
            series = found.setdefault(name, {})
            labels = line[len(name) : line.rfind("}")] if "{" in line else ""
            if "_rank=" in labels:
                labels = REPEATED.sub("", labels)
                value = max(value, series.get(labels, value))
            series[labels] = value
    return {name: _one(series, name in shares) for name, series in found.items()}


def _one(series: dict[str, float], share: bool) -> float:
    """The figure that a metric's series make together."""
    sums = [value for labels, value in series.items() if (found := PRIORITY.search(labels)) and not found[1]]
    values = sums or list(series.values())
    total = sum(values)
    return total / len(values) if share else total


def _value(line: str) -> float | None:
    rest = line.rpartition("}")[2] if "{" in line else line.partition(" ")[2]
    fields = rest.split()
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return value if isfinite(value) else None
