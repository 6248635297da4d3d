"""Whether a drafter earns its keep, as a step function over what an engine counts: `step(state, seen, now)`.

A drafter (MTP) writes some tokens ahead and the model checks them in one pass. It pays as long as enough of them are
kept; each one that is not costs a pass of the drafter and room in the model's step. Over a window of `WINDOW_S` with at
least `LEAST_DRAFTED` tokens drafted:

- *wrong pair*: less than `WRONG_PAIR` kept. No text is that hard: the drafter belongs to other weights
  (vllm-project/vllm#41789: 0.2 %). Off, at once, and an alert.
- *off*: less kept than one token would have to be for its drafter's pass (`POOR`), even at a depth of 1.
- *lower*: the last places of a draft are hardly ever kept. With share `a` of all drafted tokens kept at depth `d`, a
  lower depth keeps almost as many: go down by one, and by half where less than `LOW` are kept.
- *lower* as well when the slowest answers (p99 of the time per token) became `SLOWER` times what they were at the
  start of the watch while the load did not grow: with many requests at once drafting costs more than it brings.

It never raises a depth: the planner chose the highest that pays. A decision is applied by starting the engine anew
(`wiring/drafts.py`), with a watch of its own, and needs two windows in a row. The bounds are ours; shares are 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

WINDOW_S = 300.0
LEAST_DRAFTED = 2_000  # in a window: fewer say little (a share of 0.2 is then known to within 0.02)
WRONG_PAIR = 0.20
POOR = 0.30
LOW = 0.45
SLOWER = 1.5
SAME_LOAD = 1.2  # times the requests at once of the beginning


class Verdict(StrEnum):
    WATCHING = "watching"  # not enough has been seen
    KEEP = "keep"
    LOWER = "lower"
    OFF = "off"
    WRONG_PAIR = "wrong_pair"


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine's counters say: tokens since its start, and how its slowest answers and its load are now."""

    drafted: float
    accepted: float
    p99_s: float | None = None  # time per token of the slowest hundredth; None: not measured
    running: float | None = None  # requests at once


@dataclass(frozen=True, slots=True)
class Watch:
    """The state of one engine's watch."""

    depth: int  # tokens written ahead; 0: no drafter
    verdict: Verdict = Verdict.WATCHING
    to: int = 0  # the depth that is advised
    kept: float | None = None  # share of the last whole window
    why: str = ""
    since: float | None = None  # when the window began
    first: Seen | None = None  # at its beginning
    usual: Seen | None = None  # p99 and load when the watch began
    pending: Verdict = Verdict.KEEP  # what the last window said; twice in a row counts

    @property
    def alert(self) -> bool:
        """Whether somebody should look at it now."""
        return self.verdict is Verdict.WRONG_PAIR


def begin(depth: int) -> Watch:
    """The watch of an engine that was just started with this depth."""
    return Watch(depth, to=depth)


def step(state: Watch, seen: Seen, now: float) -> Watch:
    """The watch after what was seen. Counters that went back mean that the engine was started anew."""
    first, usual = state.first, state.usual
    if not state.depth:
        return state
    if first is None or state.since is None or seen.drafted < first.drafted:
        return replace(state, since=now, first=seen, usual=usual or _measured(seen))
    if now - state.since < WINDOW_S or seen.drafted - first.drafted < LEAST_DRAFTED:
        return state
    kept = (seen.accepted - first.accepted) / (seen.drafted - first.drafted)
    state = replace(state, since=now, first=seen, kept=kept, usual=usual or _measured(seen))
    found, to, why = _judged(state, seen, kept)
    urgent = found is Verdict.WRONG_PAIR
    again = found is state.pending
    if found is Verdict.KEEP or urgent or again:
        return replace(state, verdict=found, to=to, why=why, pending=found)
    return replace(state, pending=found)


def _measured(seen: Seen) -> Seen | None:
    return seen if seen.p99_s else None


def _judged(state: Watch, seen: Seen, kept: float) -> tuple[Verdict, int, str]:
    """What one window says: the verdict, the depth to go to, and the reason."""
    depth = state.depth
    share = f"{kept:.0%} of the drafted tokens are kept"
    if kept < WRONG_PAIR:
        return Verdict.WRONG_PAIR, 0, f"{share}: the drafter belongs to other weights"
    if kept < POOR:
        return Verdict.OFF, 0, f"{share}: too few to pay for the drafter"
    if kept < LOW and depth > 1:
        return Verdict.LOWER, max(1, depth // 2), f"{share}: the last places of a draft are hardly ever kept"
    usual = state.usual
    if usual and usual.p99_s and seen.p99_s and seen.p99_s > SLOWER * usual.p99_s and _same_load(usual, seen):
        slower = f"the slowest answers take {seen.p99_s / usual.p99_s:.1f} times as long for each token"
        return (Verdict.LOWER, depth - 1, slower) if depth > 1 else (Verdict.OFF, 0, slower)
    return Verdict.KEEP, depth, share


def _same_load(usual: Seen, seen: Seen) -> bool:
    return usual.running is None or seen.running is None or seen.running <= SAME_LOAD * max(usual.running, 1)
