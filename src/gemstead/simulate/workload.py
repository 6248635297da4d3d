"""What callers send: requests with their times, lengths and shared beginnings, and ways to make more or less of them.

Load is scaled as traces want it: by independent copies, each with ids of its own and its clock turned by a part of the
span, and only the rest by stretching time, because squeezing time would change how long a conversation rests between
its turns.

Where requests follow each other (`after`, `think_s`: a closed loop, such as an agent's session) there is no rate to
scale. Such a workload is played by as many *lanes* as would make that rate if answers took `ANSWER_S`: each lane plays
sessions one after the other, from a place in the middle of one, so that young and old sessions are mixed from the
start. Pauses are cut at `MOST_THINK_S`: a run of minutes would else hold hundreds of sessions that never speak twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

BLOCK_TOKENS = 512  # of one id; Mooncake's
ANSWER_S = 5.0
MOST_THINK_S = 30.0
GOLDEN = 0.618034  # multiples of it, less whole turns, are spread evenly


@dataclass(frozen=True, slots=True)
class Request:
    """One call that will be made."""

    at_s: float  # from the beginning; of a follower: not before that
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[
        int, ...
    ] = ()  # one id for each full block of the prompt; equal ids are equal prompts so far
    tenant: str = "default"
    priority: int = 0
    after: int = -1  # place of the request that this one follows; -1: none
    think_s: float = 0.0  # between the end of that one and this one


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests by rising `at_s`, and the length of a block."""

    name: str
    requests: tuple[Request, ...]
    block_tokens: int = BLOCK_TOKENS

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].at_s - self.requests[0].at_s if self.requests else 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.requests) / self.span_s if self.span_s else 0.0

    @property
    def is_closed(self) -> bool:
        """Whether requests wait for others to end."""
        return any(one.after >= 0 for one in self.requests)


def scaled(load: Workload, rate: float, most: int = 0, shift: float = 0.0) -> Workload:
    """The workload at `rate` requests a second, cut after `most` requests (0: as many as one copy has, times copies).

    Args:
        shift: where in its span the first copy begins, from 0 to 1.

    Raises:
        ValueError: the rate is not above zero, or there is nothing to scale.
    """
    if rate <= 0 or len(load.requests) < 2:
        raise ValueError("a rate above zero and two requests or more are needed")
    if load.is_closed:
        return _lanes(load, rate, most or len(load.requests), shift)
    if not load.span_s:
        raise ValueError("all requests come at once: there is no rate to scale")
    return _copies(load, rate, most, shift)


def surged(load: Workload, factor: float, from_s: float = 0.0) -> Workload:
    """The workload with `factor` times as many requests a second from `from_s` on, by pressing its clock.

    Requests that follow others keep their pauses: of a closed loop only the beginnings come faster.
    """
    return replace(
        load,
        requests=tuple(
            replace(one, at_s=from_s + (one.at_s - from_s) / factor) if one.at_s > from_s else one
            for one in load.requests
        ),
    )


def _copies(load: Workload, rate: float, most: int, shift: float) -> Workload:
    copies = max(1, round(rate / load.rate))
    wanted = most or copies * len(load.requests)
    span, times = load.span_s, [one.at_s - load.requests[0].at_s for one in load.requests]
    # Each copy gives what falls into a window; it grows until together they are enough.
    part = min(1.0, 1.2 * wanted / (copies * len(times)))
    widest = 1 + max((max(one.blocks) for one in load.requests if one.blocks), default=0)
    while True:
        merged = sorted(
            pair
            for copy in range(copies)
            for pair in _window(times, span, (shift + copy / copies) % 1.0, part * span, copy)
        )
        if len(merged) >= wanted or part >= 1.0:
            break
        part = min(1.0, part * 1.5)
    merged = (
        (merged * ceil(wanted / len(merged)))[:wanted]
        if len(merged) < wanted and not most
        else merged[:wanted]
    )
    lasting = merged[-1][0] - merged[0][0]
    stretch = len(merged) / rate / lasting if lasting else 1.0  # exactly the rate, whatever the window holds
    requests = []
    for at_s, copy, place in merged:
        one = load.requests[place]
        blocks = tuple(block + widest * copy for block in one.blocks) if copy else one.blocks
        requests.append(replace(one, at_s=(at_s - merged[0][0]) * stretch, blocks=blocks))
    return replace(load, requests=tuple(requests))


def _window(
    times: list[float], span: float, turned: float, length: float, copy: int
) -> Iterator[tuple[float, int, int]]:
    """(time, copy, place) of one copy's requests in the first `length` seconds of its turned clock."""
    start, count = turned * span, len(times)
    place = bisect_left(times, start)
    for step in range(count):
        index = (place + step) % count
        at_s = times[index] - start + (span if place + step >= count else 0.0)
        if at_s >= length and length < span:
            return
        yield at_s, copy, index


def _lanes(load: Workload, rate: float, most: int, shift: float) -> Workload:
    sessions = _sessions(load)
    thinking = [min(one.think_s, MOST_THINK_S) for one in load.requests if one.after >= 0]
    cycle_s = sum(thinking) / max(len(thinking), 1) + ANSWER_S
    lanes = max(1, round(rate * cycle_s))
    each = ceil(most / lanes)
    widest = 1 + max((max(one.blocks) for one in load.requests if one.blocks), default=0)
    played: list[tuple[float, int, Request]] = []  # (time, lane, request), `after` pointing into this list
    for lane in range(lanes):
        turn, last, began = lane % len(sessions), -1, (shift + lane * GOLDEN) % 1.0
        place = int(began * len(sessions[turn]))
        for step in range(each):
            if place >= len(sessions[turn]):
                turn, place = (turn + lanes) % len(sessions), 0
            one = load.requests[sessions[turn][place]]
            copy = lane // len(sessions)
            blocks = tuple(block + widest * copy for block in one.blocks) if copy else one.blocks
            at_s = began * cycle_s if not step else 0.0
            think_s = min(one.think_s or ANSWER_S, MOST_THINK_S) if step else 0.0
            played.append((at_s, lane, replace(one, at_s=at_s, blocks=blocks, after=last, think_s=think_s)))
            last, place = len(played) - 1, place + 1
    order = sorted(
        range(len(played)), key=lambda index: (played[index][2].after >= 0, played[index][0], index)
    )
    new = {old: index for index, old in enumerate(order)}
    requests = [played[old][2] for old in order]
    return replace(
        load,
        requests=tuple(replace(one, after=new[one.after]) if one.after >= 0 else one for one in requests),
    )


def _sessions(load: Workload) -> list[list[int]]:
    """Places of the requests of each session, in their order."""
    session: dict[int, list[int]] = {}
    for place, one in enumerate(load.requests):
        if one.after < 0:
            session[place] = [place]
        else:
            session[place] = session[one.after]
            session[place].append(place)
    return [places for place, places in session.items() if places[0] == place]
