"""Counters of use, as a store keeps them: what may be taken from each, and what comes back.

There are three kinds. A *rate* is GCRA: one time, `until`, when what was taken will have been worked off at the
limit's pace; a full window's worth may be taken at once. A *budget* is a sum in a calendar window that begins anew
with the next. *Slots* are calls at once: each owner says how many it holds, and what an owner holds is free again when
it has not been heard of for `SLOT_S`.

Units are taken before they are used and given back when they were not. A budget takes all of it back while its window
lasts. A rate takes back only what time has not paid yet: the taker is told where its debt ends and how much had been
moved up by refunds then; refunds since have moved it up at most by the difference, so what is left of the debt is
known without keeping a list, and never thought larger than it is. So nobody ever owes less than if only what was
used had been taken, and no window sees more than its limit and burst.

A time that is earlier than one heard of counts as that one, and a calendar window that is earlier than the present one
as the present: a clock that steps back grants nothing. Every batch has a number, and one that comes a second
time (its answer was lost) changes nothing and gets the same answer.

The same arithmetic runs in memory, on rows of PostgreSQL, and as a Lua script on Redis (`ledger/counters/`).
"""

from __future__ import annotations

from typing import Final

import msgspec

SLOT_S: Final = 15.0  # an owner that says nothing for so long holds no slots any more
SLACK: Final = 1e-6  # of a unit, so that rounding never refuses what is due
DAY_S: Final = 86_400.0


