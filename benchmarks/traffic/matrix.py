"""All policies on all traces, sizes and loads with several seeds: the figures that the picker is held to.

    python -m benchmarks.traffic.matrix --traces DIRECTORY --state matrix.jsonl --out docs/measured/traffic-matrix.md

Every run (trace, size, load, seed, policy) is one line of `--state`, written when it is done. Started again, it goes on
where it was, so it can be interrupted; `--again ours` plays that policy's runs anew, after a change. One process; on
one core with the request path and the simulator compiled (benchmarks/traffic/compiled.sh) the whole matrix takes about
half an hour.

Beside the policies of `compare.py` there is `ours, queue`: calls also wait in the gateway when every engine has as much
as it should have, as they do in production. The others have no queue, as they are published.

A cell is a trace, a size and a load; its figures are means over the seeds, which move the trace against the clock and
throw the policies' dice. How far a ratio of two such means may be off is found by leaving out each seed in turn
(jackknife, both policies on the same seeds; 95 %, by Student's t).

Cells in which every policy's goodput is above 0.98 cannot tell policies apart by it, and are counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import exp, inf, log, sqrt
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.traffic.compare import GEMMA, LEAST, PER_REPLICA, TRACES, WARM, find
from gemstead.simulate import fleet
from gemstead.simulate.fleet import Conditions, Fleet
from gemstead.simulate.report import summary
from gemstead.simulate.trial import NAMES, ORACLE, OURS, SCRAPE_S, capacity, policies
from gemstead.simulate.workload import Workload, scaled
from gemstead.traffic.queue import QueueBounds

QUEUED = "ours, queue"
CEILING = 0.98
# Seeds that were looked at while constants were chosen, by size; later ones are held out. They move the same traces.
LOOKED_AT = {4: 5, 16: 5, 64: 2}
FIGURES = ("ttft_mean", "ttft_p50", "ttft_p99", "tpot_p50", "goodput", "hit_rate")
# The aims, and the figure behind each: how far ours may be from the best named policy's, and from the oracle's.
AIMS = {
    "p50": ("ttft_p50", 1.03),
    "p99": ("ttft_p99", 1.03),
    "goodput": ("goodput", 0.97),
    "oracle": ("ttft_mean", 1.05),
}
STUDENT = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
)  # 97.5 %, by degrees of freedom from 1 on
NO_BOUNDS = QueueBounds(requests=1 << 30, bytes=1 << 60, wait_s=1e9)  # so that nothing is refused

Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the matrix."""

    trace: str
    replicas: int
    load: float

    def __str__(self) -> str:
        return f"{self.trace}, {self.replicas}, {self.load:.0%}"


def play(load: Workload, replicas: int, name: str, seed: int) -> Row:
    """One run."""
    queue = NO_BOUNDS if name == QUEUED else None
    policy = OURS if name == QUEUED else name
    conditions = Conditions(scrape_s=SCRAPE_S.get(policy, 1.0), queue=queue)
    choose = Random(f"{policy} {seed}").randrange
    run = Fleet(load, (GEMMA,) * replicas, policies(policy, choose), conditions).run()
    row = asdict(summary(run, WARM))
    return {key: row[key] for key in (*FIGURES, "requests", "refused", "preemptions")}


class State:
    """What has been played: a line of JSON for each run, and one for each capacity."""

    def __init__(self, path: Path, again: Sequence[str]) -> None:
        self._path = path
        self.runs: dict[tuple[Cell, int, str], Row] = {}
        self.capacities: dict[str, float] = {}
        self.seconds = 0.0
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line).get("policy") not in again]
        if len(kept) < len(lines):
            path.write_text("".join(f"{line}\n" for line in kept))
        for line in kept:
            self._take(json.loads(line))

    def _take(self, one: Mapping[str, Any]) -> None:
        if "capacity" in one:
            self.capacities[one["of"]] = one["capacity"]
            return
        self.runs[Cell(one["trace"], one["replicas"], one["load"]), one["seed"], one["policy"]] = one["row"]
        self.seconds += one["took_s"]

    def add(self, one: Mapping[str, Any]) -> None:
        """Write it down, and take it in."""
        with self._path.open("a") as file:
            file.write(json.dumps(one) + "\n")
        self._take(one)

    def whole(self, cell: Cell) -> int:
        """How many seeds of a cell have been played by all, from the first on."""
        seed = 0
        while all((cell, seed, name) in self.runs for name in (*NAMES, QUEUED)):
            seed += 1
        return seed

    def rate(self, trace: Workload, replicas: int) -> float:
        """Requests a second that so many replicas get done of a trace (`trial.capacity`)."""
        equal = min(replicas, 8)
        of = f"{trace.name} {equal}"
        if of not in self.capacities:
            self.add({"of": of, "capacity": capacity(trace, (GEMMA,) * equal)})
        return self.capacities[of] * replicas / equal


