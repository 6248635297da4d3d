"""Three times what a fleet can do, most of it from one caller: what the others feel, and what still gets done.

    python -m benchmarks.traffic.overload

Four tenants send six tenths of what the fleet can do; a fifth sends the rest of one time, then of three times capacity.
The gateway lets calls wait by production's rules and in its queue, and gives up calls that have waited `BEGIN_S` (an
aim of 2 s for the first token leaves that). The load is made up. Its conversations go on even where a turn was refused,
so what is served at three times is dearer than at one: less of it is in caches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

from benchmarks.traffic.compare import GEMMA, WARM
from gemstead.simulate.fleet import Conditions, Fleet
from gemstead.simulate.report import Summary, summary
from gemstead.simulate.synthetic import synthetic
from gemstead.simulate.trial import capacity, policies
from gemstead.simulate.workload import Request, Workload, scaled
from gemstead.traffic.queue import QueueBounds

ENGINES, SECONDS = 8, 150.0
SLOTS, BEGIN_S = 32, 1.0
OTHERS = ("a", "b", "c", "d")
OTHERS_LOAD = 0.6


def crowd(base: Workload, able: float, times: float, seed: int) -> Workload:
    """All callers' requests at `times` the capacity `able`."""
    dice = Random(f"tenants {seed}")
    rate = OTHERS_LOAD * able
    made: list[Request] = [
        replace(one, tenant=dice.choice(OTHERS))
        for one in scaled(base, rate, int(rate * SECONDS), dice.random()).requests
    ]
    if (rest := (times - OTHERS_LOAD) * able) > 0:
        flood = scaled(base, rest, int(rest * SECONDS), dice.random()).requests
        apart = 1 << 40  # the abusive caller's prompts are its own
        made += [
            replace(one, tenant="abuser", blocks=tuple(block + apart for block in one.blocks))
            for one in flood
        ]
    return replace(base, requests=tuple(sorted(made, key=lambda one: one.at_s)))


def _line(queue: str, times: float, rows: Sequence[tuple[Summary, Summary]]) -> str:
    others, every = [row[0] for row in rows], [row[1] for row in rows]
    p50, p99 = fmean(one.ttft_p50 for one in others), fmean(one.ttft_p99 for one in others)
    refused = sum(one.refused for one in others) / sum(one.requests for one in others)
    return (
        f"{queue:5} {times:.1f}x  others: p50 {p50:.2f} s, p99 {p99:.2f} s, refused {refused:.1%}, "
        f"goodput {fmean(one.goodput for one in others):.1%};  "
        f"all: {fmean(one.good_per_s for one in every):.2f} good a second"
    )


def main(arguments: Sequence[str]) -> int:
    """Print a line for each multiple, with a queue and without."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic.overload")
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args(arguments).seeds)
    base = synthetic("chat", 8000, 10.0, Random("overload"))
    engine = replace(GEMMA, most_running=SLOTS)
    able = capacity(base, (engine,) * ENGINES)
    print(f"{ENGINES} engines, {able:.1f} requests a second")
    for queue in (True, False):
        for times in (OTHERS_LOAD, 1.0, 3.0):
            rows = []
            for seed in seeds:
                conditions = Conditions(queue=QueueBounds(), begin_s=BEGIN_S) if queue else Conditions()
                load = crowd(base, able, times, seed)
                run = Fleet(
                    load, (engine,) * ENGINES, policies("ours", Random(seed).randrange), conditions
                ).run()
                rows.append((summary(run, WARM, tenants=OTHERS), summary(run, WARM)))
            print(_line("queue" if queue else "none", times, rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