class Cap(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One counter and its limit. The id does not hold the limit, so a changed limit keeps what was used."""

    id: str
    kind: str  # "rate", "budget" or "slots"
    unit: str  # "requests", "tokens", "money" (billionths of the file's currency) or "calls"
    limit: int
    name: str  # of the limit, such as "tokens_per_day"
    rule: str  # that it comes from
    who: str = ""  # it counts for, such as "tenant=acme"
    window_s: float = 60.0  # of a rate
    period: str = ""  # of a budget: "day" or "month"


class Ask(msgspec.Struct, array_like=True, gc=False):
    """Units that an owner wants. For slots: how many it wants to hold in all."""

    cap: Cap
    want: int
    least: int  # fewer are of no use; 0: whatever there is
    start: float = 0.0  # of the calendar window, Unix seconds


class Back(msgspec.Struct, array_like=True, gc=False):
    """Units that were not used; fewer than none: used beyond what was taken."""

    cap: Cap
    units: int
    tag: float
    moved: float


class Batch(msgspec.Struct, gc=False):
    """What one owner says at once. Its number rises; a batch that comes twice counts once."""

    owner: str
    number: int
    asks: list[Ask]
    backs: list[Back]


class Grant(msgspec.Struct, array_like=True, gc=False):
    """What an ask was given. `tag` and `moved` are said again when units come back."""

    units: int
    tag: float = 0.0  # of a rate: when the debt ends; of a budget: when its window began
    moved: float = 0.0
    left: int = 0  # that others could still take
    wait_s: float = 0.0  # nothing was given: seconds until `least` would be there (rates only)


class State(msgspec.Struct):
    """One counter."""

    cap: Cap
    until: float = 0.0  # rate: seconds of the store's clock
    moved: float = 0.0  # rate: seconds by which refunds have moved `until` up, in all
    start: float = 0.0  # budget: the window that `used` is of
    used: int = 0  # budget
    slots: dict[str, tuple[int, float]] = {}  # by owner: how many, and until when they count
    at: float = 0.0  # the latest time heard of


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One counter as an operator sees it. `used` counts what running calls hold."""

    cap: Cap
    used: int
    since: float = 0.0  # of a budget: when its window began, Unix seconds


class Windows:
    """All counters of one store. `now` is the store's clock in seconds, any origin."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.seen: dict[str, tuple[int, list[Grant]]] = {}  # by owner: its last batch, and the answer
        self.latest = 0.0

    def apply(self, batch: Batch, now: float) -> list[Grant]:
        """Do what a batch asks: a grant for each ask. One that was done before gets the same answer."""
        self.latest = max(now, self.latest)
        number, answer = self.seen.get(batch.owner, (-1, []))
        if batch.number == number:
            return answer
        for back in batch.backs:
            put_back(self._state(back.cap), back, now)
        answer = [take(self._state(ask.cap), ask, batch.owner, now) for ask in batch.asks]
        self.seen[batch.owner] = batch.number, answer
        return answer

    def _state(self, cap: Cap) -> State:
        state = self.states.get(cap.id)
        if state is None:
            if len(self.states) >= 1024 and len(self.states) & (len(self.states) - 1) == 0:
                self.forget()
            state = self.states[cap.id] = State(cap)
        state.cap = cap
        return state

    def forget(self) -> None:
        """Let go of counters that are as good as new. Budgets stay: they end with their windows."""
        now = self.latest
        for name in [n for n, s in self.states.items() if _as_new(s, now)]:
            del self.states[name]

    def leave(self, owner: str) -> None:
        """An owner is gone: its slots are free. What else it had taken stays taken."""
        self.seen.pop(owner, None)
        for state in self.states.values():
            state.slots.pop(owner, None)

    def standings(self, now: float) -> list[Standing]:
        """Every counter as it stands now."""
        return [standing(state, max(now, self.latest)) for state in self.states.values()]

    def reset(self, ids: list[str]) -> None:
        """Let counters begin anew."""
        for name in ids:
            self.states.pop(name, None)


def _as_new(state: State, now: float) -> bool:
    if state.cap.kind == "rate":
        return state.until <= now
    return state.cap.kind == "slots" and not any(ends > now for _, ends in state.slots.values())


def take(state: State, ask: Ask, owner: str, now: float) -> Grant:
    """Give what is there of what is asked, or nothing where that is less than `least`."""
    now = state.at = max(now, state.at)
    kind = state.cap.kind
    if kind == "rate":
        return _take_rate(state, ask, now)
    if kind == "budget":
        return _take_budget(state, ask)
    return _take_slots(state, ask, owner, now)


def _take_rate(state: State, ask: Ask, now: float) -> Grant:
    limit, window_s = state.cap.limit, state.cap.window_s
    owed_s = max(state.until - now, 0.0)
    room = int(((window_s - owed_s) * limit / window_s + SLACK) // 1)  # below none: charged beyond
    units = min(ask.want, room)
    if units < ask.least or units <= 0:
        short = max(ask.least, 1) - room
        return Grant(0, left=max(room, 0), wait_s=max(short * window_s / limit, 0.001))
    state.until = max(state.until, now) + units * window_s / limit
    return Grant(units, state.until, state.moved, room - units)


def _take_budget(state: State, ask: Ask) -> Grant:
    if ask.start > state.start:
        state.start, state.used = ask.start, 0
    left = max(state.cap.limit - state.used, 0)
    units = min(ask.want, left)
    if units < ask.least:
        units = 0
    state.used += units
    return Grant(units, state.start, 0.0, left - units)


def _take_slots(state: State, ask: Ask, owner: str, now: float) -> Grant:
    others = 0
    for name, (count, ends) in list(state.slots.items()):
        if ends <= now:
            del state.slots[name]
        elif name != owner:
            others += count
    most = max(state.cap.limit - others, 0)
    had = state.slots.get(owner, (0, 0.0))[0]
    units = min(ask.want, most)
    if units < ask.least:
        units = min(had, ask.want)  # what it has it keeps
    if units:
        state.slots[owner] = (units, now + SLOT_S)
    else:
        state.slots.pop(owner, None)
    return Grant(units, left=max(most - units, 0))


def put_back(state: State, back: Back, now: float) -> None:
    """Take units back, or charge what was used beyond those taken."""
    now = state.at = max(now, state.at)
    if state.cap.kind == "rate":
        _put_back_rate(state, back, now)
    elif state.cap.kind == "budget":
        if back.tag > state.start:
            state.start, state.used = back.tag, 0
        if back.units < 0:
            state.used -= back.units
        elif back.tag == state.start:
            state.used = max(state.used - back.units, 0)


def _put_back_rate(state: State, back: Back, now: float) -> None:
    each_s = state.cap.window_s / state.cap.limit
    if back.units < 0:
        state.until = max(state.until, now) - back.units * each_s
        return
    refund_s = min(back.units * each_s, back.tag - (state.moved - back.moved) - now)
    if refund_s > 0.0:
        state.until -= refund_s
        state.moved += refund_s


def standing(state: State, now: float) -> Standing:
    """How much of the limit is taken at this moment."""
    cap = state.cap
    if cap.kind == "rate":
        used = int(max(state.until - now, 0.0) * cap.limit / cap.window_s + 0.5)
    elif cap.kind == "budget":
        used = state.used
    else:
        used = sum(count for count, ends in state.slots.values() if ends > now)
    return Standing(cap=cap, used=used, since=state.start)


def period_start(period: str, wall: float) -> float:
    """When the calendar window that holds this moment began: midnight UTC of its day, or of its month's first."""
    day = int(wall // DAY_S)
    if period == "month":
        day -= _day_of_month(day) - 1
    return day * DAY_S


def period_end(period: str, start: float) -> float:
    """When the window that began then ends."""
    if period != "month":
        return start + DAY_S
    return period_start("month", start + 32 * DAY_S)


def _day_of_month(days: int) -> int:
    """1 to 31, of a day counted from 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2021)."""
    of_era = (days + 719_468) % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    return of_year - (153 * ((5 * of_year + 2) // 153) + 2) // 5 + 1
