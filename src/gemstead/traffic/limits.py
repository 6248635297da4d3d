"""How much one key may take: requests a minute, tokens a minute, calls at once.

Requests are counted by GCRA (one timestamp for each key, exact bursts), tokens by the same arithmetic with a
weight: the timestamp is when the key's debt will have been worked off at the limit's rate. A full minute's
worth may be taken at once; so any stretch of time sees at most that plus what the rate gives in it. A token
request larger than a worker's share is let through when the key owes nothing at all, so that a limit split
over workers never forbids what the limit allows.

Tokens are held before the call and settled after it. Whoever holds 1000 and uses 10 gets 990 back, but not
what has been worked off since: debts are worked off in the order they were made, and time does not pay back
what time has already paid. For that each hold knows when its own debt ends; refunds of earlier holds move it.
A key never owes less than if only what was used had been held, so the bound above holds for tokens used. What
was used beyond the hold is charged at the end.

A key with nothing in flight and nothing owed is forgotten, which changes nothing: it is as good as new.
A time that is earlier than one already heard of counts as that one: calls are reported out of order, and a
clock that steps back grants nothing. With several workers each enforces its share of the rates; calls at once
are rounded up, so that each can serve one.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from types import TracebackType
from typing import Final

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller, RateLimit

WINDOW_S: Final = 60.0
SLACK_S: Final = 1e-6  # so that rounding errors of added floats never refuse a call that is due

Headers = tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]


class Account:
    """What one key owes: until when its debts will have been worked off, in seconds of the caller's clock."""

    __slots__ = ("in_flight", "limit", "open", "requests_until", "tokens_until")

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = RateLimit()  # as its latest call had it
        self.requests_until = 0.0
        self.tokens_until = 0.0
        self.open: dict[Hold, None] = {}  # token holds that can still be refunded, oldest first


class Hold:
    """What a call has set aside. Settle it once with what was used; a second time does nothing.

    As a context manager it settles itself when left: with `used` if somebody has set it; else with nothing
    after an error, and with all of it after none.
    """

    __slots__ = ("_limits", "_settled", "account", "debt_end", "limit", "more", "tokens", "used")

    def __init__(self, limits: Limits | None, account: Account | None, limit: RateLimit, tokens: int) -> None:
        self._limits = limits
        self._settled = account is None
        self.account = account
        self.limit = limit
        self.tokens = tokens
        self.used: int | None = None
        self.debt_end = 0.0  # where this hold's debt ends on the time line
        self.more: Hold | None = None  # what `grow` has added, a debt of its own

    def settle(self, actual_tokens: int, now: float) -> None:
        """Replace the tokens held by the tokens used, and end the call."""
        if self._settled or self._limits is None or self.account is None:
            return
        self._settled = True
        self._limits.give_back(self, self.account, actual_tokens, now)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled and self._limits is not None:
            unsaid = 0 if kind is not None else self.tokens
            self.settle(unsaid if self.used is None else self.used, self._limits.latest)


_said: dict[tuple[bytes, int], tuple[bytes, bytes]] = {}  # of these lines, what is the same every time
_SAID_MOST: Final = 4096
UNLIMITED = Hold(None, None, RateLimit(), 0)


