"""Compare policies on traces, fleet sizes and loads in simulation; print the table and keep it as JSON and Markdown.

    python -m benchmarks.traffic.compare --trace mooncake_synthetic --replicas 16 --load 0.8
    python -m benchmarks.traffic.compare --traces /data/traces --replicas 4,16,64 --load 0.6,0.8,0.95 --out results

Traces are looked for in `--traces` or in the directory that GEMSTEAD_TRACES names. The engine is Gemma 4 31B in BF16 on
two H100 as the planner sees it. The first fifth of a run fills the caches and is not counted. Each cell is played with
`--seeds` seeds, which move the trace against the clock and throw the policies' dice; figures are means over them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import exp, log
from pathlib import Path
from random import Random

from gemstead.simulate.engine import Engine
from gemstead.simulate.fleet import Conditions
from gemstead.simulate.report import Summary, summary
from gemstead.simulate.traces import read
from gemstead.simulate.trial import NAMES, ORACLE, OURS, SCRAPE_S, Trial, capacity, run
from gemstead.simulate.workload import Workload, scaled

WARM = 0.2
TRACES = (
    "mooncake_conversation", "mooncake_synthetic", "azure2023_conv", "azure2023_code", "agentic_claude_code",
    "servegen_reason", "servegen_mlarge",
)  # fmt: skip
PER_REPLICA, LEAST = 250, 2000  # requests in a run
# Gemma 4 31B, BF16, two H100 SXM by NVLink, vLLM, 8,192 tokens a step, as `gemstead.simulate.engine.planned` made it on
# 2026-11-21. Written down so that figures of different days can be compared.
GEMMA = Engine(
    base_s=0.01414,
    each_s=5.478e-05,
    context_s=1.4385e-08,
    window_s=1.43845e-07,
    window=1024,
    prefill_s=7.0585e-05,
    deeper_s=1.506e-09,
    deeper_window_s=3.765e-09,
    step_tokens=8192,
    most_running=256,
    kv_tokens=1_023_000,
    kv_window_tokens=10_240.0,
    first_s=0.019,
)
# Qwen3-32B, BF16, on the same cards: every layer keeps everything, so its cache is small, and any shared beginning can
# be taken up. It is what llm-d tunes with; its peak of 15,928 prompt tokens a second (guide, 2026-08-17) sets
# `prefill_s`, the rest is the planner's arithmetic for 64 layers of 64 heads, 8 of them with a cache, of 128.
DENSE = Engine(
    base_s=0.0151,
    each_s=5.5e-05,
    context_s=4.6e-08,
    window_s=0.0,
    window=0,
    prefill_s=6.1e-05,
    deeper_s=4.8e-09,
    deeper_window_s=0.0,
    step_tokens=8192,
    most_running=256,
    kv_tokens=279_000,
    first_s=0.019,
)
ENGINES = {"gemma": GEMMA, "dense": DENSE}


def find(folder: str, name: str) -> Workload:
    """The trace called `name`.

    Raises:
        FileNotFoundError: it is not there.
    """
    paths = sorted(Path(folder).glob(f"{name}*.gz")) if folder else []
    if not paths:
        raise FileNotFoundError(
            f"no trace {name}*.gz in {folder or 'GEMSTEAD_TRACES'}; say --traces DIRECTORY"
        )
    with gzip.open(paths[0], "rt") as lines:
        return read(lines, name)


def cell(
    trace: Workload,
    replicas: int,
    load: float,
    names: Sequence[str],
    seeds: int = 1,
    requests: int = 0,
    gateways: int = 1,
    engine: Engine = GEMMA,
) -> dict[str, list[Summary]]:
    """What each policy made of it, once for each seed."""
    engines = (engine,) * replicas
    rate = load * capacity(trace, engines)
    found: dict[str, list[Summary]] = {name: [] for name in names}
    for seed in range(seeds):
        played = scaled(
            trace, rate, requests or max(LEAST, PER_REPLICA * replicas), Random(f"shift {seed}").random()
        )
        for name in names:
            conditions = Conditions(scrape_s=SCRAPE_S.get(name, 1.0))
            trial = Trial(played, engines, name, gateways, conditions)
            found[name].append(summary(run(trial, Random(f"{name} {seed}").randrange), WARM))
    return found


def mean(found: Iterable[Summary]) -> dict[str, float]:
    """Each figure's mean."""
    rows = [asdict(one) for one in found]
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def judged(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours against the others in one cell: ratios above 1 are worse for times, below 1 for goodput."""
    if OURS not in rows:
        return {}
    ours = rows[OURS]
    named = [row for name, row in rows.items() if name not in (OURS, ORACLE)]
    ratios = {}
    if named:
        ratios["p50_over_best"] = ours["ttft_p50"] / max(min(row["ttft_p50"] for row in named), 1e-9)
        ratios["p99_over_best"] = ours["ttft_p99"] / max(min(row["ttft_p99"] for row in named), 1e-9)
        ratios["goodput_over_best"] = ours["goodput"] / max(max(row["goodput"] for row in named), 1e-9)
    if "sticky" in rows:
        ratios["goodput_over_sticky"] = ours["goodput"] / max(rows["sticky"]["goodput"], 1e-9)
    if ORACLE in rows:
        ratios["mean_over_oracle"] = ours["ttft_mean"] / max(rows[ORACLE]["ttft_mean"], 1e-9)
    return ratios


def table(rows: dict[str, dict[str, float]]) -> str:
    """One cell as text."""
    head = f"{'policy':18} {'mean':>7} {'p50':>7} {'p99':>7}  {'tpot50':>6} {'tpot99':>6}  goodput   hits preempt imbal"
    lines = [head]
    for name, row in rows.items():
        lines.append(
            f"{name:18} {row['ttft_mean']:7.3f} {row['ttft_p50']:7.3f} {row['ttft_p99']:7.2f}  "
            f"{row['tpot_p50'] * 1e3:6.1f} {row['tpot_p99'] * 1e3:6.0f}  {row['goodput']:7.3f}  {row['hit_rate']:5.3f} "
            f"{row['preemptions']:7.0f} {row['imbalance']:5.2f}"
        )
    return "\n".join(lines)


def overall(cells: Sequence[dict[str, object]]) -> str:
    """The figures that were asked for, over all cells."""
    ratios = [one["ratios"] for one in cells]
    lines = []
    for key, worst in (("p50_over_best", max), ("p99_over_best", max), ("goodput_over_best", min)):
        values = [(r[key], c["cell"]) for r, c in zip(ratios, cells, strict=True) if key in r]  # type: ignore
        if values:
            value, where = worst(values)
            lines.append(
                f"worst {key}: {value:.3f} ({where}); geometric mean {_geometric(v for v, _ in values):.3f}"
            )
    for key in ("goodput_over_sticky", "mean_over_oracle"):
        values = [r[key] for r in ratios if key in r]  # type: ignore[operator,index]
        if values:
            lines.append(f"geometric mean {key}: {_geometric(values):.3f}")
    return "\n".join(lines)


def _geometric(values: Iterable[float]) -> float:
    logs = [log(max(value, 1e-9)) for value in values]
    return exp(sum(logs) / len(logs))


def main(arguments: Sequence[str]) -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traffic.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--traces", default=os.environ.get("GEMSTEAD_TRACES", ""), help="directory of the traces"
    )
    parser.add_argument("--trace", default=",".join(TRACES), help="names, by commas")
    parser.add_argument("--replicas", default="4,16,64")
    parser.add_argument("--load", default="0.6,0.8,0.95", help="shares of capacity")
    parser.add_argument("--policy", default=",".join(NAMES))
    parser.add_argument(
        "--requests", type=int, default=0, help=f"in a run; 0: {PER_REPLICA} for each replica"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="gemma")
    parser.add_argument("--out", default="", help="path without suffix for .json and .md")
    asked = parser.parse_args(arguments)
    cells = []
    for name in asked.trace.split(","):
        trace = find(asked.traces, name)
        for replicas in map(int, asked.replicas.split(",")):
            for load in map(float, asked.load.split(",")):
                began = time.perf_counter()
                found = cell(
                    trace,
                    replicas,
                    load,
                    asked.policy.split(","),
                    asked.seeds,
                    asked.requests,
                    asked.gateways,
                    ENGINES[asked.engine],
                )
                rows = {policy: mean(each) for policy, each in found.items()}
                title = f"{name}, {replicas} replicas, {load:.0%}"
                print(f"\n{title}  ({time.perf_counter() - began:.1f} s)\n{table(rows)}", flush=True)
                cells.append({"cell": title, "rows": rows, "ratios": judged(rows)})
                print("  ".join(f"{key} {value:.3f}" for key, value in judged(rows).items()), flush=True)
    print("\n" + overall(cells))
    if asked.out:
        Path(f"{asked.out}.json").write_text(json.dumps(cells, indent=1) + "\n")
        parts = [f"### {one['cell']}\n\n```\n{table(one['rows'])}\n```\n" for one in cells]  # type: ignore[arg-type]
        Path(f"{asked.out}.md").write_text("\n".join([*parts, "```", overall(cells), "```", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
