"""A small registry of metrics: made to be cheap on the request path and right with several worker processes.

A worker keeps its own `Registry` and sends a `snapshot` of plain numbers to the head process, which
`merge`s the snapshots of all workers and writes the Prometheus text (`exposition`). There are no shared
files and no stale figures of workers that are gone.

Label values come from outside (a tenant's name), so their number is bounded: each value is cut to 128
characters, and after 1,000 label sets in one family all further ones are counted under "other". The total
stays right.

A snapshot is `{family: {labels: numbers}}`. `labels` is the rendered text between the braces, `numbers` is
one value; for a histogram it is the sum and then the count in each bucket, the last being +Inf (not
cumulative).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

import msgspec

MOST_LABEL_SETS = 1000
LONGEST_LABEL = 128
OTHER = "other"

Snapshot = dict[str, dict[str, list[float]]]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric family: what it is called, what it means, how it is kept apart."""

    name: str
    kind: str  # "counter", "gauge" or "histogram"
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, rising, without +Inf
    merge: str = "sum"  # how a gauge of several workers becomes one: "sum", "max" or "min"


class Value:
    """A counter or a gauge with one set of labels."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        self.numbers = [0.0]

    def add(self, amount: float) -> None:
        self.numbers[0] += amount

    def set(self, value: float) -> None:
        self.numbers[0] = value


class Histogram:
    """A histogram with one set of labels."""

    __slots__ = ("bounds", "numbers")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.numbers = [0.0] * (len(bounds) + 2)

    def observe(self, value: float) -> None:
        numbers = self.numbers
        numbers[0] += value
        numbers[bisect_left(self.bounds, value) + 1] += 1.0


class Values:
    """A counter or gauge family: one `Value` for each set of labels."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.children: dict[tuple[str, ...], Value] = {}

    def labels(self, *values: str) -> Value:
        """The value for these labels; the same one each time."""
        child = self.children.get(values)
        if child is None:
            kept = _bounded(self.family, values, self.children)
            child = self.children.setdefault(kept, Value())
        return child

    def forget(self, *values: str) -> None:
        """Stop showing these labels, such as those of an endpoint that was removed."""
        self.children.pop(values, None)


class Histograms:
    """A histogram family: one `Histogram` for each set of labels."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.children: dict[tuple[str, ...], Histogram] = {}

    def labels(self, *values: str) -> Histogram:
        """The histogram for these labels; the same one each time."""
        child = self.children.get(values)
        if child is None:
            kept = _bounded(self.family, values, self.children)
            child = self.children.setdefault(kept, Histogram(self.family.buckets))
        return child


class Registry:
    """All metrics of one process."""

    def __init__(self) -> None:
        self._families: dict[str, Values | Histograms] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Values:
        """A new counter family."""
        return self._values(Family(name=name, kind="counter", help=help, labels=labels))

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = (), merge: str = "sum") -> Values:
        """A new gauge family."""
        return self._values(Family(name=name, kind="gauge", help=help, labels=labels, merge=merge))

    def histogram(
        self, name: str, help: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = ()
    ) -> Histograms:
        """A new histogram family; `buckets` are upper bounds, rising."""
        assert buckets and list(buckets) == sorted(set(buckets)), f"{name}: buckets rise"
        return self._histograms(
            Family(name=name, kind="histogram", help=help, labels=labels, buckets=buckets)
        )

    def values(self, family: Family) -> Values:
        """The counter or gauge that the table of names describes."""
        return self._values(family)

    def histograms(self, family: Family) -> Histograms:
        """The histogram that the table of names describes."""
        return self._histograms(family)

    def snapshot(self) -> Snapshot:
        """All numbers so far, as plain values that no longer change."""
        return {name: _numbers(kept.family, kept.children) for name, kept in self._families.items()}

    def families(self) -> dict[str, Family]:
        """What is registered, by name."""
        return {name: kept.family for name, kept in self._families.items()}

    def _values(self, family: Family) -> Values:
        assert family.kind in ("counter", "gauge"), family
        kept = self._families.setdefault(family.name, Values(family))
        assert isinstance(kept, Values) and kept.family == family, f"{family.name} means two things"
        return kept

    def _histograms(self, family: Family) -> Histograms:
        assert family.kind == "histogram", family
        kept = self._families.setdefault(family.name, Histograms(family))
        assert isinstance(kept, Histograms) and kept.family == family, f"{family.name} means two things"
        return kept


def _numbers(family: Family, children: Mapping[tuple[str, ...], Value | Histogram]) -> dict[str, list[float]]:
    return {render_labels(family.labels, values): list(child.numbers) for values, child in children.items()}


def merge(snapshots: Iterable[Snapshot], families: Mapping[str, Family]) -> Snapshot:
    """The snapshots of several workers as one: sums, except where a gauge's family says otherwise."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, children in snapshot.items():
            way = families[name].merge if name in families else "sum"
            into = merged.setdefault(name, {})
            for labels, numbers in children.items():
                had = into.get(labels)
                into[labels] = list(numbers) if had is None else _joined(way, had, numbers)
    return merged


def _joined(way: str, one: list[float], other: list[float]) -> list[float]:
    pick = {"max": max, "min": min}.get(way)
    pairs = zip(one, other, strict=True)
    return [pick(a, b) if pick is not None else a + b for a, b in pairs]


def exposition(snapshot: Snapshot | Iterable[Snapshot], families: Mapping[str, Family]) -> str:
    """The Prometheus text format 0.0.4 of a snapshot, or of several merged."""
    if not isinstance(snapshot, dict):
        snapshot = merge(snapshot, families)
    lines: list[str] = []
    for name, children in snapshot.items():
        if not children or (family := families.get(name)) is None:
            continue
        lines.append(f"# HELP {name} {_escaped_help(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for labels, numbers in children.items():
            if family.kind == "histogram":
                _histogram_lines(lines, family, labels, numbers)
            else:
                lines.append(
                    f"{name}{{{labels}}} {_number(numbers[0])}" if labels else f"{name} {_number(numbers[0])}"
                )
    return "\n".join(lines) + "\n" if lines else ""


def _histogram_lines(lines: list[str], family: Family, labels: str, numbers: list[float]) -> None:
    before = labels + "," if labels else ""
    braced = f"{{{labels}}}" if labels else ""
    total = 0.0
    for bound, count in zip((*family.buckets, float("inf")), numbers[1:], strict=True):
        total += count
        lines.append(f'{family.name}_bucket{{{before}le="{_number(bound)}"}} {_number(total)}')
    lines.append(f"{family.name}_sum{braced} {_number(numbers[0])}")
    lines.append(f"{family.name}_count{braced} {_number(total)}")


def render_labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The text between the braces: `tenant="a",model="b"`."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _bounded(
    family: Family, values: tuple[str, ...], have: Mapping[tuple[str, ...], object]
) -> tuple[str, ...]:
    """The labels to keep a new child under."""
    assert len(values) == len(family.labels), f"{family.name} has labels {family.labels}, not {values}"
    cut = tuple(value[:LONGEST_LABEL] for value in values)
    return (OTHER,) * len(values) if len(have) >= MOST_LABEL_SETS and cut not in have else cut


def _escaped(value: str) -> str:
    # A lone surrogate cannot be written as UTF-8.
    text = value.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(value), text)