class Limits:
    """The accounts of all keys that have limits. `share` is this worker's part of each limit."""

    def __init__(self, default: RateLimit, share: float = 1.0) -> None:
        self.with_default(default, share)
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self.latest = -inf  # the latest time heard of

    def set_default(self, default: RateLimit, share: float) -> None:
        """Take another default limit; what keys owe already stays owed."""
        self._default, self._default_free, self._share = default, _is_free(default), share

    def with_default(self, default: RateLimit, share: float) -> Limits:
        """These limits, with another default and share from now on; what keys owe stays as it is."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: it is a worker's part of a limit, above 0 and at most 1")
        self._default = default
        self._default_free = _is_free(default)
        self._share = share
        return self

    def __len__(self) -> int:
        """Keys that owe something, or did when last looked at."""
        return len(self._accounts)

    def hold(self, caller: Caller, tokens: int, now: float) -> Hold:
        """Admit one call of this caller and set `tokens` aside until the hold is settled.

        Raises:
            Refused: RATE_LIMITED with the seconds until it would be admitted, or TOO_MANY_AT_ONCE. Nothing
                is taken then.
        """
        limit = caller.limit
        if limit is None:
            if self._default_free:
                return UNLIMITED
            limit = self._default
        elif _is_free(limit):
            return UNLIMITED
        if now > self.latest:
            self.latest = now
        else:
            now = self.latest
        account = self._accounts.get(caller.key_id) or self._new_account(caller.key_id, now)
        if limit.concurrent is not None:
            self._check_concurrent(limit.concurrent, account)
        requests_until, tokens_until = account.requests_until, 0.0
        if limit.requests_per_minute is not None:
            requests_until = self._check_requests(limit.requests_per_minute, account, now)
        if limit.tokens_per_minute is not None:
            tokens_until = self._check_tokens(limit.tokens_per_minute, account, tokens, now)
        hold = Hold(self, account, limit, tokens)
        account.in_flight += 1
        account.limit = limit
        account.requests_until = requests_until
        if limit.tokens_per_minute is not None:
            account.tokens_until = hold.debt_end = tokens_until
            account.open[hold] = None
        return hold

    def grow(self, hold: Hold, tokens: int, now: float) -> None:
        """Let a hold be of so many tokens, if that is more than it is of; once. The call stays one call.

        Raises:
            Refused: RATE_LIMITED; the hold is as it was, and still to be settled.
        """
        account, per_minute = hold.account, hold.limit.tokens_per_minute
        if account is None or per_minute is None or tokens <= hold.tokens or hold.more is not None:
            return
        self.latest = now = max(now, self.latest)
        _check_size(per_minute, tokens)
        until = self._check_tokens(per_minute, account, tokens - hold.tokens, now)
        more = hold.more = Hold(self, account, hold.limit, tokens - hold.tokens)
        account.tokens_until = more.debt_end = until
        account.open[more] = None

    def accounts(self) -> list[tuple[str, Account]]:
        """Every key that owes something, or did when last looked at."""
        return list(self._accounts.items())

    def headers(self, hold: Hold, now: float) -> Headers:
        """`x-ratelimit-*` as OpenAI writes them, for the limits that the hold is under; () if none."""
        lines = self.header_lines(hold, now).split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)] or ()

    def header_lines(self, hold: Hold, now: float) -> bytes:
        """The same as lines of a head, each begun with a line end."""
        account = hold.account
        if account is None:
            return b""
        if now < self.latest:
            now = self.latest
        limit = hold.limit
        lines = b""
        if limit.requests_per_minute is not None:
            lines = _three(b"requests", limit.requests_per_minute, account.requests_until - now)
        if limit.tokens_per_minute is not None:
            lines += _three(b"tokens", limit.tokens_per_minute, account.tokens_until - now)
        return lines

    def standing(self, caller: Caller, now: float) -> bytes:
        """The same lines for a caller who holds nothing because the call was turned away."""
        account = self._accounts.get(caller.key_id)
        return self.header_lines(Hold(None, account, caller.limit or self._default, 0), now)

    def _new_account(self, key_id: str, now: float) -> Account:
        for _ in range(2):  # two looks at each new key outpace growth without ever sweeping
            if self._accounts:
                self._look_at_oldest(now)
        account = self._accounts[key_id] = Account()
        return account

    def _look_at_oldest(self, now: float) -> None:
        key_id, account = self._accounts.popitem(last=False)
        if account.in_flight or account.requests_until > now or account.tokens_until > now:
            self._accounts[key_id] = account

    def _check_concurrent(self, most: int, account: Account) -> None:
        if account.in_flight >= max(1, -int(-most * self._share // 1)):
            raise Refused(
                Reason.TOO_MANY_AT_ONCE,
                f"Too many calls at once with this API key: Limit {most}. Wait for one to end and try again.",
                code="rate_limit_exceeded",
                retry_after_s=1.0,
            )

    def _check_requests(self, per_minute: int, account: Account, now: float) -> float:
        each_s = WINDOW_S / (per_minute * self._share)
        until = account.requests_until
        if until <= now:
            return now + each_s
        if (wait_s := until - now + each_s - max(WINDOW_S, each_s)) > SLACK_S:
            raise _reached("requests per min (RPM)", per_minute, 1, wait_s)
        return until + each_s

    def _check_tokens(self, per_minute: int, account: Account, tokens: int, now: float) -> float:
        _check_size(per_minute, tokens)
        need_s = tokens * WINDOW_S / (per_minute * self._share)
        owed_s = account.tokens_until - now
        if owed_s <= 0.0:
            return now + need_s
        if owed_s > SLACK_S and (wait_s := min(owed_s + need_s - WINDOW_S, owed_s)) > SLACK_S:
            raise _reached("tokens per min (TPM)", per_minute, tokens, wait_s)
        return account.tokens_until + need_s

    def give_back(self, hold: Hold, account: Account, actual_tokens: int, now: float) -> None:
        """Settle a hold; said by `Hold.settle`, once."""
        if now > self.latest:
            self.latest = now
        else:
            now = self.latest
        account.in_flight -= 1
        if (per_minute := hold.limit.tokens_per_minute) is None:
            return
        if (more := hold.more) is not None:
            self._repay(more, account, max(actual_tokens - hold.tokens, 0), per_minute, now)
            actual_tokens = min(actual_tokens, hold.tokens)
        self._repay(hold, account, actual_tokens, per_minute, now)

    def _repay(self, hold: Hold, account: Account, actual_tokens: int, per_minute: int, now: float) -> None:
        extra_s = (actual_tokens - hold.tokens) * WINDOW_S / (per_minute * self._share)
        if extra_s > 0:
            account.tokens_until = max(account.tokens_until, now) + extra_s
        elif (refund_s := min(-extra_s, hold.debt_end - now)) > 0.0:
            account.tokens_until -= refund_s
            _move_up(account, hold, refund_s)
        account.open.pop(hold, None)


def _move_up(account: Account, hold: Hold, refund_s: float) -> None:
    """The debts of the holds after this one end sooner by its refund."""
    for later in reversed(account.open):
        if later is hold:
            return
        later.debt_end -= refund_s


def _check_size(per_minute: int, tokens: int) -> None:
    if tokens > per_minute:
        raise Refused(
            Reason.RATE_LIMITED,
            f"Request too large on tokens per min (TPM): Limit {per_minute}, Requested {tokens}. "
            "Make the prompt shorter, or max_tokens smaller.",
            code="rate_limit_exceeded",
        )


def _is_free(limit: RateLimit) -> bool:
    return limit.requests_per_minute is None and limit.tokens_per_minute is None and limit.concurrent is None


def _three(kind: bytes, per_minute: int, owed_s: float) -> bytes:
    if owed_s < 0.0:
        owed_s = 0.0
    remaining = int((WINDOW_S - owed_s) * per_minute / WINDOW_S + SLACK_S)
    before = _said.get((kind, per_minute))
    if before is None:
        if len(_said) >= _SAID_MOST:
            _said.clear()
        before = _said[kind, per_minute] = (
            b"\r\nx-ratelimit-limit-%s: %d\r\nx-ratelimit-remaining-%s: " % (kind, per_minute, kind),
            b"\r\nx-ratelimit-reset-%s: " % kind,
        )
    left = str(remaining).encode() if remaining > 0 else b"0"
    return b"".join((before[0], left, before[1], duration(owed_s)))


def duration(seconds: float) -> bytes:
    """Seconds as OpenAI's headers and Go write them: `0s`, `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1.0:
        return b"%dms" % round(seconds * 1000) if seconds >= 0.0005 else b"0s"
    minutes, rest = divmod(round(seconds, 3), 60.0)
    return (f"{minutes:.0f}m" if minutes else "").encode() + f"{round(rest, 3):g}s".encode()


def _reached(what: str, limit: int, requested: int, wait_s: float) -> Refused:
    return Refused(
        Reason.RATE_LIMITED,
        f"Rate limit reached on {what}: Limit {limit}, Requested {requested}. "
        f"Please try again in {wait_s:.3g}s.",
        code="rate_limit_exceeded",
        retry_after_s=wait_s,
    )
