"""Is a second worker worth as much as the first?

With four CPUs or more two workers get a CPU each, and what they carry is compared with what one carries. With
fewer there is no room for that: both share the one CPU of the gateway, and what the pair carries on it is
compared with what one worker carries on it alone. If nothing is lost there (no lock, no shared queue) and the load
is split evenly, two CPUs carry twice as much.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gateway.gateways import Gateway
from benchmarks.gateway.processes import Cpus
from benchmarks.gateway.scenarios import Figures, Scenario, run
from benchmarks.gateway.subjects import SUBJECTS
from benchmarks.gateway.tools import Engine

LOAD = Scenario("json-c256", "", "closed", 256, 2)


def two_workers(name: str, folder: Path, engine: Engine, load: Path, cpus: Cpus, rounds: int) -> Figures:
    """`two_over_one`: what two workers carry over what one does, median of the rounds; `two_smaller_share`: the less
    busy worker's part of the CPU time (0.5: an even split); `two_on_one_cpu`: 1 if worked out as told above."""
    subject = SUBJECTS[name]
    one = Gateway(subject, folder / f"{name}-one", engine.ports, cpus.gateway)
    try:
        two = Gateway(subject, folder / f"{name}-two", engine.ports, cpus.two_workers, workers=2)
    except BaseException:
        one.close()
        raise
    try:
        pairs = [_pair(one, two, engine, load, cpus) for _ in range(rounds)]
    finally:
        one.close()
        two.close()
    shared = cpus.two_workers == cpus.gateway
    return {
        "two_over_one": statistics.median(ratio for ratio, _ in pairs) * (2 if shared else 1),
        "two_smaller_share": statistics.median(share for _, share in pairs),
        "two_on_one_cpu": float(shared),
        "cpus": float(os.cpu_count() or 1),
    }


def _pair(one: Gateway, two: Gateway, engine: Engine, load: Path, cpus: Cpus) -> tuple[float, float]:
    two.pause()
    alone = run(LOAD, one, engine, load, cpus)["per_s"]
    one.pause()
    two.resume()
    before = two.cpu_each_s()
    together = run(LOAD, two, engine, load, cpus)["per_s"]
    one.resume()
    return together / alone, _smaller_share([b - a for a, b in zip(before, two.cpu_each_s(), strict=True)])


def _smaller_share(used: Sequence[float]) -> float:
    total = sum(used)
    return min(used) / total if len(used) > 1 and total else 1.0
