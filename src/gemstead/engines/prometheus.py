"""Prometheus text, as far as an engine's figures need it.

A page of vLLM has thousands of lines and is read each second for each engine: only lines whose name is wanted are
looked at further. Values of one name with different labels are added up (one engine process, several cores).
A name that is not there is not in the answer: a missing figure is never a silent zero.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite


def read(text: str, wanted: Collection[str]) -> dict[str, float]:
    """The sum over all labels of each wanted metric that the page has."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name in wanted and (value := _value(line)) is not None:
            found[name] = found.get(name, 0.0) + value
    return found


def _value(line: str) -> float | None:
    rest = line.rpartition("}")[2] if "{" in line else line.partition(" ")[2]
    fields = rest.split()
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return value if isfinite(value) else None
