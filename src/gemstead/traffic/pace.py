"""How many calls background work may have on their way, when it should only use what nobody else wants.

Additive increase, multiplicative decrease, as TCP does it: with every round of calls that were all taken one more may
be on its way; when the gateway turns one away (429, 503) it is half as many, and none begins before the time that the
answer named. Calls that began before the last cut say nothing new, so one busy moment halves once.

`room` is what the head last said: how many more calls the pool's slots have free of others' calls. It is a bound on
top, so that background work makes place before anybody has to wait: with no room nothing begins. No room known: none
is respected.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

PAUSE_S = 1.0  # after a refusal that names no time
PAUSE_MOST_S = 300.0  # however long a refusal says


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The pace of one pool. Times in monotonic seconds."""

    most: int  # calls that may ever be on their way
    allowed: float = 2.0
    not_before: float = 0.0
    cut_at: float = -1.0
    room: int | None = None

    def may_begin(self, running: int, now: float) -> bool:
        """Whether one more call may begin, when `running` are on their way."""
        if now < self.not_before or (self.room is not None and running >= self.room):
            return False
        return running < min(int(self.allowed), self.most)

    def taken(self) -> Pace:
        """After a call was served."""
        return replace(self, allowed=min(float(self.most), self.allowed + 1.0 / self.allowed))

    def turned_away(self, began: float, retry_after_s: float | None, now: float) -> Pace:
        """After a call that began at `began` was refused for want of room."""
        pause = PAUSE_S if retry_after_s is None else min(max(retry_after_s, 0.1), PAUSE_MOST_S)
        waiting = max(self.not_before, now + pause)
        if began <= self.cut_at:
            return replace(self, not_before=waiting)
        return replace(self, allowed=max(1.0, self.allowed / 2), cut_at=now, not_before=waiting)

    def with_room(self, room: int | None) -> Pace:
        return self if room == self.room else replace(self, room=room)


def room_of(slots: int, in_flight: int, ours: int) -> int | None:
    """How many calls of ours fit into a pool's slots beside the others'. None when its slots are not known (0)."""
    if slots <= 0:
        return None
    return max(0, slots - max(0, in_flight - ours))
