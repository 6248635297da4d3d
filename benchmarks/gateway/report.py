"""Results as text: tables in Markdown for people, JSON for whoever wants to work them out again."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from benchmarks.gateway.bars import Bar, Run, each, judge, ratios
from benchmarks.gateway.campaign import Results
from benchmarks.gateway.scenarios import SCENARIOS
from benchmarks.gateway.subjects import SUBJECTS

JUDGED = ("gemstead",)  # who is held to the bars
BEHAVIOUR = (  # figure, heading
    ("start_s", "start, s"),
    ("rss_start_mib", "RSS at start, MiB"),
    ("leavers_ms", "20 leave mid-stream, ms"),
    ("silent_stream_ms", "leaves silent engine, ms"),
    ("silent_headers_ms", "… after headers, ms"),
    ("silent_json_ms", "… not a stream, ms"),
    ("stalled_taken_mib", "stalled reader: taken, MiB"),
    ("stalled_growth_mib", "… RSS growth, MiB"),
    ("header_largest_kb", "largest header, KB"),
    ("header_70k_status", "70 KB header"),
    ("body_2mb_status", "2 MB body"),
)


def as_json(results: Results) -> str:
    return json.dumps(asdict(results), indent=1) + "\n"


def as_markdown(results: Results) -> str:
    """The whole report: machine, bars, loads, behaviour, who was left out."""
    parts = [_heading(results)]
    names = list(results.versions)
    for name in JUDGED:
        if name in names and name not in results.absent:
            parts.append(bars_table(name, judge(results.runs, results.behaviour.get(name, {}), name)))
    parts.append(loads_table(results.runs, names))
    if results.behaviour:
        parts.append(behaviour_table(results))
    if results.absent:
        parts.append("Left out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in results.absent.items()))
    return "\n\n".join(parts) + "\n"


def verdicts(results: Results) -> list[Bar]:
    """Every bar of everyone who is held to them and was measured."""
    measured = [name for name in JUDGED if name in results.versions and name not in results.absent]
    return [bar for name in measured for bar in judge(results.runs, results.behaviour.get(name, {}), name)]


def _heading(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}".strip() for name, version in results.versions.items())
    facts = (
        f"{machine['cpus']} CPUs ({machine['cpu']})",
        str(machine["system"]),
        f"Gemstead on Python {machine['python']}",
        f"gateway on a CPU of its own: {_yes(machine['pinned'])}",
        f"real-time scheduling: {_yes(machine['realtime'])}",
        f"load average {_first(machine.get('load_average_before'))} before,"
        f" {_first(machine.get('load_average_after'))} after",
    )
    return f"{machine['day']}: {'; '.join(facts)}.\n\n{versions}."


def bars_table(name: str, bars: Iterable[Bar]) -> str:
    """What was measured beside what is wanted."""
    lines = [
        f"### Bars: {name}",
        "",
        "| bar | wanted | measured (median) | rounds | |",
        "|---|---|---|---|---|",
    ]
    for bar in bars:
        measured = "–" if bar.measured is None else number(bar.measured)
        spread = "–" if bar.spread is None else f"{number(bar.spread[0])} … {number(bar.spread[1])}"
        wanted = f"{bar.sense} {number(bar.limit)} {bar.unit}".strip()
        lines.append(f"| {bar.name} | {wanted} | {measured} | {spread} | {bar.verdict} |")
    return "\n".join(lines)


def loads_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """One table for each scenario: smallest CPU per unit, ratio to the first subject, rate, delays, memory."""
    parts = []
    for scenario in SCENARIOS:
        shown = [name for name in ("direct", *names) if each(runs, scenario.name, name, "units")]
        if not shown:
            continue
        unit = "chunk" if scenario.kind == "streams" else "request"
        lines = [
            f"### {scenario.title}",
            "",
            f"| gateway | CPU µs/{unit}, median (min) | over {names[0]}, median | {unit}s/s | delay p50, µs | p99, µs "
            "| RSS, MiB | went wrong |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_load_row(runs, scenario.name, name, names[0]) for name in shown]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _load_row(runs: Sequence[Run], scenario: str, name: str, first: str) -> str:
    def middle(figure: str) -> str:
        found = each(runs, scenario, name, figure)
        return number(statistics.median(found)) if found else "–"

    cpu = each(runs, scenario, name, "cpu_us")
    against = ratios(runs, scenario, name, first)
    wrong = sum(sum(each(runs, scenario, name, figure)) for figure in ("wrong", "lost", "left_running"))
    own = "–" if name == "direct" else f"{middle('cpu_us')} ({number(min(cpu))})"
    ratio = "–" if name in ("direct", first) or not against else f"{statistics.median(against):.2f}"
    cells = [
        name,
        own,
        ratio,
        *map(middle, ("per_s", "delay_p50_us", "delay_p99_us", "rss_mib")),
        number(wrong),
    ]
    return "| " + " | ".join(cells) + " |"


def behaviour_table(results: Results) -> str:
    head = "| gateway | " + " | ".join(title for _, title in BEHAVIOUR) + " |"
    lines = ["### Behaviour", "", head, "|---" * (len(BEHAVIOUR) + 1) + "|"]
    for name, figures in results.behaviour.items():
        cells = [number(figures[key]) if key in figures else "–" for key, _ in BEHAVIOUR]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three figures at most before they stop meaning anything; "not in 3 s" for what never came."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "not in 3 s"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if abs(value) < 0.1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _first(average: object) -> str:
    return f"{average[0]:.1f}" if isinstance(average, (tuple, list)) and average else "?"


def listing() -> str:
    """Every subject and whether it can run here."""
    return "\n".join(
        f"{name:14} {subject.about}\n{'':14} {subject.missing() or 'ready'}"
        for name, subject in SUBJECTS.items()
    )
