"""Coefficients learned from runs: of this machine, or of everybody's that were published.

Each run says how long a token took with so many requests at once. The coefficients that explain the runs best are
found by moving one at a time up and down by a factor, keeping what lowers

    sum of bent(log(estimated / measured))  +  pull x sum of log(coefficient / start)^2

`bent` is the square of a small error and grows straight beyond 0.2 (Huber's loss), because one odd run must not bend
all the others. The pull keeps a coefficient that no run speaks about where it was, and keeps a few runs from being
explained by absurd values. The same runs give the same coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gemstead.plan.drafting import cycle
from gemstead.plan.setup import Setup
from gemstead.plan.step import KNOWN, work

PULL = 0.02
BEND = 0.2
MOST_FACTOR = 4.0  # a coefficient never leaves its start by more
FITTED = ("reached", "launch_ms", "each_ms", "mixed_share", "exchange_ms", "routing_ms")
ALSO_SCALED = ("attention_share", "link_share")  # too small a part of a step for a few runs to tell
_FIRST_MOVE, _LAST_MOVE = 1.5, 1.01


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement. From `bench`, from an engine's metrics, or published."""

    setup: Setup
    running: int  # requests at once in the engine
    prompt_tokens: float
    output_tokens: float
    tpot_s: float
    text: str = "mixed"  # what was written, for a setup with a drafter: a key of `drafting.ACCEPTED`


def estimated_s(run: Run, known: Mapping[str, float] = KNOWN) -> float:
    """What the formula says for a run, in seconds for each token."""
    drafts = run.setup.draft_tokens if run.setup.drafter else 0
    job = work(run.setup, known)
    return cycle(job, run.running, run.prompt_tokens, run.output_tokens, drafts, run.text).step_s


def error(run: Run, known: Mapping[str, float] = KNOWN) -> float:
    """By what share the formula is off: 0.1 is 10 % too slow."""
    return estimated_s(run, known) / run.tpot_s - 1


def fit(
    runs: Sequence[Run],
    names: Iterable[str],
    start: Mapping[str, float] = KNOWN,
    pull: float = PULL,
) -> dict[str, float]:
    """All coefficients, those of `names` moved to where they explain the runs best.

    Raises:
        ValueError: a name that `start` lacks.
    """
    free = list(names)
    if missing := [name for name in free if name not in start]:
        raise ValueError(f"no coefficient is called {', '.join(missing)}")
    found = dict(start)
    best = _misfit(runs, found, start, free, pull)
    move = _FIRST_MOVE
    while move > _LAST_MOVE:
        before = best
        for name in free:
            for factor in (move, 1 / move):
                tried = found | {name: found[name] * factor}
                if (misfit := _misfit(runs, tried, start, free, pull)) < best - 1e-12:
                    found, best = tried, misfit
        if best >= before - 1e-9:
            move = math.sqrt(move)
    return found


def calibrated(runs: Sequence[Run], start: Mapping[str, float] = KNOWN) -> dict[str, float]:
    """The coefficients of one setup on this machine, from its own runs.

    One run can only say that everything is slower or faster by a factor; several at different numbers of requests
    also tell the fixed part from the part of each request.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise ValueError("at least one run is needed to calibrate")
    names = set(_used(runs[0], start, FITTED))
    if len({run.running for run in runs}) == 1:
        slower = median(run.tpot_s / estimated_s(run, start) for run in runs)
        names |= set(_used(runs[0], start, ALSO_SCALED))
        return {
            name: _scaled(name, value, slower) if name in names else value for name, value in start.items()
        }
    return fit(runs, sorted(names), start, pull=PULL / 10)


def _used(run: Run, start: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """The most specific names that a run's setup reads, of these coefficients."""
    card = run.setup.accelerator
    kinds = ("" if card.unified else card.vendor, run.setup.engine, card.interconnect)
    used = []
    for name in names:
        specific = [f"{name}.{kind}" for kind in kinds if f"{name}.{kind}" in start]
        used.append(specific[-1] if specific else name)
    return used


def _scaled(name: str, value: float, slower: float) -> float:
    return value * slower if "_ms" in name else value / slower


def _misfit(
    runs: Sequence[Run],
    known: Mapping[str, float],
    start: Mapping[str, float],
    free: Sequence[str],
    pull: float,
) -> float:
    moved = [math.log(known[name] / start[name]) for name in free]
    if any(abs(one) > math.log(MOST_FACTOR) for one in moved):
        return math.inf
    off = sum(_bent(math.log(estimated_s(run, known) / run.tpot_s)) for run in runs)
    return off + pull * sum(one * one for one in moved)


def _bent(off: float) -> float:
    return off * off if abs(off) <= BEND else BEND * (2 * abs(off) - BEND)
