"""A working day with replicas that come and go: how many calls miss their aims, and how many replica-hours it takes.

    python -m benchmarks.traffic.autoscale            # some minutes
    python -m benchmarks.traffic.autoscale --start 60,180,600

The day has a quiet night, an office that comes at eight, a break at noon and an evening; each quarter of an hour has a
rate of its own by chance. Engines are Gemma 4 31B's (`compare.GEMMA`) with `SLOTS` places. Compared are a fixed number
(enough for the peak, and for the mean), what is in flight and waiting alone, and with it aims for first and further
tokens and a forecast, which has learned from two earlier days of the same shape, played with other dice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from random import Random

from benchmarks.traffic.compare import GEMMA
from gemstead.simulate.elastic import Decide, Elastic
from gemstead.simulate.fleet import Conditions
from gemstead.simulate.outcome import SERVED
from gemstead.simulate.trial import policies
from gemstead.simulate.workload import Request, Workload
from gemstead.traffic.autoscale import Scaling, Seen, State, step
from gemstead.traffic.queue import QueueBounds
from gemstead.traffic.season import Outlook

SLOTS, MOST = 8, 8
TTFT_S, TPOT_S = 2.0, 0.05
PEAK = 4.0  # calls a second
# Share of the peak by hour.
SHAPE = (
    0.04, 0.03, 0.02, 0.02, 0.03, 0.05, 0.08, 0.15, 0.75, 0.95, 1.0, 0.95,
    0.45, 0.85, 0.95, 0.9, 0.75, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.06,
)  # fmt: skip
SCALING = Scaling(least=1, most=MOST, replica_tokens=1e12, replica_calls=SLOTS, up_window_s=10.0)


def day(seed: int) -> Workload:
    """One day's calls, without shared beginnings."""
    dice = Random(f"day {seed}")
    made, now = [], 0.0
    weather = [dice.uniform(0.8, 1.2) for _ in range(96)]
    while now < 86_400.0:
        rate = PEAK * SHAPE[int(now // 3600) % 24] * weather[int(now // 900) % 96]
        now += -log(1.0 - dice.random()) / rate
        made.append(Request(now, int(200 + dice.expovariate(1 / 800)), int(50 + dice.expovariate(1 / 400))))
    return Workload("day", tuple(made))


def by_load(outlook: Outlook | None, start_s: float, aims: bool) -> Decide:
    """What is in flight and waiting; with `aims` what callers feel; with an outlook what is to come."""
    scaling = replace_(SCALING, ttft_s=TTFT_S, tpot_s=TPOT_S) if aims else SCALING
    state = State()

    def decide(seen: Seen, now: float) -> int:
        nonlocal state
        if outlook is not None:
            week_h = now / 3600.0
            outlook.look(week_h, seen.running_calls + seen.waiting_calls)
            seen = replace_(seen, forecast_calls=outlook.foresee(week_h, 1.5 * start_s / 3600.0))
        state, wanted = step(scaling, state, seen, now)
        return wanted

    return decide


def play(seed: int, decide: Decide, begin: int, start_s: float) -> tuple[float, float, Elastic]:
    """(share of calls that missed an aim or were refused, replica-hours, the run)."""
    engine = replace(GEMMA, most_running=SLOTS)
    fleet = Elastic(
        day(seed), (engine,) * MOST, policies("ours", Random(seed).randrange),
        Conditions(queue=QueueBounds(wait_s=60.0), scrape_s=10.0), decide, begin=begin, start_s=start_s,
    )  # fmt: skip
    run = fleet.run()
    missed = sum(one.status != SERVED or one.ttft_s > TTFT_S or one.tpot_s > TPOT_S for one in run.outcomes)
    return missed / len(run.outcomes), fleet.replica_s / 3600.0, fleet


def learned(start_s: float) -> Outlook:
    """What two earlier days taught, Monday and Tuesday taken for Thursday and Friday."""
    outlook = Outlook()
    for place, seed in enumerate((101, 102)):
        inner = by_load(None, start_s, aims=False)

        def decide(seen: Seen, now: float, place: int = place, inner: Decide = inner) -> int:
            outlook.look((place + 3) * 24.0 + now / 3600.0, seen.running_calls + seen.waiting_calls)
            return inner(seen, now)

        play(seed, decide, 1, start_s)
    return Outlook(outlook.season)


def fixed(count: int) -> Decide:
    """Always so many."""
    return lambda seen, now: count


def replace_(one: Scaling | Seen, **changes: float) -> Scaling | Seen:
    from msgspec.structs import replace as replaced

    return replaced(one, **changes)


def main(arguments: Sequence[str]) -> int:
    """Print a table for each start-up time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic.autoscale")
    parser.add_argument("--start", default="60,180,600", help="seconds that a start takes")
    starts = [float(word) for word in parser.parse_args(arguments).start.split(",")]
    print("| start | replicas | calls that missed an aim | replica-hours |")
    print("|---|---|---|---|")
    for count, why in ((MOST, "for the peak"), (3, "for the mean")):
        missed, hours, _ = play(1, fixed(count), count, 0.0)
        print(f"| | {count} fixed, {why} | {missed:.2%} | {hours:.0f} |", flush=True)
    for start_s in starts:
        ways: tuple[tuple[str, Callable[[], Decide]], ...] = (
            ("by calls in flight and waiting", lambda s=start_s: by_load(None, s, False)),
            ("and aims", lambda s=start_s: by_load(None, s, True)),
            ("and aims and forecast", lambda s=start_s: by_load(learned(s), s, True)),
        )
        for name, way in ways:
            missed, hours, _ = play(1, way(), 1, start_s)
            print(f"| {start_s:.0f} s | {name} | {missed:.2%} | {hours:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
