"""What one gateway worker has taken from the store of counters ahead of time, and what its calls hold of it.

    store ──lease──> account ──hold──> call ──settle──> account or store

An `Account` is this worker's side of one counter. A call is admitted out of what its accounts have at hand, without
asking anybody; what is at hand has been taken from the store already, so however many workers and gateways there
are, together they cannot give out more than the limit. Where it is not enough, the call waits until the store has
been asked (`Short`); the store decides, not a guess about what others have.

An account takes ahead what it gave out in the last second, at most `share` of the limit, so a busy counter costs a
question for every so many calls and a quiet one for each. What lies about unused for a second goes back. Answers of
"no" count for `NO_S`, so a caller who hammers at a reached limit does not hammer at the store.

This file decides and does not act: `batch` says what to tell the store, `granted` takes its answer, `lost` that none
came. While the store is away, `stand_in` decides instead (`free`: anything goes; a `Windows` of this worker's own:
a share of each limit), or nobody does. What budgets gave out meanwhile is charged to the store when it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gemstead.refused import Reason, Refused
from gemstead.traffic.budget import FREE, Price, RuleBook, Terms, cost, terms
from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.limits import duration
from gemstead.traffic.window import (
    SLOT_S,
    Ask,
    Back,
    Batch,
    Cap,
    Grant,
    Windows,
    period_end,
    period_start,
)

NO_S: Final = 0.05
IDLE_S: Final = 1.0
RENEW_S: Final = SLOT_S / 4
REMEMBERED: Final = 20_000  # callers whose terms are at hand
WARN_AT: Final = (0.8, 1.0)  # of a budget
FAR: Final = float("inf")


class Account:
    """This worker's side of one counter."""

    __slots__ = (
        "ahead",
        "asked",
        "asked_at",
        "backs",
        "cap",
        "chunks",
        "denied_until",
        "end",
        "held",
        "holders",
        "least",
        "left",
        "need",
        "owed",
        "pool",
        "slots",
        "spent",
        "start",
        "touched",
        "wait_s",
        "warned",
    )  # fmt: skip

    def __init__(self, cap: Cap) -> None:
        self.cap = cap
        self.pool = 0  # units at hand
        self.chunks: list[list[float]] = []  # what the pool is made of: [units, tag, moved], oldest first
        self.backs: dict[tuple[float, float], int] = {}  # by tag: units that go back, or are charged
        self.held = 0  # units that running calls hold; for slots the calls
        self.holders = 0  # calls that hold any
        self.slots = 0  # had from the store
        self.need = 0  # units that calls wait for
        self.least = 0  # that the smallest of them waits for
        self.spent = 0  # since the last question
        self.asked = 0  # units that calls wait for which the batch under way asks for
        self.asked_at = -FAR
        self.ahead = 0
        self.left = cap.limit  # that the store had left when it last said so
        self.denied_until = -FAR
        self.wait_s = 0.0
        self.start = 0.0
        self.end = 0.0 if cap.kind == "budget" else FAR
        self.touched = 0.0
        self.owed = 0  # given out by the stand-in, to be charged when the store is back
        self.warned = 0

    def has(self, units: int) -> bool:
        """Whether so much is at hand."""
        if self.cap.kind == "slots":
            return self.held < self.slots
        return self.pool >= units

    def draw(self, units: int) -> tuple[float, float]:
        """Hand out units that are at hand: the tag of the oldest of them."""
        self.held += units
        self.holders += 1
        self.spent += units
        if self.cap.kind == "slots" or units == 0:
            return 0.0, 0.0
        self.pool -= units
        chunks = self.chunks
        first = chunks[0]
        tag = first[1], first[2]
        while units > 0:
            if first[0] > units:
                first[0] -= units
                break
            units -= int(first[0])
            chunks.pop(0)
            if chunks:
                first = chunks[0]
        return tag

    def put(self, units: int, tag: float, moved: float) -> None:
        """Units that are at hand from now on."""
        if units <= 0:
            return
        self.pool += units
        last = self.chunks[-1] if self.chunks else None
        if last is not None and last[1] == tag and last[2] == moved:
            last[0] += units
        else:
            self.chunks.append([units, tag, moved])

    def give(self, units: int, tag: float, moved: float) -> None:
        """Units that the store shall have back, or, below none, charge."""
        key = tag, moved
        total = self.backs.get(key, 0) + units
        if total:
            self.backs[key] = total
        else:
            self.backs.pop(key, None)

    def empty(self) -> None:
        """All that is at hand goes back."""
        for units, tag, moved in self.chunks:
            self.give(int(units), tag, moved)
        self.chunks.clear()
        self.pool = 0

    def roll(self, wall: float) -> None:
        """A calendar window has ended: what was taken from it is void, and the next begins."""
        start = period_start(self.cap.period, wall)
        if start > self.start:
            self.start, self.end = start, period_end(self.cap.period, start)
            self.chunks.clear()
            self.pool = 0
            self.left, self.denied_until, self.warned = self.cap.limit, -FAR, 0


