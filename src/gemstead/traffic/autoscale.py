"""How many replicas a pool should have, as a step function: `step(state, seen, now) -> (state, wanted)`.

What is wanted follows from what is there, in the unit that fills engines up: tokens in flight, of calls that
run and calls that wait. The most demanding of these counts:

    load       tokens in flight and waiting, over what one replica should have in flight: `TARGET` of its capacity
    latency    more in proportion when first tokens, or further ones, come later than they should, at most doubled
    forecast   what the hours of the week (`season.py`) or a calendar say for when a replica started now would be ready

Then it is made calm, because a replica costs minutes to start and takes its cache with it when it goes:

- within `TOLERANCE` of what there is nothing changes;
- up: what has been wanted throughout `up_window_s` (0: at once);
- down: the most that was wanted at any time in `down_window_s`, and never while calls wait or tokens are late;
- at most `MOST_UP` times as many at once, and one less at a time.

These are the rules of Kubernetes' HorizontalPodAutoscaler (tolerance 0.1, scale-down window 300 s, at most
doubled). A pool may go to nothing after `idle_s` without a call, if its least is 0, and the first call that
waits brings it back.
"""

from __future__ import annotations

from math import ceil

import msgspec

TOLERANCE = 0.1
FORESEEN = 0.5  # calls: fewer are no reason to have a replica ready
TARGET = 0.8  # of what a replica can have in flight: full is where waiting begins
MOST_UP = 2.0


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds and the pace of one pool."""

    least: int = 1
    most: int = 1
    replica_tokens: float = (
        100_000.0  # in flight in one replica when it is full: KV tokens, or slots x context
    )
    replica_calls: int = 0  # the same in calls: its slots; 0 is unknown
    ttft_s: float = 0.0  # aim for first tokens; 0: none
    tpot_s: float = 0.0  # aim for each further token; 0: none
    up_window_s: float = 0.0
    down_window_s: float = 300.0
    idle_s: float = 900.0  # without a call, until a pool whose least is 0 goes to nothing


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is the case in a pool now."""

    replicas: int  # that run or start
    running_tokens: float = 0.0  # prompt and answer of the calls in flight
    running_calls: int = 0
    waiting_tokens: float = 0.0
    waiting_calls: int = 0
    ttft_s: float = 0.0  # that callers see lately, at the percentile that is aimed at; 0: unknown
    tpot_s: float = 0.0  # the same for each further token
    forecast_calls: float = 0.0  # in flight when a replica started now would be ready; 0: none
    forecast_tokens: float = 0.0  # in flight when a replica started now would be ready; 0: none
    forecast_replicas: int = 0  # said by a calendar


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was wanted, lately."""

    wanted: int = 0  # what the last step said
    asked: tuple[tuple[float, int], ...] = ()  # (when, how many), the oldest first
    busy_at: float = 0.0  # when the last call was there
    began_at: float | None = None  # of the first step; None: there was none


def step(scaling: Scaling, state: State, seen: Seen, now: float) -> tuple[State, int]:
    """The state after looking at the pool, and how many replicas it should have."""
    busy = bool(seen.running_calls or seen.waiting_calls or seen.forecast_tokens or seen.forecast_replicas)
    busy = busy or seen.forecast_calls >= FORESEEN
    began_at = now if state.began_at is None else state.began_at
    busy_at = now if busy or state.began_at is None else state.busy_at
    asked = _asked(scaling, seen)
    idle = scaling.least == 0 and not busy and now - busy_at >= scaling.idle_s
    asked = 0 if idle else max(asked, 1 if scaling.least == 0 and (busy or seen.replicas) else scaling.least)
    asked = min(asked, scaling.most)
    keep_s = max(scaling.up_window_s, scaling.down_window_s)
    history = (*((at, count) for at, count in state.asked if now - at <= keep_s), (now, asked))
    wanted = asked if idle else _calm(scaling, history, seen, now, now - began_at)
    wanted = min(max(wanted, scaling.least), scaling.most)
    return State(wanted=wanted, asked=_thin(history), busy_at=busy_at, began_at=began_at), wanted


def _asked(scaling: Scaling, seen: Seen) -> int:
    """How many this moment asks for."""
    tokens = max(seen.running_tokens + seen.waiting_tokens, seen.forecast_tokens)
    need = tokens / (scaling.replica_tokens * TARGET)
    if scaling.replica_calls:
        calls = max(seen.running_calls + seen.waiting_calls, seen.forecast_calls)
        need = max(need, calls / (scaling.replica_calls * TARGET))
    if (late := _late(scaling, seen)) > 1.0 and seen.running_calls + seen.waiting_calls:
        need = max(need, seen.replicas * min(late, MOST_UP))
    if seen.replicas and abs(need / seen.replicas - 1.0) <= TOLERANCE:
        need = seen.replicas
    return max(ceil(need - 1e-9), seen.forecast_replicas)


def _late(scaling: Scaling, seen: Seen) -> float:
    """How many times longer than its aim the later kind of token takes; 0 where there is no aim or nothing is known."""
    first = seen.ttft_s / scaling.ttft_s if scaling.ttft_s else 0.0
    return max(first, seen.tpot_s / scaling.tpot_s if scaling.tpot_s else 0.0)


def _calm(
    scaling: Scaling, history: tuple[tuple[float, int], ...], seen: Seen, now: float, watched_s: float
) -> int:
    """What is done of what was asked for. Nothing, until a window has been watched from its beginning."""
    up = min(count for at, count in history if now - at <= scaling.up_window_s)
    down = max(count for at, count in history if now - at <= scaling.down_window_s)
    have = seen.replicas
    if up > have and watched_s >= scaling.up_window_s:
        return min(up, max(int(have * MOST_UP), have + 1))
    late = _late(scaling, seen) > 1.0
    if down < have and watched_s >= scaling.down_window_s and not seen.waiting_calls and not late:
        return have - 1
    return have


def _thin(history: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    """At most 256 entries: of several in a row that say the same, the first and the last are enough."""
    kept: list[tuple[float, int]] = []
    for entry in history:
        if len(kept) >= 2 and kept[-1][1] == kept[-2][1] == entry[1]:
            kept[-1] = entry
        else:
            kept.append(entry)
    return tuple(kept[-256:])
