"""Who may use how much, for one worker: rules and shared limits on the request path.

`admit` either lets a call go on, turns it away, or keeps it until the store of counters has answered; then the call
goes on by itself. What is decided, and what is told to the store, is worked out in `traffic/hold.py`; this file has the
clock, the waiting calls and the way to the store (`Link`). One batch is on its way at a time; what comes up
meanwhile goes with the next. The link always answers, with None when the store did not: then `on_error` says
what happens to calls that would have needed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from gemstead.openai.rewrite import with_most_output
from gemstead.refused import Reason, Refused
from gemstead.traffic.budget import Terms, cost, prompt_bound, prompt_guess
from gemstead.traffic.hold import Account, Accounts, Crossed, Hold, Short, header_lines, reached
from gemstead.traffic.window import Batch, Grant, Windows

if TYPE_CHECKING:
    from gemstead.gateway.exchange import Exchange
    from gemstead.gateway.reply import Reply
    from gemstead.gateway.settings import GatewaySettings

Answer = Callable[[list[Grant] | None], None]
Link = Callable[[Batch, Answer], None]

FLUSH_S: Final = 0.02  # what is no hurry is collected for so long
AGAIN_S: Final = 0.06  # a call that found no slot is asked for once more after this
SWEEP_S: Final = 0.5
LAST_S: Final = 1.0  # for what is at hand to go back when the worker ends
TRIES: Final = 20
SHARE_ALONE: Final = 0.25  # of a limit that is taken ahead where nobody else counts
SHARE: Final = 0.01
STORE_AWAY = (
    "How much you may use cannot be looked up at the moment, and this service lets no call through unlooked. "
    "Try again soon."
)
STORE_BUSY: Final = "Too many calls draw on the same limit at the moment. Try again soon."


class Waiting:
    """A call that waits for the store."""

    __slots__ = ("again_at", "exchange", "need", "round", "short", "tries")

    def __init__(self, exchange: Exchange, need: Need, short: Short) -> None:
        self.exchange = exchange
        self.need = need
        self.short = short
        self.tries = 0
        self.again_at = 0.0  # not before this is it asked for again
        self.round = 0  # batches that had been said when it began to wait


class Need:
    """What one call takes of each kind of counter."""

    __slots__ = ("accounts", "bound", "money", "terms", "tokens")

    def __init__(
        self, terms: Terms, accounts: tuple[Account, ...], tokens: int, bound: int, money: int
    ) -> None:
        self.terms = terms
        self.accounts = accounts
        self.tokens = tokens
        self.bound = bound
        self.money = money


class Allowances:
    """The accounts of one worker, its waiting calls, and the way to the store."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, owner: str, settings: GatewaySettings, link: Link
    ) -> None:
        self.loop = loop
        self.link = link
        self.accounts = Accounts(owner, settings.rulebook, settings.limit, share_of(settings))
        self.accounts.wake = self.wake
        self.waiting: list[Waiting] = []
        self.under_way = False
        self.retrying = False
        self.round = 0  # batches said so far
        self.planned: asyncio.TimerHandle | None = None
        self.soon = False
        self.swept_at = 0.0
        self.away_since = 0.0
        self.on_crossed: Callable[[Crossed], None] = lambda crossed: None
        self.configure(settings)

    def configure(self, settings: GatewaySettings) -> None:
        """Take other rules; what calls hold stays held."""
        self.accounts.configure(settings.rulebook, settings.limit, share_of(settings))
        self.on_error = settings.limit_on_error
        self.accounts.free = self.on_error == "allow"
        if self.on_error != "local":
            self.accounts.stand_in = None
        elif self.accounts.stand_in is None:
            self.accounts.stand_in = Windows()
        self.parts = settings.workers

    # -- calls ------------------------------------------------------------------------------------------

    def admit(self, exchange: Exchange) -> bool:
        """Whether the call goes on now. False: it waits for the store, and goes on by itself.

        Raises:
            Refused: a rule forbids it, or a limit is reached.
        """
        caller, call = exchange.caller, exchange.call
        assert caller is not None and call is not None
        found, accounts = self.accounts.terms(caller, call.model)
        if found.bounded or found.budgets:
            need = self.bind(exchange, found, accounts)
        elif not accounts:
            return True
        else:
            need = Need(found, accounts, call.most_tokens, 0, 0)
        exchange.need_of = need
        return self.decide(exchange, need, Waiting)

    def grow(self, exchange: Exchange) -> bool:
        """Whether the call, which has become larger since it was admitted, goes on now. False: as of `admit`.

        Raises:
            Refused: it is too large, or more than a limit has left. What was held stays held until it is settled.
        """
        before, call = exchange.need_of, exchange.call
        if before is None or call is None or exchange.allowed is None:
            return True
        if before.terms.bounded or before.terms.budgets:
            need = self.bind(exchange, before.terms, before.accounts)
        else:
            need = Need(before.terms, before.accounts, call.most_tokens, 0, 0)
        exchange.need_of = need
        tokens, bound = max(need.tokens - before.tokens, 0), max(need.bound - before.bound, 0)
        money = max(need.money - before.money, 0)
        accounts = tuple(one for one in need.accounts if one.cap.unit in ("tokens", "money"))
        if not accounts or not (tokens or bound or money):
            return True
        self.accounts.check_size(accounts, need.tokens, need.bound, need.money)
        return self.decide(exchange, Need(need.terms, accounts, tokens, bound, money), Waiting)

    def move(self, exchange: Exchange) -> bool:
        """Whether the call, which another model than before takes, goes on now. False: as of `admit`.

        It stays one request. What it held of limits that do not hold for the other model comes back.

        Raises:
            Refused: as of `admit`, by what holds for the other model.
        """
        before, caller, call, held = exchange.need_of, exchange.caller, exchange.call, exchange.allowed
        assert caller is not None and call is not None
        found, accounts = self.accounts.terms(caller, call.model)
        if before is not None and found == before.terms:
            return self.grow(exchange)
        if held is not None:
            held.settle(0, 0, 0)
            exchange.allowed = None
        if found.bounded or found.budgets:
            need = self.bind(exchange, found, accounts)
        else:
            need = Need(found, accounts, call.most_tokens, 0, 0)
        exchange.need_of = need
        counted = () if before is None else before.accounts
        due = tuple(one for one in accounts if one.cap.unit != "requests" or one not in counted)
        if not due:
            return True
        return self.decide(exchange, Need(found, due, need.tokens, need.bound, need.money), Waiting)

    def decide(self, exchange: Exchange, need: Need, new: Callable[[Exchange, Need, Short], Waiting]) -> bool:
        """Hold what the call needs, or needs beside what it holds; or let it wait."""
        held, before = self.hold(need), exchange.allowed
        if isinstance(held, Hold):
            held.first = before
            exchange.allowed = held
            if self.accounts.low:
                self.wake()
            return True
        if self.accounts.away and self.without(need, held):
            return self.decide(exchange, need, new)
        self.accounts.want(held, need.tokens, need.bound, need.money)
        one = new(exchange, need, held)
        one.round = self.round
        self.waiting.append(one)
        self.wake()
        return exchange.allowed is not before  # a store in this process has answered already

    def hold(self, need: Need) -> Hold | Short:
        return self.accounts.hold(
            need.terms, need.accounts, need.tokens, need.bound, need.money, monotonic(), time()
        )

    def bind(self, exchange: Exchange, found: Terms, accounts: tuple[Account, ...]) -> Need:
        """Hold the call to what rules say of its size, and work out what it can cost at most.

        Raises:
            Refused: it is too large.
        """
        request, call = exchange.request, exchange.call
        assert request is not None and call is not None
        guess = prompt_guess(request.prompt)
        if found.input_tokens is not None and guess > found.input_tokens:
            raise _too_long(
                f"The prompt has about {guess} tokens; {found.input_tokens} are allowed here.", "messages"
            )
        output = request.most_output
        if output != 0:
            output = bounded_output(output, guess, found)
            if output is None and found.budgets:
                output = self.accounts.book.assumed_output
                if context := exchange.gate.context_of(call.model):
                    output = min(output, context)
            if output is not None and output != request.most_output:
                exchange.body = with_most_output(exchange.body, exchange.path, output)
        if found.total_s is not None:
            exchange.most_s = found.total_s
        if found.first_token_s is not None:
            exchange.most_first_s = found.first_token_s
        if not found.budgets:
            return Need(found, accounts, call.most_tokens, 0, 0)
        prompt, answers = prompt_bound(request.prompt), (output or 0) * request.answers
        return Need(
            found, accounts, call.most_tokens, prompt + answers, cost(found.price, prompt, 0, answers)
        )

    def without(self, need: Need, short: Short) -> bool:
        """The store is away: whether the call goes on all the same.

        Raises:
            Refused: LIMITS_UNAVAILABLE, or what this worker's own count says.
        """
        now = monotonic()
        if self.on_error == "refuse":
            raise Refused(Reason.LIMITS_UNAVAILABLE, STORE_AWAY, retry_after_s=2.0)
        if self.accounts.without_store(short, need.tokens, need.bound, need.money, now, time(), self.parts):
            return True
        account = next((one for one in short.accounts if now < one.denied_until), short.accounts[0])
        raise reached(account, 0, time())

    def lines(self, exchange: Reply) -> bytes:
        """`x-ratelimit-*` for this call, each line begun with a line end."""
        need = exchange.need_of
        return header_lines(need.accounts) if need is not None else b""

    # -- the store --------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something is to be told to the store: at once when it is urgent, else soon."""
        if self.under_way or self.retrying:
            return
        if self.accounts.urgent:
            self.flush()
        elif self.planned is None:
            self.planned = self.loop.call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Tell the store what there is to tell."""
        if self.planned is not None:
            self.planned.cancel()
            self.planned = None
        if self.under_way:
            return
        now = monotonic()
        batch = self.accounts.batch(now)
        if batch is None:
            if self.waiting:  # what came for others is enough for these too
                self.round += 1
                self.retry(now)
                if self.accounts.urgent and not self.accounts.away:
                    self.flush()
            return
        self.under_way = True
        self.round += 1
        self.link(batch, lambda grants: self.answered(batch, grants))

    def answered(self, batch: Batch, grants: list[Grant] | None) -> None:
        """The store's answer, or None."""
        self.under_way = False
        now = monotonic()
        if grants is None:
            if not self.away_since:
                self.away_since = now
            self.accounts.lost(batch)
        else:
            self.away_since = 0.0
            self.accounts.granted(batch, grants, now, time())
        self.retry(now)
        if self.accounts.crossed:
            crossed, self.accounts.crossed = self.accounts.crossed, []
            for one in crossed:
                self.on_crossed(one)
        if self.accounts.urgent and not self.accounts.away:
            self.flush()
        elif self.accounts.low and not self.accounts.away:
            self.wake()

    def retry(self, now: float) -> None:
        """Try again every call that waits, but for those that no batch has asked for yet."""
        waiting, self.waiting = self.waiting, []
        self.retrying = True  # the next batch is said when all have been looked at
        try:
            for one in waiting:
                if not one.exchange.done:
                    self.try_again(one, now)
        finally:
            self.retrying = False

    def try_again(self, one: Waiting, now: float) -> None:
        """It goes on, is turned away, or waits on."""
        exchange, need = one.exchange, one.need
        if one.again_at > now or (one.round == self.round and not self.accounts.away):  # not asked yet
            self.waiting.append(one)
            return
        try:
            if self.decide(exchange, need, lambda e, need, short: self.again(one, short)):
                exchange.allowed_in()
        except Refused as refusal:
            if refusal.reason is Reason.TOO_MANY_AT_ONCE and one.tries == 0 and not self.accounts.away:
                one.tries, one.again_at = 1, now + AGAIN_S  # another worker may just be giving one back
                self.waiting.append(one)
                self.loop.call_later(AGAIN_S, self.ask_again, one)
            else:
                exchange.turned_away(refusal)

    def again(self, one: Waiting, short: Short) -> Waiting:
        """A call that still lacks something.

        Raises:
            Refused: others were quicker too often.
        """
        one.tries += 1
        one.short = short
        if one.tries > TRIES:
            if any(account.left > 0 for account in short.accounts):
                raise Refused(Reason.LIMITS_UNAVAILABLE, STORE_BUSY, retry_after_s=1.0)
            raise reached(short.accounts[0], 0, time())
        return one

    def ask_again(self, one: Waiting) -> None:
        """The pause of a call that found no slot is over."""
        one.again_at, one.round = 0.0, self.round
        need = one.need
        if one in self.waiting and not one.exchange.done:
            self.accounts.want(one.short, need.tokens, need.bound, need.money)
            self.wake()

    def sweep(self, now: float) -> None:
        """From the worker's clock."""
        if now - self.swept_at < SWEEP_S:
            return
        self.swept_at = now
        self.accounts.sweep(now, time())
        if self.accounts.low or self.accounts.stuck is not None:
            self.flush()

    async def finish(self) -> None:
        """The worker ends: all that is at hand goes back, as far as that can still be said."""
        until = monotonic() + LAST_S
        while self.under_way and monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_S)
        for name, account in self.accounts.accounts.items():
            account.empty()
            if account.backs or account.slots:
                self.accounts.low[name] = account
        self.flush()
        while self.under_way and monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_S)


