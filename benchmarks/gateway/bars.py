"""The bars that Gemstead is held to, and whether a run clears them. Values in, values out.

A ratio is taken inside each round (all gateways run the same scenario one after the other) and the median of the
rounds is judged, because absolute microseconds move by 1.4 on one machine and by far more between machines.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One run of one scenario on one subject ("direct": the engine itself)."""

    round: int
    scenario: str
    subject: str
    figures: Figures


@dataclass(frozen=True)
class Bar:
    name: str
    measured: float | None  # None: not measured in this run
    limit: float
    unit: str
    sense: Literal["at most", "at least", "exactly"] = "at most"
    spread: tuple[float, float] | None = None  # smallest and largest round

    @property
    def verdict(self) -> str:
        if self.measured is None or math.isnan(self.measured):
            return "not measured"
        clears = {
            "at most": self.measured <= self.limit,
            "at least": self.measured >= self.limit,
            "exactly": self.measured == self.limit,
        }
        return "pass" if clears[self.sense] else "FAIL"


RATIOS = (  # scenario, peer, most, what
    ("json-c32", "vllm-router", 0.8, "CPU per request over vllm-router"),
    ("json-c32", "sglang-router", 0.6, "CPU per request over sglang-router"),
    ("json-c32", "envoy", 1.2, "CPU per request over Envoy, static route"),
    ("json-c32", "litellm", 0.01, "CPU per request over LiteLLM"),
    ("streams-256", "vllm-router", 1.2, "CPU per chunk over vllm-router"),
    ("streams-256", "nginx", 1.6, "CPU per chunk over nginx"),
)
CHUNKS_PER_S = 40_000
STALLED_MIB, KERNEL_MIB = 1, 16  # held by us for one stalled client; what socket buffers on the way may take
BASE_MIB, STREAM_KIB, STREAMS = 60, 20, 1000


def ratios(
    runs: Iterable[Run], scenario: str, subject: str, peer: str, figure: str = "cpu_us"
) -> list[float]:
    """The subject's figure over the peer's, one for each round that has both."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        if run.scenario == scenario:
            by_round.setdefault(run.round, {})[run.subject] = run.figures.get(figure, math.nan)
    pairs = [(had[subject], had[peer]) for had in by_round.values() if subject in had and peer in had]
    return [mine / theirs for mine, theirs in pairs if theirs and not math.isnan(mine + theirs)]


def added(runs: Iterable[Run], scenario: str, subject: str, figure: str) -> list[float]:
    """The subject's figure minus the bare engine's of the same round."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        if run.scenario == scenario and figure in run.figures:
            by_round.setdefault(run.round, {})[run.subject] = run.figures[figure]
    return [had[subject] - had["direct"] for had in by_round.values() if subject in had and "direct" in had]


def each(runs: Iterable[Run], scenario: str, subject: str, figure: str) -> list[float]:
    """The figure in every round that has it."""
    found = [run for run in runs if (run.scenario, run.subject) == (scenario, subject)]
    return [run.figures[figure] for run in found if figure in run.figures]


def judge(runs: Sequence[Run], behaviour: Figures, subject: str) -> list[Bar]:
    """Every bar, in the order of the documentation, with what this run measured."""
    bars = [
        _bar(what, ratios(runs, scenario, subject, peer), most, "×") for scenario, peer, most, what in RATIOS
    ]
    bars += [
        _bar("chunks per second, one worker", sustained(runs, subject), CHUNKS_PER_S, "/s", "at least"),
        _bar(
            "added delay p50 at 1,000 requests/s",
            added(runs, "rate-1000", subject, "delay_p50_us"),
            200,
            "µs",
        ),
        _bar(
            "added delay p99 at 1,000 requests/s",
            added(runs, "rate-1000", subject, "delay_p99_us"),
            600,
            "µs",
        ),
        _bar(
            "added delay p99, 1,000 streams, 50 ms",
            added(runs, "streams-1000", subject, "delay_p99_us"),
            5000,
            "µs",
        ),
        _bar("streams lost or broken, of all paced ones", lost(runs, subject), 0, ""),
        _bar(
            "resident memory with 1,000 streams",
            each(runs, "streams-1000", subject, "rss_mib"),
            BASE_MIB + STREAM_KIB * STREAMS / 1024,
            "MiB",
        ),
    ]
    return bars + _behaviour_bars(behaviour)


def _behaviour_bars(had: Figures) -> list[Bar]:
    def of(name: str) -> list[float]:
        return [had[name]] if name in had else []

    return [
        _bar("two workers over one", of("two_over_one"), 1.8, "×", "at least"),
        _bar("start to first answer", of("start_s"), 1.0, "s"),
        _bar("memory for a client that stops reading for 3 s", of("stalled_growth_mib"), STALLED_MIB, "MiB"),
        _bar("taken from the engine meanwhile", of("stalled_taken_mib"), KERNEL_MIB, "MiB"),
        _bar("20 clients leave mid-stream: engine told", of("leavers_ms"), 50, "ms"),
        _bar("client leaves a silent engine: told", of("silent_stream_ms"), 50, "ms"),
        _bar("the same after response headers", of("silent_headers_ms"), 50, "ms"),
        _bar("the same, not a stream", of("silent_json_ms"), 50, "ms"),
        _bar("largest header accepted of 60 KB", of("header_largest_kb"), 60, "KB", "at least"),
        _bar("status of a header of 70 KB", of("header_70k_status"), 431, "", "exactly"),
        _bar("status of a body just under the limit", of("body_below_status"), 200, "", "exactly"),
        _bar("status of a body just over the limit", of("body_above_status"), 413, "", "exactly"),
    ]


def sustained(runs: Iterable[Run], subject: str) -> list[float]:
    """Chunks per second that were really kept up at 1,000 streams of 25 ms, for each round: the full rate if no
    stream was lost and the p99 delay stayed under 15 ms, otherwise at most what arrived."""
    found = []
    for run in runs:
        if (run.scenario, run.subject) == ("streams-40k", subject):
            had = run.figures
            kept_up = not had["lost"] and not had["wrong"] and had.get("delay_p99_us", math.inf) < 15_000
            found.append(CHUNKS_PER_S if kept_up else min(had["per_s"], CHUNKS_PER_S - 1))
    return found


def lost(runs: Iterable[Run], subject: str) -> list[float]:
    """The paced streams that did not end well, over all rounds and scenarios, as one number."""
    ends = [
        run.figures["lost"] + run.figures["wrong"]
        for run in runs
        if run.scenario.startswith("streams") and run.subject == subject
    ]
    return [sum(ends)] if ends else []


def _bar(
    name: str,
    values: Sequence[float],
    limit: float,
    unit: str,
    sense: Literal["at most", "at least", "exactly"] = "at most",
) -> Bar:
    if not values:
        return Bar(name, None, limit, unit, sense)
    return Bar(name, statistics.median(values), limit, unit, sense, (min(values), max(values)))
