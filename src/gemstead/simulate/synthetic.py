"""Loads that are made up, for who has no trace: said shapes with said means, drawn with dice that are handed in.

    chat        conversations of a few turns; every app has a system prompt of its own, each turn carries those before
    documents   questions on long documents, some of which are asked about far more often than others (Zipf)
    agents      long contexts that grow by tool results; the next request comes when the last has been answered
    short       questions that share nothing: no policy can gain from a cache

Lengths are log-normal around their means with a sigma of `SIGMA`, arrivals are Poisson, pauses exponential. The numbers
are assumed, not measured. A real trace is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import cos, exp, log, pi, sqrt
from typing import Protocol

from gemstead.simulate.workload import BLOCK_TOKENS, Request, Workload

SIGMA = 0.8
ZIPF = 1.0


class Dice(Protocol):
    """Where chance comes from, such as `random.Random(seed)`."""

    def random(self) -> float:
        """A number from 0 up to, not including, 1."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Means. Tokens, seconds."""

    shared: int  # tokens at the beginning that all of one app have in common
    apps: int
    turns: float
    asked: float  # tokens that a turn adds before its answer
    answered: float
    think_s: float
    closed: bool = False  # whether a turn waits for the answer before it


SHAPES = {
    "chat": Shape(shared=1024, apps=8, turns=5, asked=150, answered=300, think_s=30),
    "documents": Shape(shared=8192, apps=200, turns=1, asked=120, answered=250, think_s=0),
    "agents": Shape(shared=8192, apps=4, turns=20, asked=2500, answered=300, think_s=5, closed=True),
    "short": Shape(shared=0, apps=1, turns=1, asked=500, answered=200, think_s=0),
}


def synthetic(kind: str, requests: int, rate: float, dice: Dice) -> Workload:
    """`requests` of this kind, about `rate` a second.

    Raises:
        KeyError: there is no such kind; `SHAPES` has them.
    """
    shape = SHAPES[kind]
    ids = _Ids()
    starts = [tuple(ids() for _ in range(shape.shared // BLOCK_TOKENS)) for _ in range(shape.apps)]
    popular = list(accumulate(1 / (place + 1) ** ZIPF for place in range(shape.apps)))
    made: list[Request] = []
    now = 0.0
    while len(made) < requests:
        now += -log(1.0 - dice.random()) * shape.turns / rate
        app = _among(popular, dice)
        _session(shape, starts[app], f"app-{app}", now, made, ids, dice)
    made = made[:requests]
    order = sorted(range(len(made)), key=lambda place: (made[place].at_s, place))
    if shape.closed:
        return Workload(kind, tuple(made))
    return Workload(kind, tuple(made[place] for place in order))


class _Ids:
    """Ids of blocks that nobody has had before."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        self._last += 1
        return self._last


def _session(
    shape: Shape,
    start: tuple[int, ...],
    app: str,
    now: float,
    made: list[Request],
    ids: Callable[[], int],
    dice: Dice,
) -> None:
    blocks, tokens, last = start, shape.shared, -1
    turns = 1
    while dice.random() > 1 / shape.turns:
        turns += 1
    for turn in range(turns):
        tokens += _length(shape.asked, dice)
        answer = _length(shape.answered, dice)
        blocks = (*blocks, *(ids() for _ in range(tokens // BLOCK_TOKENS - len(blocks))))
        pause = -log(1.0 - dice.random()) * shape.think_s if turn else 0.0
        if shape.closed:
            made.append(Request(now, tokens, answer, blocks, app, 0, last, pause))
            last = len(made) - 1
        else:
            now += pause
            made.append(Request(now, tokens, answer, blocks, app))
        tokens += answer


def _length(mean: float, dice: Dice) -> int:
    """Tokens, log-normal with this mean."""
    normal = sqrt(-2.0 * log(1.0 - dice.random())) * cos(2.0 * pi * dice.random())
    return max(1, round(mean * exp(SIGMA * normal - SIGMA * SIGMA / 2)))


def _among(sums: list[float], dice: Dice) -> int:
    drawn = dice.random() * sums[-1]
    return next(place for place, upto in enumerate(sums) if drawn <= upto)
