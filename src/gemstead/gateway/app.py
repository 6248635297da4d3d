"""The gateway of one worker: what all its exchanges share, and the few routes that it answers itself.

`configure` swaps every setting at once, between two requests: exchanges that run keep the endpoint they have.
Refusals become answers in one place (`refuse`), through the one table in `openai/errors.py`. `sweep` is the
worker's only clock: one pass over connections and exchanges a few times a second replaces a timer for each.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from email.utils import formatdate
from math import ceil
from random import Random
from time import monotonic, time
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from gemstead.gateway.adapters import AdapterRoom
from gemstead.gateway.allowances import Allowances, Link, local_link
from gemstead.gateway.apart import Second, mirror
from gemstead.gateway.exchange import Exchange
from gemstead.gateway.figures import Figures
from gemstead.gateway.heads import Heads
from gemstead.gateway.keyring import Keyring
from gemstead.gateway.settings import Aside, GatewaySettings, Pool
from gemstead.gateway.upstream import Line, dialect_of
from gemstead.gateway.waitroom import WaitRoom
from gemstead.ledger.audit import AuditRecord, HashKey, PromptHashers
from gemstead.openai import errors, models
from gemstead.openai.requests import ROUTES
from gemstead.refused import Reason, Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import UNBOUNDED, Endpoint, EndpointFacts, Load
from gemstead.traffic.hold import Crossed
from gemstead.traffic.limits import Limits
from gemstead.traffic.policy import Policy
from gemstead.traffic.retry import Budget, Hedge
from gemstead.traffic.roles import GATEWAY_RULES, Roles, gateway_right
from gemstead.traffic.roster import Roster
from gemstead.traffic.routes import Routes
from gemstead.traffic.rules import looks_inside
from gemstead.traffic.split import Split, split
from gemstead.traffic.window import Windows

if TYPE_CHECKING:
    from gemstead.gateway.fetch import Fetcher
    from gemstead.gateway.protocol import ClientConnection
    from gemstead.traffic.caller import Caller

SWEEP_S = 0.1
DRAIN_LOOK_S: Final = 0.02
STOPPING: Final = "The gateway is stopping; please try again."
SAID_WITH = {
    Reason.UNAUTHENTICATED: b'\r\nwww-authenticate: Bearer realm="gemstead"',
    Reason.WRONG_METHOD: b"\r\nallow: GET, HEAD, POST",
}
LIMITED = (Reason.RATE_LIMITED, Reason.TOO_MANY_AT_ONCE, Reason.BUDGET_SPENT)
WELCOME = (
    b"This is a Gemstead gateway: an OpenAI-compatible API to Gemma 4.\n"
    b"GET /v1/models lists what is served; POST /v1/chat/completions answers. Send your key as a bearer token.\n"
)
HEX = [f"{number:02x}" for number in range(256)]
OWN = ("/", "/healthz", "/readyz", "/v1/models")


class Gateway:
    """One worker's state. Made once; `configure` may be called again at any time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: GatewaySettings,
        keyring: Keyring,
        remember: Callable[[AuditRecord], None],
        figures: Figures,
        picker: Policy,
    ) -> None:
        self.loop = loop
        self.keyring = keyring
        self.figures = figures
        self.picker = picker
        self._remember = remember
        self.ledger_healthy: Callable[[], bool] = lambda: True
        self.heads = Heads()
        self.connections: set[ClientConnection] = set()
        self.running: set[Exchange] = set()
        self.endpoints: dict[str, Endpoint] = {}
        self.pools: dict[str, Roster] = {}
        self.splits: dict[str, Split] = {}  # pools whose calls a rollout divides
        self.lines: dict[str, Line] = {}
        self.chance = Random().randrange  # noqa: S311
        self.budgets: dict[str, Budget] = {}  # of second tries, by pool
        self.budgeted: dict[str, int] = {}  # calls of the pool that have been counted for its budget
        self.hedges: dict[str, Hedge] = {}  # by pool; none: late calls get no second copy
        self.mirrored = 0  # copies on their way
        self.draining = False
        self.waitroom = WaitRoom(self)
        self.adapter_room = AdapterRoom(self)
        self.on_demand = False  # adapters are loaded when calls name them
        self.known = frozenset([*ROUTES, "/v1/models"])  # routes that are recorded by name
        self.date, self.date_at = date_line(time()), 0
        self._nonce = os.urandom(8).hex()
        self._calls = 0
        self._id_before = f"req_{self._nonce}000000"  # an id without its last two digits
        self.limits = Limits(settings.limit, 1.0)
        self.allowances: Allowances | None = None
        self.fetcher: Fetcher | None = None  # of media that requests name; None: nothing is fetched
        self.link: Link = local_link(Windows())  # to the counters; the worker sets another
        self.on_crossed: Callable[[Crossed], None] = lambda crossed: None
        self.configure(settings)

    # -- settings ---------------------------------------------------------------------------------------

    def configure(self, settings: GatewaySettings) -> None:
        """Take new settings. Calls that run go on as they began."""
        self.settings = settings
        # What every call asks of the settings, where it costs nothing to ask.
        deadlines = settings.deadlines
        self.first_token_s, self.between_tokens_s = deadlines.first_token_s, deadlines.between_tokens_s
        self.total_s = deadlines.total_s
        self.body_most = settings.bounds.body_bytes
        self.must_record = settings.ledger_on_error == "refuse"
        self.refuses_media = settings.media == "refuse"
        self.hashers = PromptHashers(settings.hash_keys or (HashKey(id="1", secret=settings.hash_key),))
        self.limits.set_default(settings.limit, 1.0 / settings.workers)
        if not (settings.rulebook.rules or settings.limit_store or settings.workers > 1):
            self.allowances = None
        elif self.allowances is not None:
            self.allowances.configure(settings)
        else:
            tell: Link = lambda batch, answer: self.link(batch, answer)  # noqa: E731
            self.allowances = Allowances(self.loop, os.urandom(8).hex(), settings, tell)
            self.allowances.on_crossed = self.crossed
        self.cors = settings.cors_origins
        self.reach_media(settings)
        self.roles = Roles(settings.identity.roles)
        self.aside: Line | None = aside_line(settings.aside)
        self.aims = dict(settings.aims)
        self.kept = frozenset(name.encode() for rule in settings.routing for name in rule.headers)
        self.heads = Heads()  # those that are remembered were read without what routes ask for now
        self.rules, self.regions = settings.routing, dict(settings.regions)
        self.rules_look_inside = looks_inside(settings.routing)
        self.waitroom.configure()
        self.set_fleet(settings.endpoints)

    def reach_media(self, settings: GatewaySettings) -> None:
        """Have media fetched that requests name, where the settings say so."""
        if settings.media != "fetch":
            self.fetcher = None
        elif self.fetcher is None or self.fetcher.rules != settings.fetch:
            from gemstead.gateway.fetch import Fetcher

            self.fetcher = Fetcher(settings.fetch)

    def set_fleet(self, fleet: tuple[EndpointFacts, ...]) -> None:
        """Take the endpoints as they are now; counters of those that stay are kept."""
        endpoints, lines = {}, {}
        for facts in fleet:
            if (endpoint := self.endpoints.get(facts.name)) is None:
                endpoint = Endpoint(facts)
            line = self.lines.pop(facts.name, None)
            if line is None or not line.same_door(facts):
                if line is not None:
                    line.close()
                bounds = self.settings.bounds
                line = Line(facts, self.settings.deadlines.upstream_idle_s, bounds.upstream_idle)
            line.idle_s = self.settings.deadlines.upstream_idle_s
            if line.facts.engine != facts.engine:
                line.dialect = dialect_of(facts.engine)
            if endpoint.facts.ready and not (facts.ready or facts.draining):
                self.picker.forget(facts.name)  # whatever it comes back from, its cache may be empty
            if not facts.region and self.settings.region:
                facts = msgspec.structs.replace(facts, region=self.settings.region)
            endpoint.facts = facts
            line.serves(facts)
            endpoints[facts.name], lines[facts.name] = endpoint, line
        for line in self.lines.values():
            line.close()
        for name in self.endpoints.keys() - endpoints.keys():
            self.picker.forget(name)
        self.endpoints, self.lines = endpoints, lines
        by_pool: dict[str, list[Endpoint]] = {pool.name: [] for pool in self.settings.pools}
        for endpoint in endpoints.values():
            by_pool.setdefault(endpoint.facts.pool, []).append(endpoint)
        self.pools = {name: Roster(members) for name, members in by_pool.items()}
        sticky = {pool.name for pool in self.settings.pools if pool.sticky}
        self.budgets = {name: self.budgets.get(name) or Budget() for name in self.pools}
        self.hedges = {n: self.hedges.get(n) or Hedge() for n in self.pools} if self.settings.hedge else {}
        divided = {name: split(roster, self.chance, name in sticky) for name, roster in self.pools.items()}
        self.splits = {name: one for name, one in divided.items() if one is not None}
        # A prompt that is estimated to have so many tokens is looked at again: it may fit nowhere.
        self.too_long = {name: too_long(roster) for name, roster in self.pools.items()}
        self.routes = Routes((pool.name, (*pool.aliases, *pool.adapters)) for pool in self.settings.pools)
        # Adapters by any spelling of theirs: engines know them by the one in the file.
        self.adapters = {name.casefold(): name for pool in self.settings.pools for name in pool.adapters}
        self.on_demand = any(facts.adapters is not None for facts in fleet)
        self.adapter_room.look()
        self.waitroom.look()

    def set_loads(self, loads: dict[str, Load]) -> None:
        for name, load in loads.items():
            if (endpoint := self.endpoints.get(name)) is not None:
                endpoint.load = load
        self.waitroom.look()

    # -- second tries ------------------------------------------------------------------------------------

    def may_retry(self, pool: str) -> bool:
        """Whether one more call of the pool may be tried elsewhere; it is counted."""
        budget = self.budgets.get(pool)
        return budget is None or budget.take(monotonic())

    def mirror(self, exchange: Exchange, pool: str) -> None:
        """Send a copy of the call to another pool; nobody reads its answer."""
        mirror(exchange, pool)

    def learn_patience(self, call: Call, now: float) -> None:
        """A first token has come."""
        hedge = self.hedges.get(call.model)
        if hedge is not None and call.streams and call.due_s > 0.0:
            hedge.patience.learn(call.due_s, now - call.charged_at)

    def hedge(self, exchange: Exchange, now: float) -> None:
        """Send a second copy of a call that is late, where an endpoint is idle."""
        call = exchange.call
        if call is None or not call.streams or exchange.first_at or exchange.status or exchange.apart:
            return
        if exchange.hedged or exchange.endpoint is None or not call.booked:
            return
        hedge = self.hedges.get(call.model)
        if hedge is None or now < hedge.when(call):
            return
        region = self.regions.get(call.tenant)
        endpoints = [e for e in self.pools.get(call.model, ()) if not region or e.facts.region == region]
        where = hedge.where(call, endpoints, now)
        if where is not None:
            Second(exchange).start(where)

    def budget_calls(self, now: float) -> None:
        """Count the calls since the last time for the budgets of second tries."""
        for name, pool in self.pools.items():
            total = sum(endpoint.served + endpoint.failures for endpoint in pool)
            calls = total - self.budgeted.get(name, 0)
            self.budgeted[name] = total
            if calls > 0:
                self.budgets[name].call(now, calls)
                if (hedge := self.hedges.get(name)) is not None:
                    hedge.budget.call(now, calls)

    # -- what exchanges use -----------------------------------------------------------------------------

    def new_id(self) -> str:
        """`req_`, this process's random 16 hex digits, and its count of calls in 8."""
        calls = self._calls = self._calls + 1
        if calls & 0xFF == 0:
            self._id_before = f"req_{self._nonce}{calls >> 8:06x}"
        return self._id_before + HEX[calls & 0xFF]

    def check_right(self, caller: Caller, path: str) -> None:
        """Whether the caller's roles let him ask for this path.

        Raises:
            Refused: FORBIDDEN.
        """
        right = GATEWAY_RULES.get(path)
        if right is None and (right := gateway_right(path)) is None:
            if path in self.known:
                raise Refused(Reason.FORBIDDEN, f"Nobody may ask for {path} here.")
            return  # there is nothing at such a path
        if right and right not in self.roles.rights(caller.roles):
            held = ", ".join(caller.roles) or "none"
            needed = " or ".join(self.roles.those_with(right))
            raise Refused(
                Reason.FORBIDDEN, f"Your roles ({held}) do not let you do this: it takes the role {needed}."
            )

    def remember(self, record: AuditRecord) -> None:
        self._remember(record)
        self.figures.record(record)

    def cors_headers(self, origin: bytes) -> bytes:
        if "*" in self.cors or origin.decode("latin-1") in self.cors:
            allowed = b"*" if "*" in self.cors else origin
            return (
                b"\r\naccess-control-allow-origin: %s\r\nvary: origin"
                b"\r\naccess-control-expose-headers: x-request-id, retry-after, retry-after-ms, x-gemstead-model, "
                b"x-gemstead-fallback, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
                b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
                b"x-ratelimit-reset-tokens" % allowed
            )
        return b""

    def refuse(self, exchange: Exchange, refusal: Refused) -> None:
        """Write a refusal as a whole answer in the caller's dialect."""
        body = errors.body(refusal, exchange.dialect, exchange.record.call_id)
        extra = SAID_WITH.get(refusal.reason, b"")
        if refusal.retry_after_s is not None:
            extra += b"\r\nretry-after: %d" % max(1, ceil(refusal.retry_after_s))
        if refusal.reason in LIMITED and exchange.caller is not None:
            extra += self.standing(exchange, refusal)
        exchange.send_whole(errors.STATUS[refusal.reason], body, extra=extra)

    def crossed(self, crossed: Crossed) -> None:
        """A budget has come to a share of its limit."""
        cap = crossed.cap
        self.figures.budget_warnings.labels(cap.rule, cap.name, f"{crossed.level:.0%}").add(1)
        self.on_crossed(crossed)

    def standing(self, exchange: Exchange, refusal: Refused) -> bytes:
        """What a caller who was turned away by a limit is told of it."""
        assert exchange.caller is not None
        after = refusal.retry_after_s
        wait = b"" if after is None else b"\r\nretry-after-ms: %d" % ceil(after * 1000)
        if self.allowances is not None:
            return wait + self.allowances.lines(exchange)
        if exchange.hold is not None:  # it became too large while it was held: the answer's head tells
            return wait
        return wait + self.limits.standing(exchange.caller, exchange.began_at)

    def broken(self, exchange: Exchange, error: Exception) -> None:
        """The one handler for a broken promise between our own parts: the operator sees it, the client a 500."""
        sys.stderr.write("".join(traceback.format_exception(error)))
        sys.stderr.flush()
        if exchange.apart:
            exchange.fail(Refused(Reason.INTERNAL, ""))
            return
        exchange.keep_alive = False
        try:
            message = "The gateway failed; the operator can find this request by its id."
            exchange.fail(Refused(Reason.INTERNAL, message))
        finally:
            exchange.client.transport.close()

    # -- routes that need no engine -----------------------------------------------------------------------

    def answer_itself(self, exchange: Exchange) -> None:
        """Answer a request that no engine needs to see.

        Raises:
            Refused: there is no such route, or not with this method.
        """
        path, method = exchange.path, exchange.method
        if method == b"OPTIONS" and self.cors and b"origin" in exchange.headers:
            self.preflight(exchange)
            return
        if path in ROUTES:
            raise Refused(Reason.WRONG_METHOD, f"Use POST for {path}.")
        if path in OWN or path.startswith("/v1/models/"):
            if method not in (b"GET", b"HEAD"):
                raise Refused(Reason.WRONG_METHOD, f"Use GET for {path}.")
        else:
            raise Refused(Reason.UNKNOWN_ROUTE, f"There is nothing at {path[:128]}; try /v1/models.")
        if path == "/":
            exchange.send_whole(200, WELCOME, b"text/plain; charset=utf-8")
        elif path == "/healthz":
            exchange.send_whole(200, b"ok\n", b"text/plain")
        elif path == "/readyz":
            ready = not self.draining and self.all_ready()
            exchange.send_whole(200 if ready else 503, b"ready\n" if ready else b"not ready\n", b"text/plain")
        elif path == "/v1/models":
            exchange.send_whole(200, models.listing(self.visible(exchange)))
        else:
            pool = self.routes.pool(unquote(path[11:]), exchange.caller)
            exchange.send_whole(200, models.one(next(p for p in self.visible(exchange) if p.name == pool)))
        exchange.settle("served", ok=True)

    def visible(self, exchange: Exchange) -> list[Pool]:
        """The models that this caller may name, with the context that every endpoint of theirs can hold."""
        allowed = exchange.caller.models if exchange.caller is not None else None
        pools = [
            msgspec.structs.replace(pool, context_tokens=pool.context_tokens or self.context_of(pool.name))
            for pool in self.settings.pools
            if allowed is None or pool.name in allowed
        ]
        tuned = [
            msgspec.structs.replace(pool, name=name, aliases=()) for pool in pools for name in pool.adapters
        ]
        return pools + tuned

    def context_of(self, pool: str) -> int:
        """The shortest context among the pool's endpoints, in tokens; 0 if none tells."""
        return min((e.facts.context_tokens for e in self.pools[pool] if e.facts.context_tokens), default=0)

    def only_model(self) -> str:
        """The model that a route without a model field means.

        Raises:
            Refused: BAD_REQUEST, when there are several.
        """
        if len(self.settings.pools) == 1:
            return self.settings.pools[0].name
        raise Refused(Reason.BAD_REQUEST, "Say which model: several are served here.", param="model")

    def all_ready(self) -> bool:
        """Every pool has an endpoint that can take a call."""
        return all(any(e.facts.ready and not e.facts.draining for e in pool) for pool in self.pools.values())

    def preflight(self, exchange: Exchange) -> None:
        allowed = self.cors_headers(exchange.headers[b"origin"])
        if allowed:
            asked = exchange.headers.get(b"access-control-request-headers", b"authorization, content-type")
            allowed += (
                b"\r\naccess-control-allow-methods: GET, POST, DELETE, OPTIONS\r\naccess-control-max-age: 600"
                b"\r\naccess-control-allow-headers: " + asked
            )
        exchange.send_empty(204, allowed)
        exchange.settle("served", ok=True)

    # -- time -------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Close what is overdue. Called every SWEEP_S."""
        now = monotonic()
        if (second := int(time())) != self.date_at:
            self.date_at = second
            self.date = date_line(second)
            self.budget_calls(now)
        for exchange in tuple(self.running):
            try:
                exchange.overdue(now)
                if self.hedges:
                    self.hedge(exchange, now)
            except Exception as error:  # one call's trouble must not cost all others their deadlines
                self.broken(exchange, error)
        for connection in tuple(self.connections):
            if now >= connection.until:
                connection.overdue()
        for line in self.lines.values():
            line.sweep(now)
        self.waitroom.sweep(now)
        self.adapter_room.sweep(now)
        if self.allowances is not None:
            self.allowances.sweep(now)
            self.figures.limit_store.set(float(not self.allowances.accounts.away))

    # -- the end ----------------------------------------------------------------------------------------

    async def drain(self, within_s: float) -> int:
        """Finish what runs, within a bound; the rest gets an error event. Returns how many that were."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.close_if_idle()
        until = monotonic() + within_s
        while (busy := self.busy()) and monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK_S)
        for connection in busy:
            connection.give_up(Refused(Reason.DRAINING, STOPPING, retry_after_s=1.0))
        await asyncio.sleep(0)
        for connection in tuple(self.connections):
            connection.transport.close()
        for line in self.lines.values():
            line.close()
        if self.allowances is not None:
            await self.allowances.finish()
        return len(busy)

    def busy(self) -> list[ClientConnection]:
        """Connections with a request that was accepted and is not answered."""
        return [connection for connection in self.connections if connection.busy()]


def too_long(endpoints: Sequence[Endpoint]) -> int:
    """Estimated prompt tokens from which on a prompt may fit nowhere; beyond all where endpoints do not say."""
    offered = [endpoint.facts.context_tokens for endpoint in endpoints]
    return 2 * max(offered) if offered and all(offered) else UNBOUNDED


def aside_line(aside: Aside | None) -> Line | None:
    """The way to the process beside the gateway. Its connections are never kept: bodies cannot be sent twice."""
    if aside is None:
        return None
    facts = EndpointFacts(name="batch", pool="", host=aside.host, port=aside.port, api_key=aside.secret)
    return Line(facts, 0.0, 0)


def date_line(now: float) -> bytes:
    """Two header lines, up to the request's id: the first is the same for a second, the second for all."""
    return f"\r\ndate: {formatdate(now, usegmt=True)}\r\nx-request-id: ".encode()