class Hold:
    """What one call has set aside of all its accounts. Settle it once; a second time does nothing.

    As a context manager it settles itself when left: with `used` if somebody has set it, else with nothing after an
    error and with all of it after none.
    """

    __slots__ = ("_accounts", "_settled", "first", "lines", "parts", "price", "used")

    def __init__(self, accounts: Accounts, price: Price) -> None:
        self._accounts = accounts
        self._settled = False
        self.price = price
        self.parts: list[tuple[Account, int, float, float]] = []
        self.used: tuple[int, int, int] | None = None
        self.lines: bytes = b""
        self.first: Hold | None = None  # this one only adds to what that one holds of the same call

    def settle(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Replace what is held by what was used, and end the call."""
        if self._settled:
            return
        self._settled = True
        used = prompt_tokens + output_tokens
        if self.first is not None:
            self._settle_both(self.first, used, cost(self.price, prompt_tokens, cached_tokens, output_tokens))
            return
        for account, held, tag, moved in self.parts:
            unit = account.cap.unit
            if unit == "tokens":
                actual = used
            elif unit == "money":
                actual = cost(self.price, prompt_tokens, cached_tokens, output_tokens)
            else:
                actual = held
            self._accounts.settle(account, held, actual, tag, moved)

    def _settle_both(self, first: Hold, used: int, money: int) -> None:
        """What was used is taken from the first hold, and what is beyond that from this one."""
        first._settled = True
        rest = {"tokens": used, "money": money}
        added = {account.cap.id: (account, held, tag, moved) for account, held, tag, moved in self.parts}
        for account, held, tag, moved in first.parts:
            actual = rest.get(account.cap.unit, held)
            if (more := added.get(account.cap.id)) is not None:
                self._accounts.settle(more[0], more[1], max(actual - held, 0), more[2], more[3])
                actual = min(actual, held)
            self._accounts.settle(account, held, actual, tag, moved)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._settled:
            return
        if self.used is not None:
            self.settle(*self.used)
        elif kind is not None:
            self.settle(0, 0, 0)
        else:
            self._settled = True
            for account, held, tag, moved in self.parts:
                self._accounts.settle(account, held, held, tag, moved)
            if self.first is not None:
                self.first.__exit__(None, None, None)


class Short(msgspec.Struct, gc=False):
    """A call that cannot be decided before the store has been asked. Held nothing so far."""

    accounts: list[Account]


class Crossed(msgspec.Struct, frozen=True, kw_only=True):
    """A budget has come to a share of its limit."""

    cap: Cap
    level: float
    used: int
    start: float


class Accounts:
    """All accounts of one worker, and the terms of its callers."""

    def __init__(self, owner: str, book: RuleBook, default: RateLimit, share: float) -> None:
        self.owner = owner
        self.accounts: dict[str, Account] = {}
        self.stand_in: Windows | None = None  # decides while the store is away
        self.free = False  # while the store is away, anything goes
        self.away = False
        self.stuck: Batch | None = None  # no answer came: said again before anything else
        self.crossed: list[Crossed] = []
        self.low: dict[str, Account] = {}  # something to tell the store
        self.urgent = False  # and soon
        self.wake: Callable[[], None] = lambda: None  # there is something to tell the store
        self._number = 0
        self._asked: list[Account] = []
        self.configure(book, default, share)

    def configure(self, book: RuleBook, default: RateLimit, share: float) -> None:
        """Take other rules. What calls hold stays held; what was used stays used."""
        self.book, self.default, self.share = book, default, share
        self._terms: dict[
            tuple[str, str, str, str, str], tuple[RateLimit | None, Terms, tuple[Account, ...]]
        ] = {}

    def terms(self, caller: Caller, pool: str) -> tuple[Terms, tuple[Account, ...]]:
        """What holds for this caller's calls of this model, and the accounts that they draw on."""
        key = (caller.key_id, pool, caller.user, caller.app, caller.tenant)
        known = self._terms.get(key)
        if known is not None and known[0] is caller.limit:
            return known[1], known[2]
        found = terms(self.book, self.default, caller, pool)
        accounts = tuple(self._account(cap) for cap in found.caps) if found is not FREE else ()
        if len(self._terms) >= REMEMBERED:
            self._terms.clear()
        self._terms[key] = (caller.limit, found, accounts)
        return found, accounts

    def _account(self, cap: Cap) -> Account:
        account = self.accounts.get(cap.id)
        if account is None:
            account = self.accounts[cap.id] = Account(cap)
        account.cap = cap
        account.ahead = int(cap.limit * self.share)
        return account

    def hold(
        self,
        found: Terms,
        accounts: tuple[Account, ...],
        tokens: int,
        bound: int,
        money: int,
        now: float,
        wall: float,
    ) -> Hold | Short:
        """Admit a call and set aside what it may take: of rates `tokens`, of budgets `bound` and `money`.

        `now` is any rising clock, `wall` Unix seconds.

        Raises:
            Refused: a limit is reached, with the seconds until it is worth trying again.
        """
        short: list[Account] | None = None
        for account in accounts:
            if wall >= account.end:
                account.roll(wall)
            units = _units(account.cap, tokens, bound, money)
            if account.cap.kind != "slots" and units > account.cap.limit:
                raise too_large(account.cap, units, self.book)
            if not account.has(units):
                if now < account.denied_until:
                    raise reached(account, units, wall)
                if short is None:
                    short = []
                short.append(account)
        if short is not None:
            for account in accounts:
                account.touched = now
            return Short(short)
        hold = Hold(self, found.price)
        parts = hold.parts
        for account in accounts:
            units = _units(account.cap, tokens, bound, money)
            tag, moved = account.draw(units)
            account.touched = now
            parts.append((account, units, tag, moved))
            if account.pool + account.pool < min(account.ahead, account.spent):
                self.low[account.cap.id] = account
        return hold

    def check_size(self, accounts: tuple[Account, ...], tokens: int, bound: int, money: int) -> None:
        """Look whether a call is more than a whole limit.

        Raises:
            Refused: it is.
        """
        for account in accounts:
            units = _units(account.cap, tokens, bound, money)
            if account.cap.kind != "slots" and units > account.cap.limit:
                raise too_large(account.cap, units, self.book)

    def want(self, short: Short, tokens: int, bound: int, money: int) -> None:
        """A call waits for these accounts: the next batch asks for what it lacks."""
        for account in short.accounts:
            units = _units(account.cap, tokens, bound, money)
            account.least = min(account.least, units) if account.need else units
            account.need += units
            self.low[account.cap.id] = account
        self.urgent = True

    def settle(self, account: Account, held: int, actual: int, tag: float, moved: float) -> None:
        """A call has ended: what it did not use goes back."""
        account.held -= held
        account.holders -= 1
        account.denied_until = -FAR
        kind = account.cap.kind
        if kind == "slots":
            if account.slots > account.held + account.ahead:
                self.low[account.cap.id] = account
                self.urgent = True
                self.wake()
            return
        if (spare := held - actual) == 0:
            return
        if account.owed:  # given out while the store was away: it has not heard of that yet
            now_owed = max(account.owed - spare, 0)
            spare -= account.owed - now_owed
            account.owed = now_owed
            if spare == 0:
                return
        if kind == "budget" and spare > 0 and tag == account.start and account.pool + spare <= account.ahead:
            account.put(spare, tag, 0.0)  # a budget does not care when
            return
        account.give(spare, tag, moved)
        self.low[account.cap.id] = account
        self.wake()

    # -- what the store is told ---------------------------------------------------------------------------

    def batch(self, now: float) -> Batch | None:
        """What to tell the store now; None: nothing. To be followed by `granted` or `lost`."""
        self.urgent = False
        if self.stuck is not None:
            return self.stuck
        if not self.low:
            return None
        low, self.low = self.low, {}
        asks, backs, asked = [], [], []
        for account in low.values():
            cap = account.cap
            if account.owed:
                account.give(-account.owed, account.start, 0.0)
                account.owed = 0
            for (tag, moved), units in account.backs.items():
                backs.append(Back(cap, units, tag, moved))
            account.backs.clear()
            if (ask := _ask(account, now)) is not None:
                asks.append(ask)
                asked.append(account)
        if not asks and not backs:
            return None
        self._number += 1
        self._asked = asked
        return Batch(self.owner, self._number, asks, backs)

    def granted(self, batch: Batch, grants: list[Grant], now: float, wall: float) -> None:
        """Take in the store's answer to that batch."""
        self.away = False
        self.stuck = None
        asked, self._asked = self._asked, []
        for account, ask, grant in zip(asked, batch.asks, grants, strict=False):
            self._take_in(account, ask.least, grant, now, wall)

    def _take_in(self, account: Account, least: int, grant: Grant, now: float, wall: float) -> None:
        account.left = grant.left
        kind, cap = account.cap.kind, account.cap
        needed, account.asked = account.asked, 0
        if kind == "slots":
            account.slots = grant.units
            if needed and account.held + needed > account.slots and grant.left < 1:
                account.denied_until, account.wait_s = now + NO_S, 1.0
            return
        if kind == "budget":
            if grant.tag > account.start:  # the store's window is later than ours: its clock counts
                account.roll(grant.tag)
            account.left = grant.left
        account.put(grant.units, grant.tag, grant.moved)
        if kind == "budget":
            self._watch(account, needed)
        if account.pool >= needed or grant.left >= max(least, 1):
            account.denied_until = -FAR  # what others took meanwhile is no "no": it is asked for again
            return
        short = max(needed - account.pool - account.left, 1)
        account.denied_until = now + NO_S
        account.wait_s = grant.wait_s or short * cap.window_s / cap.limit

    def _watch(self, account: Account, needed: int) -> None:
        limit = account.cap.limit
        used = limit - account.left - max(account.pool - needed, 0)
        for number, level in enumerate(WARN_AT, start=1):
            if account.warned < number and used >= limit * level:
                account.warned = number
                self.crossed.append(
                    Crossed(cap=account.cap, level=level, used=min(used, limit), start=account.start)
                )

    def lost(self, batch: Batch) -> None:
        """No answer came. The same batch is said again, before anything else; calls that wait for it wait no more."""
        self.away = True
        self.stuck = batch
        for account in (*self._asked, *self.low.values()):
            account.need = 0

    def without_store(
        self, short: Short, tokens: int, bound: int, money: int, now: float, wall: float, parts: int
    ) -> bool:
        """Let the stand-in give what a call lacks: one of `parts` workers that each have that part of a limit.
        False: it says no, or there is none."""
        for account in short.accounts:
            units = _units(account.cap, tokens, bound, money)
            kind = account.cap.kind
            want = account.held + 1 if kind == "slots" else units - account.pool
            if not self.free:
                if self.stand_in is None:
                    return False
                ask = Ask(_part(account.cap, parts), want, want, account.start)
                grant = self.stand_in.apply(Batch(self.owner, self._next(), [ask], []), now)[0]
                if grant.units < want:
                    account.denied_until, account.wait_s = now + NO_S, grant.wait_s
                    return False
            if kind == "slots":
                account.slots = account.held + 1
                continue
            if kind == "budget":
                account.owed += want
            account.put(want, account.start if kind == "budget" else 0.0, 0.0)
            self.low[account.cap.id] = account
        return True

    def _next(self) -> int:
        self._number += 1
        return self._number

    def sweep(self, now: float, wall: float) -> None:
        """Once a second or so: what nobody uses goes back, slots are said again, the forgotten are let go."""
        for name, account in list(self.accounts.items()):
            if wall >= account.end:
                account.roll(wall)
            idle = now - account.touched > IDLE_S
            if idle and account.pool:
                account.empty()
                self.low[name] = account
            if account.cap.kind == "slots":
                if account.slots and (now - account.asked_at > RENEW_S or account.slots > account.held):
                    self.low[name] = account
            elif account.backs or account.owed:
                self.low[name] = account
        if len(self.accounts) > REMEMBERED:
            self._terms.clear()
            for name, account in list(self.accounts.items()):
                if not (account.holders or account.pool or account.slots or account.owed or name in self.low):
                    del self.accounts[name]


def _part(cap: Cap, parts: int) -> Cap:
    """A worker's part of a limit, at least 1."""
    return msgspec.structs.replace(cap, limit=-(-cap.limit // parts))


def _units(cap: Cap, tokens: int, bound: int, money: int) -> int:
    unit = cap.unit
    if unit == "tokens":
        return tokens if cap.kind == "rate" else bound
    if unit == "money":
        return money
    return 1


def _ask(account: Account, now: float) -> Ask | None:
    cap, need, least = account.cap, account.need, account.least
    passed = max(now - account.asked_at, 1.0)
    ahead = min(account.ahead, int(account.spent / passed))
    if cap.kind == "slots":
        want = account.held + need
        if want == account.slots and now - account.asked_at <= RENEW_S:
            account.need = 0  # there is enough: whoever waits is looked at again
            return None
        least = account.held + min(need, 1)
        want += min(ahead, account.held // 4) if need else 0
    else:
        want = need + ahead - account.pool
        if want <= 0 or (not need and account.pool + account.pool >= ahead):
            account.need = 0
            return None
        least = max(least - account.pool, 0) if need else 0
    account.spent, account.asked_at, account.asked, account.need = 0, now, need, 0
    return Ask(cap, want, least, account.start)


# -- refusals ---------------------------------------------------------------------------------------------------

_WORDS: Final = {
    "requests_per_second": "requests per second",
    "requests_per_minute": "requests per min (RPM)",
    "requests_per_hour": "requests per hour",
    "requests_per_day": "requests per day",
    "tokens_per_minute": "tokens per min (TPM)",
    "tokens_per_day": "tokens per day",
    "tokens_per_month": "tokens per month",
    "money_per_day": "money per day",
    "money_per_month": "money per month",
}


def too_large(cap: Cap, units: int, book: RuleBook) -> Refused:
    """One call that is more than a whole limit: waiting does not help."""
    return Refused(
        Reason.RATE_LIMITED,
        f"Request too large on {_WORDS[cap.name]}{_whose(cap)}: Limit {shown(cap, cap.limit)}, "
        f"Requested {shown(cap, units)}. Make the prompt shorter, or max_tokens smaller.",
        code="rate_limit_exceeded",
        kind=cap.unit if cap.unit != "money" else "insufficient_quota",
        detail=f"limit {cap.id}",
    )


def reached(account: Account, units: int, wall: float) -> Refused:
    """A limit that is reached, and when to come back."""
    cap = account.cap
    detail = f"limit {cap.id}"
    if cap.kind == "slots":
        return Refused(
            Reason.TOO_MANY_AT_ONCE,
            f"Too many calls at once{_whose(cap)}: Limit {cap.limit}. Wait for one to end and try again.",
            code="rate_limit_exceeded",
            kind="requests",
            retry_after_s=1.0,
            detail=detail,
        )
    if cap.kind == "rate":
        return Refused(
            Reason.RATE_LIMITED,
            f"Rate limit reached on {_WORDS[cap.name]}{_whose(cap)}: Limit {cap.limit}, Requested {units}. "
            f"Please try again in {account.wait_s:.3g}s.",
            code="rate_limit_exceeded",
            kind=cap.unit,
            retry_after_s=account.wait_s,
            detail=detail,
        )
    return Refused(
        Reason.BUDGET_SPENT,
        f"The budget of {_WORDS[cap.name]}{_whose(cap)} does not allow this call: Limit {shown(cap, cap.limit)}, "
        f"Left {shown(cap, account.left + account.pool)}, Requested at most {shown(cap, units)}. It begins anew in "
        f"{duration(max(round(account.end - wall), 0.0)).decode()}; a smaller max_tokens may fit before.",
        code="insufficient_quota",
        kind="insufficient_quota",
        retry_after_s=max(account.end - wall, 1.0),
        detail=detail,
    )


def shown(cap: Cap, units: int) -> str:
    """An amount as people read it."""
    return f"{units / 1e9:.4f}" if cap.unit == "money" else str(units)


def _whose(cap: Cap) -> str:
    return "" if cap.rule == "keys" else f" (rule {cap.rule})"


# -- headers ----------------------------------------------------------------------------------------------------

_LINES: Final = b"\r\nx-ratelimit-limit-%s: %d\r\nx-ratelimit-remaining-%s: %d\r\nx-ratelimit-reset-%s: %s"


def header_lines(accounts: tuple[Account, ...]) -> bytes:
    """`x-ratelimit-*` as OpenAI writes them, of the rate that has the least left; empty where there is none."""
    lines = b""
    for unit, name in (("requests", b"requests"), ("tokens", b"tokens")):
        tightest, least = None, 2.0
        for account in accounts:
            cap = account.cap
            if cap.unit == unit and cap.kind == "rate":
                share = (account.left + account.pool) / cap.limit
                if share < least:
                    tightest, least = account, share
        if tightest is not None:
            limit = tightest.cap.limit
            left = min(max(tightest.left + tightest.pool, 0), limit)
            reset = duration((limit - left) * tightest.cap.window_s / limit)
            lines += _LINES % (name, limit, name, left, name, reset)
    return lines