def play_all(
    state: State, folder: str, cells: Sequence[Cell], seeds: Mapping[int, int], names: Sequence[str]
) -> None:
    """Play what has not been played yet; all of one workload's policies together."""
    for cell in cells:
        trace: Workload | None = None
        for seed in range(seeds[cell.replicas]):
            missing = [name for name in names if (cell, seed, name) not in state.runs]
            if not missing:
                continue
            trace = trace or find(folder, cell.trace)
            rate, count = (
                cell.load * state.rate(trace, cell.replicas),
                max(LEAST, PER_REPLICA * cell.replicas),
            )
            played = scaled(trace, rate, count, Random(f"shift {seed}").random())
            for name in missing:
                began = time.perf_counter()
                row = play(played, cell.replicas, name, seed)
                took_s = round(time.perf_counter() - began, 3)
                key = {"trace": cell.trace, "replicas": cell.replicas, "load": cell.load}
                state.add({**key, "seed": seed, "policy": name, "took_s": took_s, "row": row})
            sys.stderr.write(f"{cell}, seed {seed}: {', '.join(missing)}\n")


def figures(state: State, cell: Cell, seeds: Iterable[int], names: Sequence[str]) -> dict[str, Row]:
    """Means over the seeds, by policy."""
    found = {}
    for name in names:
        rows = [state.runs[cell, seed, name] for seed in seeds if (cell, seed, name) in state.runs]
        if rows:
            found[name] = {key: sum(row[key] for row in rows) / len(rows) for key in FIGURES}
    return found


def ratios(rows: Mapping[str, Row], ours: str) -> Row:
    """Ours against the others: above 1 is worse for times, better for goodput."""
    mine = rows[ours]
    named = [row for name, row in rows.items() if name not in (OURS, QUEUED, ORACLE)]
    return {
        "p50": mine["ttft_p50"] / min(row["ttft_p50"] for row in named),
        "p99": mine["ttft_p99"] / min(row["ttft_p99"] for row in named),
        "goodput": mine["goodput"] / max(max(row["goodput"] for row in named), 1e-9),
        "sticky": mine["goodput"] / max(rows["sticky"]["goodput"], 1e-9),
        "oracle": mine["ttft_mean"] / rows[ORACLE]["ttft_mean"],
    }


def spread(state: State, cell: Cell, count: int, key: str) -> float:
    """How far the ratio of ours to the best may be off by the seeds that happened to be played: 95 %, either way."""
    figure, _ = AIMS[key]
    rows = figures(state, cell, range(count), NAMES)
    others = [name for name in rows if name not in (OURS, ORACLE)]
    best = min(others, key=lambda name: rows[name][figure] * (-1 if key == "goodput" else 1))
    against = ORACLE if key == "oracle" else best
    pairs = [
        (state.runs[cell, seed, OURS][figure], state.runs[cell, seed, against][figure])
        for seed in range(count)
    ]
    if count < 2:
        return inf
    mine, theirs = sum(one for one, _ in pairs), sum(other for _, other in pairs)
    without = [(mine - one) / max(theirs - other, 1e-9) for one, other in pairs]
    middle = sum(without) / count
    error = sqrt((count - 1) / count * sum((one - middle) ** 2 for one in without))
    return STUDENT[min(count - 1, len(STUDENT)) - 1] * error


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [log(max(value, 1e-9)) for value in values]
    return exp(sum(logs) / len(logs)) if logs else 0.0


