"""What callers send: requests with their times, lengths and shared beginnings, and ways to make more or less of them.

Load is scaled as traces want it: by independent copies, each with ids of its own and its clock turned by a part of the
span, and only the rest by stretching time, because squeezing time would change how long a conversation rests between
its turns. `after` and `think_s` make a closed loop: such a request exists only when the one before it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

BLOCK_TOKENS = 512  # of one id; Mooncake's


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


def scaled(load: Workload, rate: float, most: int = 0, shift: float = 0.0) -> Workload:
    """The workload at `rate` requests a second, cut after `most` requests (0: as long as one copy lasts).

    Args:
        shift: where in its span the first copy begins, from 0 to 1.
    """
    if rate <= 0:
        raise ValueError("rate must be above zero")
    copies = max(1, round(rate / load.rate))
    stretch = load.rate * copies / rate
    every = [_copied(load, copy, (shift + copy / copies) % 1.0) for copy in range(copies)]
    merged = sorted((one for copy in every for one in copy), key=lambda pair: (pair[0], pair[1]))
    place = {number: index for index, (_, number, _) in enumerate(merged)}
    requests = [
        replace(one, at_s=at_s * stretch, after=place.get(one.after, -1) if one.after >= 0 else -1)
        for at_s, _, one in merged
    ]
    return Workload(load.name, tuple(requests[:most] if most else requests), load.block_tokens)


def _copied(load: Workload, copy: int, turned: float) -> list[tuple[float, int, Request]]:
    """(time, number, request) of one copy, its clock turned and its ids its own; followers stay with theirs."""
    count, span = len(load.requests), load.span_s
    first = load.requests[0].at_s if load.requests else 0.0
    widest = 1 + max((max(one.blocks) for one in load.requests if one.blocks), default=0)
    closed = any(one.after >= 0 for one in load.requests)
    copied = []
    for number, one in enumerate(load.requests):
        at_s = one.at_s - first
        if not closed:
            at_s = at_s - turned * span if at_s >= turned * span else at_s + (1.0 - turned) * span
        else:
            at_s += turned * span / 8
        blocks = tuple(block + widest * copy for block in one.blocks) if copy else one.blocks
        after = one.after + count * copy if one.after >= 0 else -1
        tenant = one.tenant
        copied.append((at_s, number + count * copy, replace(one, blocks=blocks, after=after, tenant=tenant)))
    return copied


def cut(load: Workload, requests: Sequence[Request]) -> Workload:
    """The same workload with other requests."""
    return replace(load, requests=tuple(requests))
