"""Plots of simulated runs: what callers waited over time, and how long it took what share of them, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gemstead.plan.chart import BLUE, ORANGE, RED, Curve, Panel, svg
from gemstead.plan.throughput import Range
from gemstead.simulate.outcome import SERVED, Outcome, Run
from gemstead.simulate.report import quantile

COLOURS = (BLUE, ORANGE, "#2e7d32", "#6a1b9a", RED, "#00796b", "#5d4037", "#37474f", "#ad1457", "#9e9d24")
WINDOWS = 24  # points along the time
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def plot(
    runs: Mapping[str, Run], warm: float, marks: Sequence[tuple[str, float]] = (), title: str = ""
) -> str:
    """Two panels for named runs, as SVG.

    Args:
        warm: share of the requests that are not counted in the second panel.
        marks: moments with their names, such as a failure.
    """
    about = f"{title}: " if title else ""
    over_time = tuple(
        Curve(name, _over_time(run), COLOURS[place % len(COLOURS)])
        for place, (name, run) in enumerate(runs.items())
    )
    by_share = tuple(
        Curve(name, _by_share(run, warm), COLOURS[place % len(COLOURS)])
        for place, (name, run) in enumerate(runs.items())
    )
    return svg(
        [
            Panel(f"{about}time to first token", "seconds", "s, median", over_time, marks=tuple(marks)),
            Panel("What share waited no longer", "% of requests", "s to first token", by_share),
        ]
    )


def _over_time(run: Run) -> tuple[tuple[float, Range], ...]:
    served = sorted((one for one in run.outcomes if one.status == SERVED), key=lambda one: one.arrived_s)
    each = max(1, len(served) // WINDOWS)
    points = []
    for start in range(0, len(served) - each + 1, each):
        part = served[start : start + each]
        waits = sorted(one.ttft_s for one in part)
        middle = quantile(waits, 0.5)
        points.append((part[0].arrived_s, Range(middle, middle, middle)))
    return tuple(points) or ((0.0, Range(0, 0, 0)), (1.0, Range(0, 0, 0)))


def _by_share(run: Run, warm: float) -> tuple[tuple[float, Range], ...]:
    arrived = sorted(run.outcomes, key=lambda one: one.arrived_s)
    counted: list[Outcome] = arrived[int(len(arrived) * warm) :]
    waits = sorted(one.ttft_s for one in counted if one.status == SERVED)
    return tuple((100 * share, Range(*(quantile(waits, share),) * 3)) for share in SHARES)
