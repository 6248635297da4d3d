"""The loads under which gateways are compared, and what one run of one load on one gateway gives.

A run is preceded by a short warm-up that is not counted. What it costs is the CPU time of the gateway's process
tree from just before the load starts until just after it ends, divided by the requests answered or the chunks
delivered. After every run the engine is asked whether it still works on anything: a gateway that lets
requests run on after its clients have gone would spoil the next figures, and its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.gateway.gateways import Gateway
from benchmarks.gateway.processes import Cpus
from benchmarks.gateway.tools import CannotRun, Engine, start_load

Figures = dict[str, float]


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    kind: Literal["closed", "rate", "streams"]
    conns: int
    seconds: float
    prompt_bytes: int = 1024
    pace_us: int = 0  # streams: time between tokens; 0 is a flood
    rate: int = 0  # requests per second
    ramp_s: float = 0.0  # streams start evenly over this time
    quick: bool = False  # part of --quick
    slow_too: bool = False  # also for gateways that saturate early
    latency: bool = False  # run against the bare engine as well
    heavy: bool = False  # --quick runs it once

    @property
    def tokens(self) -> int:
        return int(self.seconds * 1e6 / self.pace_us) if self.pace_us else 100_000_000

    @property
    def unit(self) -> str:
        return "chunks" if self.kind == "streams" else "done"


SCENARIOS = (
    Scenario("json-c1", "JSON, 1 connection", "closed", 1, 2, latency=True, slow_too=True),
    Scenario("json-c32", "JSON, 32 connections", "closed", 32, 2, quick=True, slow_too=True),
    Scenario("json-c256", "JSON, 256 connections", "closed", 256, 2),
    Scenario("json-16k", "JSON, 16 KB prompt, 32 connections", "closed", 32, 2, prompt_bytes=16_384),
    Scenario("json-400k", "JSON, 400 KB prompt, 4 connections", "closed", 4, 2, prompt_bytes=400_000),
    Scenario("rate-1000", "JSON, 1,000 requests/s", "rate", 64, 3, rate=1000, quick=True, latency=True),
    Scenario(
        "streams-256",
        "256 streams, 50 ms",
        "streams",
        256,
        3,
        pace_us=50_000,
        ramp_s=0.5,
        quick=True,
        slow_too=True,
        latency=True,
    ),
    Scenario(
        "streams-1000",
        "1,000 streams, 50 ms",
        "streams",
        1000,
        4,
        pace_us=50_000,
        ramp_s=1,
        quick=True,
        latency=True,
        heavy=True,
    ),
    Scenario(
        "streams-40k",
        "1,000 streams, 25 ms",
        "streams",
        1000,
        4,
        pace_us=25_000,
        ramp_s=1,
        quick=True,
        latency=True,
        heavy=True,
    ),
    Scenario("flood", "16 streams, unpaced", "streams", 16, 1.5, ramp_s=0.01),
)


def run(scenario: Scenario, gateway: Gateway | None, engine: Engine, load: Path, cpus: Cpus) -> Figures:
    """One run's figures; `gateway` None asks the engine itself. See `_figures` for what they are;
    `cpu_share` is the part of a CPU that was used while the load ran, `left_running` what the engine still works on.

    Raises:
        CannotRun: the load generator failed.
    """
    engine.behave(tokens=20, pace_us=10_000)
    _drive(scenario, gateway, engine, load, cpus, warm=True)
    engine.behave(tokens=scenario.tokens, pace_us=scenario.pace_us)
    before, began = (gateway.cpu_s() if gateway else 0.0), time.monotonic()
    said, rss, pss = _drive(scenario, gateway, engine, load, cpus)
    share = ((gateway.cpu_s() if gateway else 0.0) - before) / (time.monotonic() - began)
    used = _cpu_at_rest(gateway) - before if gateway else 0.0
    figures = _figures(scenario, said, used) | {"cpu_share": share}
    figures["engine_late_us"] = engine.stats()["latest_us"]
    figures["left_running"] = engine.idle(within_s=2.0)
    if gateway:
        figures |= {"rss_mib": rss / 2**20, "pss_mib": pss / 2**20}
    return figures


def _drive(
    scenario: Scenario, gateway: Gateway | None, engine: Engine, load: Path, cpus: Cpus, *, warm: bool = False
) -> tuple[dict[str, float], int, int]:
    """What the load generator said, and the gateway's largest RSS and PSS meanwhile."""
    seconds = 0.4 if warm else scenario.seconds
    if scenario.kind == "streams" and not warm and scenario.pace_us:
        seconds += scenario.ramp_s + 3  # time to be late in
    process = start_load(
        load,
        cpus,
        "closed" if warm else scenario.kind,
        port=gateway.port if gateway else engine.ports[0],
        conns=min(scenario.conns, 32) if warm else scenario.conns,
        seconds=seconds,
        prompt=scenario.prompt_bytes,
        rate=scenario.rate or 1,
        ramp=scenario.ramp_s,
        **({"key": gateway.key} if gateway and gateway.key else {}),
    )
    rss = pss = 0
    began = time.monotonic()
    while process.poll() is None:
        if gateway and not warm and time.monotonic() - began > seconds / 4:
            rss = max(rss, gateway.rss_bytes())
            pss = pss or gateway.pss_bytes()
        time.sleep(0.02 if warm else 0.2)
        if time.monotonic() - began > seconds + 20:
            process.kill()
    assert process.stdout is not None
    line = process.stdout.read()
    process.stdout.close()
    if process.returncode:
        raise CannotRun(f"the load generator ended with {process.returncode} in {scenario.name}")
    said: dict[str, float] = json.loads(line)
    return said, rss, pss


def _cpu_at_rest(gateway: Gateway, patience_s: float = 5.0) -> float:
    """The CPU seconds used by the time that the gateway uses under a tenth of its CPU again."""
    until, before = time.monotonic() + patience_s, gateway.cpu_s()
    while True:
        time.sleep(0.1)
        now = gateway.cpu_s()
        if now - before <= 0.01 or time.monotonic() > until:
            return now
        before = now


def _figures(scenario: Scenario, said: Mapping[str, float], used_s: float) -> Figures:
    """CPU per unit in µs, units per second, delays in µs, and what went wrong, as counts."""
    units = said[scenario.unit]
    figures = {name: value for name, value in said.items() if name.endswith("_us")}
    figures |= {
        "units": units,
        "per_s": units / said["seconds"] if said["seconds"] else 0.0,
        "cpu_us": used_s * 1e6 / units if units else float("nan"),
        "wrong": said["refused"] + said["failed"] + said["broken"],
        "lost": said["unfinished"] if scenario.kind != "streams" or scenario.pace_us else 0,
    }
    return figures