def share_of(settings: GatewaySettings) -> float:
    """How much of a limit is taken ahead at most."""
    return SHARE_ALONE if settings.workers == 1 and not settings.limit_store else SHARE


def bounded_output(asked: int | None, prompt_tokens: int, found: Terms) -> int | None:
    """How long the answer may get under the rules; None: they do not say.

    Raises:
        Refused: the call asks for more, and the rule refuses that.
    """
    most = found.output_tokens
    if most is not None and asked is not None and asked > most and not found.clamps:
        raise Refused(
            Reason.BAD_REQUEST,
            f"max_tokens is {asked}, and {most} are allowed here: ask for fewer.",
            param="max_tokens",
        )
    if (context := found.context_tokens) is not None:
        if prompt_tokens >= context:
            raise _too_long(
                f"The prompt has about {prompt_tokens} tokens; with its answer {context} are allowed here.",
                "messages",
            )
        most = context - prompt_tokens if most is None else min(most, context - prompt_tokens)
    if most is None:
        return asked
    return most if asked is None else min(asked, most)


def _too_long(message: str, param: str) -> Refused:
    return Refused(
        Reason.CONTEXT_EXCEEDED,
        message + " Make the prompt shorter.",
        param=param,
        code="context_length_exceeded",
    )


def local_link(windows: Windows) -> Link:
    """A store in this very process, which answers at once: of a worker that has no head."""

    def tell(batch: Batch, answer: Answer) -> None:
        answer(windows.apply(batch, monotonic()))

    return tell
