"""One interleaved run: every gateway is started once, then takes each scenario in turn, round after round.

    for each round: for each scenario: direct, A, B, C, ...

so that two figures whose ratio is printed were taken seconds apart. Who is not being measured is stopped
(SIGSTOP) and uses nothing. Behaviour is checked after the load, on fresh processes, because some gateways
never give back what a stalled reader cost them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import behaviour, peers, scaling
from benchmarks.gateway.bars import Run
from benchmarks.gateway.gateways import DidNotStart, Gateway
from benchmarks.gateway.processes import Cpus, divide_cpus, may_be_realtime
from benchmarks.gateway.scenarios import SCENARIOS, Figures, Scenario, run
from benchmarks.gateway.subjects import SUBJECTS
from benchmarks.gateway.tools import Engine, build

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is wanted."""

    subjects: Sequence[str]
    rounds: int
    scenarios: Sequence[Scenario] = SCENARIOS
    behaviour_of: Sequence[str] = ()
    scaling_of: Sequence[str] = ()
    quick: bool = False


@dataclass
class Results:
    machine: dict[str, object]
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # why a subject was not measured
    starts_s: dict[str, float] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    behaviour: dict[str, Figures] = field(default_factory=dict)


def carry_out(order: Order, tell: Tell) -> Results:
    """Everything that was ordered, measured.

    Raises:
        CannotRun: the mock engine or the load generator cannot be built.
    """
    engine_program, load = build()
    cpus = divide_cpus()
    results = Results(machine=_machine(cpus))
    present = []
    for name in order.subjects:
        if why := SUBJECTS[name].missing():
            results.absent[name] = why
            tell(f"{name}: left out, {why}")
        else:
            present.append(name)
            results.versions[name] = _version(name)
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as home:
        engine = Engine(engine_program, cpus)
        try:
            _drive_load(order, present, Path(home), engine, load, cpus, results, tell)
            _check_behaviour(order, present, Path(home), engine, load, cpus, results, tell)
        finally:
            engine.close()
    results.machine["load_average_after"] = os.getloadavg()
    results.machine["seconds"] = round(time.time() - float(str(results.machine["began"])))
    return results


def _drive_load(
    order: Order,
    names: Iterable[str],
    home: Path,
    engine: Engine,
    load: Path,
    cpus: Cpus,
    results: Results,
    tell: Tell,
) -> None:
    gateways: dict[str, Gateway] = {}
    try:
        for name in names:
            try:
                gateways[name] = Gateway(SUBJECTS[name], home / name, engine.ports, cpus.gateway)
            except DidNotStart as trouble:
                results.absent[name] = str(trouble)
                tell(str(trouble))
                continue
            results.starts_s[name] = gateways[name].start_s
            tell(f"{name}: first answer after {gateways[name].start_s:.2f} s")
            gateways[name].pause()
        for number in range(order.rounds):
            for scenario in order.scenarios:
                if number == 0 or not (scenario.heavy and order.quick):
                    results.runs += _one_after_the_other(number, scenario, gateways, engine, load, cpus, tell)
    finally:
        for gateway in gateways.values():
            gateway.close()


def _one_after_the_other(
    number: int,
    scenario: Scenario,
    gateways: dict[str, Gateway],
    engine: Engine,
    load: Path,
    cpus: Cpus,
    tell: Tell,
) -> list[Run]:
    runs = []
    if scenario.latency:
        runs.append(Run(number, scenario.name, "direct", run(scenario, None, engine, load, cpus)))
    for name, gateway in gateways.items():
        if not gateway.alive() or (gateway.subject.slow and not scenario.slow_too):
            continue
        gateway.resume()
        runs.append(Run(number, scenario.name, name, run(scenario, gateway, engine, load, cpus)))
        gateway.pause()
    for done in runs:
        tell(_line(done))
    return runs


def _line(done: Run) -> str:
    had = done.figures
    delays = f"{had.get('delay_p50_us', 0):8.0f} {had.get('delay_p99_us', 0):9.0f} µs"
    trouble = "".join(f"  {name} {had[name]:.0f}" for name in ("wrong", "lost", "left_running") if had[name])
    return (
        f"round {done.round + 1} {done.scenario:13} {done.subject:14} {had['cpu_us']:9.1f} µs CPU "
        f"{had['per_s']:10.0f}/s  p50 p99 {delays}  cpu {had['cpu_share']:.2f}{trouble}"
    )


def _check_behaviour(
    order: Order,
    names: Sequence[str],
    home: Path,
    engine: Engine,
    load: Path,
    cpus: Cpus,
    results: Results,
    tell: Tell,
) -> None:
    for name in names:
        if name in results.absent or name not in order.behaviour_of:
            continue
        gateway = Gateway(SUBJECTS[name], home / f"{name}-behaviour", engine.ports, cpus.gateway)
        try:
            figures = behaviour.check(gateway, engine)
        finally:
            gateway.close()
        if name in order.scaling_of:
            figures |= scaling.two_workers(name, home, engine, load, cpus, 1 if order.quick else 3)
        results.behaviour[name] = figures
        tell(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))


def _version(name: str) -> str:
    if name.startswith("gemstead"):
        from gemstead import __version__

        return f"{__version__} {_commit()}".strip()
    if name in peers.PEERS:
        return peers.version(name)
    return peers.system_version(name)


def _commit() -> str:
    """The commit that is measured, with "+" if files differ from it; "" outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def python_of(program: Path) -> str:
    """The version of an interpreter, and whose it is; "" if it is not there."""
    if not program.exists():
        return ""
    code = "import platform, sys; print(platform.python_version(), sys.base_prefix)"
    done = subprocess.run([str(program), "-c", code], capture_output=True, text=True, check=False)
    version, _, prefix = done.stdout.strip().partition(" ")
    return f"{version} (the distribution's)" if prefix == "/usr" else version


def _machine(cpus: Cpus) -> dict[str, object]:
    return {
        "began": time.time(),
        "day": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "cpu": platform.machine(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": python_of(peers.compiled_python()) or python_of(Path(sys.executable)),
        "pinned": bool(cpus.gateway),
        "realtime": may_be_realtime(),
        "load_average_before": os.getloadavg(),
    }