def summed(title: str, found: Sequence[Row]) -> str:
    """One row of the summary."""
    if not found:
        return f"| {title} | 0 | | | | | | | |"
    within = (
        sum(one["p50"] <= 1.03 for one in found),
        sum(one["p99"] <= 1.03 for one in found),
        sum(one["goodput"] >= 0.97 for one in found),
        sum(one["oracle"] <= 1.05 for one in found),
    )
    means = [geometric(one[key] for one in found) for key in ("sticky", "goodput", "p50", "p99", "oracle")]
    cells = " | ".join(f"{value:.3f}" for value in means)
    held = " / ".join(map(str, within))
    return f"| {title} | {len(found)} | {cells} | {held} |"


def report(state: State, cells: Sequence[Cell], seeds: Mapping[int, int]) -> str:
    """The whole document."""
    names = (*NAMES, QUEUED)
    full = [cell for cell in cells if state.whole(cell)]
    runs = sum(1 for cell, _, _ in state.runs if cell in full)
    lines = [
        "# Policies in simulation, cell by cell",
        "",
        f"Written by `benchmarks/traffic/matrix.py` on {datetime.now(UTC):%Y-%m-%d}: {len(full)} cells, {runs} runs, "
        f"{state.seconds / 60:.0f} minutes of one shared core. Gemma 4 31B in BF16 on two H100 for each replica, as "
        "the planner sees it. Seeds by size: "
        + ", ".join(f"{size} replicas {count}" for size, count in seeds.items())
        + "".join(
            f"; {cell} {state.whole(cell)}" for cell in full if state.whole(cell) != seeds[cell.replicas]
        )
        + f". Requests in a run: {PER_REPLICA} for each replica, {LEAST} at least; the first {WARM:.0%} fill the "
        "caches and are not counted. A trace is cut where a run ends, so none is played to its end; larger "
        "fleets play more copies of it for the same time.",
        "",
        "How the cells are to be read: [traffic](../traffic.md#against-others-in-simulation).",
        "",
        "| ours against | cells | goodput over sticky | goodput over best | p50 over best | p99 over best "
        "| mean over oracle | cells within the aims: p50 / p99 / goodput / mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for ours in (OURS, QUEUED):
        by_cell = {cell: figures(state, cell, range(state.whole(cell)), names) for cell in full}
        every = {cell: ratios(rows, ours) for cell, rows in by_cell.items()}
        open_cells = [
            cell for cell, rows in by_cell.items() if min(row["goodput"] for row in rows.values()) < CEILING
        ]
        lines.append(summed(f"**{ours}**, all cells", list(every.values())))
        lines.append(summed("where goodput tells policies apart", [every[cell] for cell in open_cells]))
        for size in seeds:
            lines.append(
                summed(f"{size} replicas", [one for cell, one in every.items() if cell.replicas == size])
            )
        for load in sorted({cell.load for cell in full}):
            lines.append(
                summed(f"{load:.0%} load", [one for cell, one in every.items() if cell.load == load])
            )
        lines.append(summed("seeds that were held out", _held_out(state, full, names, ours, seeds)))
    mine = {cell: ratios(figures(state, cell, range(state.whole(cell)), names), OURS) for cell in full}
    lines += ["", *_outside(state, mine, seeds)]
    lines += [
        "",
        *_noise(state, full, seeds),
        "",
        "Seconds; goodput is the share of calls with a first token within ",
    ]
    lines[-1] += "2 s and 50 ms for each further one."
    for cell in full:
        lines += ["", f"## {cell}", "", *_table(figures(state, cell, range(state.whole(cell)), names))]
    return "\n".join(lines) + "\n"


def _held_out(
    state: State, cells: Sequence[Cell], names: Sequence[str], ours: str, seeds: Mapping[int, int]
) -> list[Row]:
    """Ratios of the runs by which nothing was chosen."""
    found = []
    for cell in cells:
        first = LOOKED_AT.get(cell.replicas, 0)
        if first < state.whole(cell):
            found.append(ratios(figures(state, cell, range(first, state.whole(cell)), names), ours))
    return found


def _outside(state: State, found: Mapping[Cell, Row], seeds: Mapping[int, int]) -> list[str]:
    """The cells in which an aim is missed, by how much, and how sure that is."""
    lines = [
        "| cell | p50 over best | p99 over best | goodput over best | mean over oracle |",
        "|---|---|---|---|---|",
    ]
    missed = sure = close = 0
    for cell, one in found.items():
        outside = {
            key: one[key] < aim if key == "goodput" else one[key] > aim for key, (_, aim) in AIMS.items()
        }
        if not any(outside.values()):
            close += any(
                abs(one[key] - AIMS[key][1]) < spread(state, cell, state.whole(cell), key) for key in AIMS
            )
            continue
        missed += 1
        marked, certain = [], False
        for key, out in outside.items():
            off = spread(state, cell, state.whole(cell), key)
            beyond = out and abs(one[key] - AIMS[key][1]) > off
            certain = certain or beyond
            text = f"{one[key]:.2f} ± {off:.2f}"
            marked.append(f"**{text}**" if beyond else f"*{text}*" if out else text)
        sure += certain
        lines.append(f"| {cell} | {' | '.join(marked)} |")
    return [
        f"Ours keeps all aims in {len(found) - missed} of {len(found)} cells, in {close} of them by less than other "
        f"seeds might take away. In {missed} it misses one: in {sure} of them by more than chance explains (**bold**); "
        "in the others the aim lies within what other seeds might give "
        "(*italic*; 95 %, see `benchmarks/traffic/matrix.py`; with two seeds that is wide).",
        "",
        *lines,
    ]


def _noise(state: State, cells: Sequence[Cell], seeds: Mapping[int, int]) -> list[str]:
    """How much the same figure differs between two seeds, in one line."""
    parts = []
    for key in ("ttft_p50", "ttft_p99", "goodput"):
        apart = []
        for cell in cells:
            for seed in range(1, state.whole(cell)):
                one, two = (state.runs[cell, which, OURS][key] for which in (seed - 1, seed))
                base = [state.runs[cell, which, "sticky"][key] for which in (seed - 1, seed)]
                if min(one, two, *base) > 0:
                    apart.append(abs(log(one / base[0]) - log(two / base[1])))
        apart.sort()
        if apart:
            parts.append(f"{key} {apart[len(apart) // 2]:.1%} ({apart[int(len(apart) * 0.9)]:.0%})")
    return [
        "How far ours over sticky's moves from one seed to the next, median (and 90 %): "
        + ", ".join(parts)
        + "."
    ]


def _table(rows: Mapping[str, Row]) -> list[str]:
    lines = [
        "| policy | first token: mean | median | 99 % | each further: median | goodput | found in caches |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (OURS, QUEUED, *(one for one in rows if one not in (OURS, QUEUED))):
        row = rows[name]
        lines.append(
            f"| {name} | {row['ttft_mean']:.3f} | {row['ttft_p50']:.3f} | {row['ttft_p99']:.2f} "
            f"| {row['tpot_p50']:.3f} | {row['goodput']:.3f} | {row['hit_rate']:.3f} |"
        )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Go on with the matrix, and write what is complete."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traffic.matrix", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--traces", default=os.environ.get("GEMSTEAD_TRACES", ""), help="directory of the traces"
    )
    parser.add_argument("--trace", default=",".join(TRACES), help="names, by commas")
    parser.add_argument("--seeds", default="4:7,16:7,64:2", help="for each size, how many")
    parser.add_argument("--load", default="0.6,0.8,0.95", help="shares of capacity")
    parser.add_argument("--state", default="matrix.jsonl", help="what has been played")
    parser.add_argument("--again", default="", help="policies to be played anew, by semicolons")
    parser.add_argument("--minutes", type=float, default=inf, help="stop after so many")
    parser.add_argument("--out", default="", help="Markdown file")
    asked = parser.parse_args(arguments)
    seeds = {int(size): int(count) for size, count in (part.split(":") for part in asked.seeds.split(","))}
    loads = [float(load) for load in asked.load.split(",")]
    cells = [Cell(trace, size, load) for size in seeds for trace in asked.trace.split(",") for load in loads]
    state = State(Path(asked.state), [name for name in asked.again.split(";") if name])
    until = time.monotonic() + asked.minutes * 60
    for cell in cells:
        if time.monotonic() < until:
            play_all(state, asked.traces, [cell], seeds, (*NAMES, QUEUED))
    written = report(state, cells, seeds)
    if asked.out:
        Path(asked.out).write_text(written)
    sys.stdout.write(written[: written.index("\n## ") if "\n## " in written else len(written)] + "\n")
    sys.stdout.write("compiled\n" if (fleet.__file__ or "").endswith(".so") else "interpreted\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
