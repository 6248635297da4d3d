"""How much one key may take: requests a minute, tokens a minute, calls at once.

Requests are counted by GCRA (one timestamp for each key, exact bursts), tokens by the same arithmetic with a
weight: the timestamp is when the key's debt will have been worked off at the limit's rate. A full minute's
worth may be taken at once; so any stretch of time sees at most that plus what the rate gives in it. A token
request larger than a worker's share is let through when the key owes nothing at all, so that a limit split
over workers never forbids what the limit allows.

Tokens are held before the call and settled after it. Whoever holds 1000 and uses 10 gets 990 back, exactly
as if only 10 had been held, which is less than 990 when part of the debt has been worked off since: time does
not pay back what time has already paid. For that each hold knows the point on the time line where its own
debt ends; refunds of earlier holds move it. What was used beyond the hold is charged at the end.

A key with nothing in flight and nothing owed is forgotten, which changes nothing: it is as good as new.
A clock that steps backwards is taken as a clock that stood still. With several workers each enforces its
share of the rates; calls at once are rounded up, so that each can serve one.
"""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller, RateLimit

WINDOW_S = 60.0
SLACK_S = 1e-6  # so that rounding errors of added floats never refuse a call that is due

Headers = tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]


class Account:
    """What one key owes. Times are seconds on the limits' own time line, which never steps back."""

    __slots__ = ("in_flight", "open", "requests_until", "tokens_until")

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests_until = 0.0
        self.tokens_until = 0.0
        self.open: dict[Hold, None] = {}  # token holds that can still be refunded, oldest first


class Hold:
    """What a call has set aside. Settle it once with what was used; a second time does nothing.

    As a context manager it settles itself when left: with `used` if somebody has set it; else with nothing
    after an error, and with all of it after none.
    """

    __slots__ = ("_limits", "_settled", "account", "debt_end", "limit", "tokens", "used")

    def __init__(self, limits: Limits | None, account: Account | None, limit: RateLimit, tokens: int) -> None:
        self._limits = limits
        self._settled = account is None
        self.account = account
        self.limit = limit
        self.tokens = tokens
        self.used: int | None = None
        self.debt_end = 0.0  # where this hold's debt ends on the time line

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


UNLIMITED = Hold(None, None, RateLimit(), 0)


class Limits:
    """The accounts of all keys that have limits. `share` is this worker's part of each limit."""

    def __init__(self, default: RateLimit, share: float = 1.0) -> None:
        self.with_default(default, share)
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self.latest = float("-inf")  # the caller's clock, when last heard
        self._behind = 0.0  # how far that clock has stepped back in all

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
        now = self._on_time_line(now)
        account = self._accounts.get(caller.key_id) or self._new_account(caller.key_id, now)
        if limit.concurrent is not None:
            self._check_concurrent(limit.concurrent, account)
        requests_until = self._check_requests(limit, account, now)
        tokens_until = self._check_tokens(limit, account, tokens, now)
        hold = Hold(self, account, limit, tokens)
        account.in_flight += 1
        account.requests_until = requests_until
        if limit.tokens_per_minute is not None:
            account.tokens_until = hold.debt_end = tokens_until
            account.open[hold] = None
        return hold

    def headers(self, hold: Hold, now: float) -> Headers:
        """`x-ratelimit-*` as OpenAI writes them, for the limits that the hold is under; () if none."""
        if hold is UNLIMITED or (account := hold.account) is None:
            return ()
        now = self._on_time_line(now)
        limit, headers = hold.limit, []
        if limit.requests_per_minute is not None:
            headers += _three(b"requests", limit.requests_per_minute, account.requests_until - now)
        if limit.tokens_per_minute is not None:
            headers += _three(b"tokens", limit.tokens_per_minute, account.tokens_until - now)
        return headers

    def _on_time_line(self, now: float) -> float:
        if now < self.latest:
            self._behind += self.latest - now
        self.latest = now
        return now + self._behind

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

    def _check_requests(self, limit: RateLimit, account: Account, now: float) -> float:
        if (per_minute := limit.requests_per_minute) is None:
            return account.requests_until
        each_s = WINDOW_S / (per_minute * self._share)
        until = max(account.requests_until, now) + each_s
        if (wait_s := until - now - max(WINDOW_S, each_s)) > SLACK_S:
            raise _reached("requests per min (RPM)", per_minute, 1, wait_s)
        return until

    def _check_tokens(self, limit: RateLimit, account: Account, tokens: int, now: float) -> float:
        if (per_minute := limit.tokens_per_minute) is None:
            return account.tokens_until
        if tokens > per_minute:
            raise Refused(
                Reason.RATE_LIMITED,
                f"Request too large on tokens per min (TPM): Limit {per_minute}, Requested {tokens}. "
                "Make the prompt shorter, or max_tokens smaller.",
                code="rate_limit_exceeded",
            )
        need_s = tokens * WINDOW_S / (per_minute * self._share)
        owed_s = max(account.tokens_until - now, 0.0)
        if owed_s > SLACK_S and (wait_s := min(owed_s + need_s - WINDOW_S, owed_s)) > SLACK_S:
            raise _reached("tokens per min (TPM)", per_minute, tokens, wait_s)
        return now + owed_s + need_s

    def give_back(self, hold: Hold, account: Account, actual_tokens: int, now: float) -> None:
        """Settle a hold; said by `Hold.settle`, once."""
        now = self._on_time_line(now)
        account.in_flight -= 1
        if (per_minute := hold.limit.tokens_per_minute) is None:
            return
        extra_s = (actual_tokens - hold.tokens) * WINDOW_S / (per_minute * self._share)
        if extra_s > 0:
            account.tokens_until = max(account.tokens_until, now) + extra_s
        elif hold in account.open:
            refund_s = min(-extra_s, max(hold.debt_end - now, 0.0))
            account.tokens_until -= refund_s
            for later in reversed(account.open):
                if later is hold:
                    break
                later.debt_end -= refund_s
        account.open.pop(hold, None)


def _is_free(limit: RateLimit) -> bool:
    return limit.requests_per_minute is None and limit.tokens_per_minute is None and limit.concurrent is None


def _three(kind: bytes, per_minute: int, owed_s: float) -> list[tuple[bytes, bytes]]:
    owed_s = max(owed_s, 0.0)
    remaining = max(int((WINDOW_S - owed_s) * per_minute / WINDOW_S + SLACK_S), 0)
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % per_minute),
        (b"x-ratelimit-remaining-" + kind, b"%d" % remaining),
        (b"x-ratelimit-reset-" + kind, duration(owed_s)),
    ]


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
