"""The story of one request, from its head to its record. Read `begin` first: each line is a stage.

An `Exchange` is driven by calls from two sockets: the client's (`opened`, `begin`, `client_*`) and the engine's
(`upstream_*`), and by the sweep (`overdue`). It never waits, so there is no task per request; the only awaited
thing is a new connection to an engine.

    opened   the head is here: identify
    begin    the body is here: parse, admit, route, pick, forward
    upstream_head, upstream_body, upstream_done     relay
    settle   exactly once, however it ended: charges go back, the record is handed over

Until the first piece of an answer, a failing engine is replaced by another (`another`), never by itself, with one
exception: a kept connection that the engine had closed already is replaced by a new one, once. After the first
piece the client gets a well-formed error event (`fail`). Callers are told what to do; what failed, and where, is for
the record (`AuditRecord.reason`). The bytes of an accepted request reach the engine unchanged,
except that a model's alias becomes the name that the engine knows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from gemstead.gateway.heads import passed_on
from gemstead.gateway.reply import CHUNKED, UNSENT, Reply, found_tokens
from gemstead.openai import errors, evening, media
from gemstead.openai.meter import Meter, usage_of
from gemstead.openai.requests import ROUTES, Request, parse
from gemstead.openai.rewrite import with_model
from gemstead.openai.shape import shape
from gemstead.refused import Reason, Refused
from gemstead.traffic.admission import never_fits
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.estimate import prompt_tokens, tokens_to_hold
from gemstead.traffic.prefix import chain
from gemstead.traffic.rules import FINE, Asked, first_match, target

if TYPE_CHECKING:
    from gemstead.gateway.apart import Second
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.fetch import Errand
    from gemstead.gateway.heads import Head
    from gemstead.gateway.protocol import ClientConnection
    from gemstead.gateway.upstream import Line, UpstreamConnection
    from gemstead.traffic.caller import Caller
    from gemstead.traffic.queue import Waiting

TRY_ANOTHER = frozenset({500, 502, 503, 504})
OUR_KEY_REFUSED = frozenset({401, 403, 407})  # the engine's word to us, not to the caller
STALE_WITHIN_S: Final = 1.0  # a connection that the engine had closed shows it within a round trip
WHOLE_MOST: Final = 4 << 20  # of a whole answer, kept to read its usage
REPEATED = re.compile(rb"(?:\s|\\[nrt]){2,}|(.)\1{3,}", re.DOTALL)
ERROR_BODY_MOST: Final = 65_536
LEDGER_AWAY = (
    "Calls cannot be recorded at the moment, and this service serves none unrecorded. Try again soon."
)
FALLS_BACK = frozenset(
    {
        Reason.NO_ENDPOINT,
        Reason.OVERLOADED,
        Reason.UPSTREAM_FAILED,
        Reason.CONTEXT_EXCEEDED,
        Reason.REGION,
    }
)
COMMENT: Final = b": keep-alive\n\n"
TO_END: Final = -2  # of upstream.framing
REASON_MOST: Final = 500  # characters
WHOLE: Final = -4  # an answer that is put right in one piece
REFRAMED: Final = -3  # beside upstream.framing: chunked, but not as the engine cut it
LAST_CHUNK: Final = b"0\r\n\r\n"


class Exchange(Reply):
    # What an exchange begins with. These are the class's, so that making one sets only what differs.
    body = b""
    body_bytes = 0
    refusal: Refused | None = None
    head: Head | None = None  # the same as one before
    caller: Caller | None = None
    request: Request | None = None
    call: Call | None = None
    endpoint: Endpoint | None = None
    up: UpstreamConnection | None = None
    connecting: asyncio.Task[None] | None = None
    place: Waiting | None = None  # in the queue of its pool, or where it was
    waited_for = ""  # that pool
    whole: list[bytes] | None = None
    need: evening.Needed | None = None  # what this call needs because of its engine's dialect
    evened: evening.Stream | None = None
    raw = False  # the engine's chunk framing goes to the client as it is
    done = False
    apart = False  # no client waits for it (apart.py)
    second: Second | None = None  # a copy of it on another endpoint
    hedged = False  # it has or had one: there is no further one, however that ended
    fallbacks: tuple[str, ...] = ()  # pools that may still be tried
    rerouted = False  # another model answers than the one that the caller named
    mirror = ""  # the pool that gets a copy
    tried_before = 0  # attempts with the models that it has fallen back from
    passing = False  # to the process beside the gateway (passage.py)
    errand: Errand | None = (
        None  # media that its body names, to be fetched before an engine is picked (fetch.py)
    )
    first_at = 0.0
    last_at = 0.0
    overdue_at = inf
    total_at = inf
    most_s = inf  # what a rule allows for the whole call, and to its first byte
    most_first_s = inf

    def __init__(
        self,
        gate: Gateway,
        client: ClientConnection,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        http11: bool,
        path: str = "",
    ) -> None:
        super().__init__(gate, client, method, headers, http11)
        self.url = url
        self.parts: list[bytes] = []
        self.answer = (0, b"", 0)  # the engine's status, content type and framing (upstream.framing)
        self.path = path = path or url.partition(b"?")[0].decode("latin-1")
        self.dialect = ROUTES.get(path, "openai")
        self.record.route = path if path in gate.known else ""

    # -- the stages -------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The head is here and the body is not: identity comes before anything is read or parsed."""
        if not self.path.startswith("/v1/") and self.path not in ROUTES:
            return
        if self.method == b"OPTIONS":
            return
        try:
            headers, record, caller = self.headers, self.record, None
            if (head := self.head) is not None and head.caller is not None:
                caller = self.gate.keyring.again(head.caller, record.began, self.client.client)
            if caller is None:
                caller = self.gate.keyring.identify(
                    headers.get(b"authorization"),
                    headers.get(b"x-api-key"),
                    record.began,
                    self.client.client,
                    self.client.certificate,
                )
                if head is not None:
                    head.caller, head.right = caller, None
            self.caller = caller
            record.tenant, record.app, record.user = caller.tenant, caller.app, caller.user
            record.key_id = caller.key_id
            if head is None or head.right is not self.gate.roles:
                self.gate.check_right(caller, self.path)
                if head is not None:
                    head.right = self.gate.roles
            if self.gate.must_record and not self.gate.ledger_healthy():
                raise Refused(Reason.LEDGER_UNAVAILABLE, LEDGER_AWAY, retry_after_s=2.0)
            length = headers.get(b"content-length")
            if length is not None and int(length) > self.gate.body_most and not self.passing:
                limit = self.gate.body_most
                raise Refused(Reason.BODY_TOO_LARGE, f"The request's body is larger than {limit} bytes.")
        except Refused as refusal:
            self.refusal = refusal

    def begin(self) -> None:
        """The whole request is here, and it is its turn."""
        gate, record = self.gate, self.record
        try:
            if self.refusal is not None:
                raise self.refusal
            if self.method != b"POST" or self.path not in ROUTES:
                gate.answer_itself(self)
                return
            body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            self.parts.clear()
            assert self.caller is not None, "opened() identified the caller"
            if b"content-encoding" in self.headers:
                raise Refused(Reason.UNSUPPORTED, "Send the body without Content-Encoding.")
            self.request = request = parse(self.path, body)
            record.model, record.stream = request.model[:128], request.stream
            record.bytes_in = len(body)
            if gate.refuses_media:
                media.check(body, self.dialect == "anthropic")
            record.prompt_hash = gate.hashers.hash(request.prompt, record.tenant)
            pool = gate.routes.pool(request.model or gate.only_model(), self.caller)
            if gate.fetcher is not None:
                self.errand = gate.fetcher.errand(self, body)
            if gate.rules:
                pool = self.routed(request, body, pool)
            record.pool = pool
            self.body = body
            self.call = call = self.describe(request, pool)
            if call.prompt_tokens >= gate.too_long[pool]:
                self.check_fits(request, call)
            self.enter(call)
        except Refused as refusal:
            self.turned_away(refusal)

    def enter(self, call: Call) -> None:
        """Let the limits look at it, and go on.

        Raises:
            Refused: a limit is reached, or no endpoint takes it.
        """
        gate, caller = self.gate, self.caller
        assert caller is not None
        if self.hold is None and self.allowed is None:
            if gate.allowances is None:
                self.hold = gate.limits.hold(caller, call.most_tokens, self.began_at)
            elif not gate.allowances.admit(self):
                return  # it goes on by itself when the store of limits has answered
        elif self.hold is not None:  # it has fallen back, perhaps with what was fetched
            gate.limits.grow(self.hold, call.most_tokens, monotonic())
        elif gate.allowances is not None and not gate.allowances.move(self):
            return
        self.onward()

    def onward(self) -> None:
        """No limit forbids it: fetch what it names, or pick an endpoint.

        Raises:
            Refused: no endpoint takes it.
        """
        if self.errand is not None:
            self.errand.begin(self)  # it goes on by itself when what it names is here
            return
        self.let_in()
        self.another(fresh=True)

    def routed(self, request: Request, body: bytes, pool: str) -> str:
        """The pool that the file's routes say; what else they say of the call is kept."""
        gate, record = self.gate, self.record
        most = -1 if request.most_output is None else request.most_output
        asked = Asked(
            pool=pool,
            tenant=record.tenant,
            headers=self.headers,
            prompt_tokens=prompt_tokens(request.prompt),
            answer_tokens=most,
        )
        if gate.rules_look_inside:
            inside = shape(request, body)
            asked.turns, asked.tools, asked.images = inside.turns, inside.tools, inside.images
        rule, _ = first_match(gate.rules, asked)
        if rule is None:
            return pool
        caller = record.key_id or record.client
        to = target(rule, pool, caller, gate.chance)
        self.fallbacks = rule.fallbacks
        if rule.mirror and gate.chance(FINE) < rule.mirror_share * FINE:
            self.mirror = rule.mirror
        if to != pool:
            self.rerouted = True
            self.note = b"\r\nx-gemstead-model: " + to.encode("latin-1", "replace")
            record.reason = f"route {rule.name}"
        return to

    def falls_back(self, why: str) -> bool:
        """Whether another model takes the call, which has not had the first byte of an answer. The caller is told."""
        if not self.fallbacks or self.framing != UNSENT or self.client.left or self.done:
            return False
        gate, record, request = self.gate, self.record, self.request
        if request is None:
            return False
        to, self.fallbacks = self.fallbacks[0], self.fallbacks[1:]
        self.stop_engine()
        if self.endpoint is not None and self.call is not None:
            gate.picker.settle(self.endpoint, self.call, ok=None, now=monotonic())
            self.endpoint = None
        record.reason = f"{record.reason}; {record.pool}: {why}, so {to}".removeprefix("; ")[:REASON_MOST]
        self.note = b"\r\nx-gemstead-model: %s\r\nx-gemstead-fallback: %s" % (
            to.encode("latin-1", "replace"),
            record.pool.encode("latin-1", "replace"),
        )
        record.pool, self.rerouted = to, True
        self.first_at, self.status, self.whole, self.meter, self.evened = 0.0, 0, None, None, None
        self.tried_before = record.attempts
        self.call = self.describe(request, to)
        try:
            if self.call.prompt_tokens >= gate.too_long.get(to, inf):
                self.check_fits(request, self.call)
            if self in gate.running:
                self.overdue_at = self.total_at
                if gate.allowances is None or gate.allowances.move(self):
                    self.another(fresh=True)
            else:  # it was too long before limits had looked at it, or its media could not be fetched at once
                self.enter(self.call)
        except Refused as refusal:
            self.turned_away(refusal)
        return True

    def let_in(self) -> None:
        """Nothing forbids the call: from now on its time runs."""
        gate = self.gate
        gate.running.add(self)
        self.overdue_at = self.total_at = self.began_at + min(self.most_s, gate.total_s)
        self.last_at = self.began_at

    def allowed_in(self) -> None:
        """The store of limits has answered, and the call may run."""
        try:
            self.onward()
        except Refused as refusal:
            self.turned_away(refusal)

    def allowed_on(self) -> None:
        """What it waited for before it could be picked for is there."""
        try:
            self.another(fresh=True)
        except Refused as refusal:
            self.turned_away(refusal)

    def go_on(self) -> None:
        """It has waited, and now it is its turn."""
        self.last_at = monotonic()
        try:
            self.another()
        except Refused as refusal:
            self.turned_away(refusal)

    def turned_away(self, refusal: Refused) -> None:
        """No endpoint takes the call now: wait where that helps, else tell the client."""
        try:
            if not self.done and self.gate.waitroom.wakes(self, refusal):
                return
        except Refused as full:
            refusal = full
        self.fail(refusal)

    def check_fits(self, request: Request, call: Call) -> None:
        """Look again at a prompt that may be longer than any engine's context.

        Raises:
            Refused: CONTEXT_EXCEEDED, when that is beyond doubt.
        """
        longest = never_fits(
            Call(call.model, prompt_tokens=least_tokens(request)), self.gate.pools[call.model]
        )
        if longest:
            raise Refused(
                Reason.CONTEXT_EXCEEDED,
                f"This model takes at most {longest} tokens, and the prompt alone has about "
                f"{call.prompt_tokens}. Shorten it.",
                param="messages" if self.path == "/v1/chat/completions" else None,
                code="context_length_exceeded",
            )

    def describe(self, request: Request, pool: str) -> Call:
        """The facts that decisions need. A prompt is hashed into blocks only where there is a choice."""
        tokens = prompt_tokens(request.prompt)
        several = len(self.gate.pools.get(pool, ())) > 1
        assert self.caller is not None
        adapter = session = ""
        if self.gate.adapters and not self.rerouted:
            adapter = self.gate.adapters.get(request.model.casefold(), "")
        if several:
            session = self.headers.get(b"x-session-id", b"").decode("latin-1")
        return Call(
            model=pool,
            tenant=self.caller.tenant,
            priority=self.caller.priority,
            prompt_tokens=tokens,
            most_tokens=tokens_to_hold(tokens, request.most_output),
            prefix=chain(request.prompt, seed=hash(adapter) if adapter else 0) if several else (),
            adapter=adapter,
            session=session,
            streams=request.stream,
        )

    def another(self, fresh: bool = False) -> None:
        """Pick an endpoint that has not failed this call yet, and forward; a `fresh` call may have to wait first.

        Raises:
            Refused: NO_ENDPOINT, or the last failure when every endpoint has been tried.
        """
        gate, call = self.gate, self.call
        assert call is not None
        endpoint = self.picked(call)
        if (
            fresh
            and (endpoint.in_flight >= endpoint.easy or gate.waitroom.waiting)
            and gate.waitroom.holds(self, endpoint)
        ):
            return
        self.endpoint = endpoint
        gate.picker.charge(endpoint, call)
        self.record.attempts += 1
        self.record.endpoint, self.record.version = endpoint.facts.name, endpoint.facts.version
        if self.mirror:
            copy, self.mirror = self.mirror, ""
            gate.mirror(self, copy)
        line = gate.lines[endpoint.facts.name]
        if (up := line.take()) is not None:
            self.forward(up)
        else:
            self.connecting = gate.loop.create_task(self.connect(line))

    def picked(self, call: Call) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT; or the tenant's calls may not go where this model's engines are.
        """
        gate = self.gate
        endpoints: Sequence[Endpoint] = gate.pools.get(call.model, ())  # it may have gone, by a reload
        if gate.regions and (region := gate.regions.get(call.tenant)):
            endpoints = within(region, endpoints, call.model)
        elif not (call.adapter and gate.on_demand) and (divided := gate.splits.get(call.model)) is not None:
            return divided.pick(gate.picker, call, self.record.key_id or self.record.client, monotonic())
        if call.adapter and gate.on_demand:
            endpoints = gate.adapter_room.having(call, endpoints)
        return gate.picker.pick(call, endpoints, monotonic())

    async def connect(self, line: Line) -> None:
        """Open a connection, then forward; an engine that cannot be reached is replaced."""
        try:
            up = await line.connect(self.gate.settings.deadlines.connect_s)
        except (OSError, TimeoutError) as error:
            self.connecting = None
            if not self.done:
                self.failed(f"cannot connect: {error or 'no answer in time'}")
            return
        except Exception as error:  # a fault of ours must not leave a client waiting
            self.connecting = None
            self.gate.broken(self, error)
            return
        self.connecting = None
        if self.done:
            up.drop()
            return
        try:
            self.forward(up)
        except Exception as error:
            self.gate.broken(self, error)

    def forward(self, up: UpstreamConnection) -> None:
        """Write the request to the engine."""
        gate, endpoint = self.gate, self.endpoint
        assert endpoint is not None and self.request is not None
        self.up = up
        facts, line = endpoint.facts, up.line
        body = self.body
        known = facts.served_model
        if self.rerouted:
            known = known or endpoint.facts.pool
        elif gate.adapters:
            known = gate.adapters.get(self.request.model.casefold(), known)
        if known and known != self.request.model and self.request.model:
            body = with_model(body, known)
        self.need = None
        if (dialect := line.dialect) is not None:
            self.need = need = evening.needed(
                dialect, self.path, self.request, facts.thinking, facts.thinking_set
            )
            if need is not None:
                body = evening.request_for(body, need)
        head = b"".join(
            (
                line.post,
                self.url,
                line.rest,
                str(len(body)).encode(),
                b"\r\nx-request-id: ",
                self.record.call_id.encode(),
                b"\r\n",
                passed_on(self.headers) if self.head is None else self.head.passed,
                b"\r\n"
                if not facts.kv_events
                else b"x-session-id: %s\r\n\r\n" % self.record.call_id.encode(),
            )
        )
        now = monotonic()
        patience_s = min(gate.first_token_s, self.most_first_s)
        self.overdue_at = min(now + patience_s, self.total_at)
        self.last_at = now
        up.send(self, head, body)
        if self.client.blocked_at:
            up.transport.pause_reading()

    # -- what the engine does ---------------------------------------------------------------------------

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        """The engine has answered: relay its head, or see whether another endpoint does better."""
        if self.second is not None:
            self.second.give_way()
        self.body_bytes = 0  # of the answer from here on
        self.whole = self.meter = self.evened = None
        if status >= 400:
            # What a 500 says is read first: some engines say it of requests that no engine would take.
            if status in TRY_ANOTHER and status != 500 and self.may_try_another() and self.has_another():
                up.drop()
                self.failed(f"status {status}")
                return
            self.status = status
            self.whole = []
            self.answer = (status, headers.get(b"retry-after", b""), length)
            return
        content = headers.get(b"content-type", b"application/json")
        assert self.request is not None
        if self.request.stream and content.startswith(b"text/event-stream"):
            self.meter = Meter(self.dialect)
            if self.need is not None and self.need.stream:
                self.evened = evening.Stream(self.need)
        else:
            self.whole = []
            if self.need is not None and self.need.whole and status == 200:
                length = WHOLE  # it is put right in one piece, so it waits for its end
        # The head waits for the first piece of the body: until then another engine can take over.
        self.answer = (status, content, length)

    def wants_whole(self) -> bool:
        """Whether an answer that has come in one read can go out as it is: nothing was promised, no stream asked."""
        return self.framing == UNSENT and self.request is not None and not self.request.stream

    def upstream_whole(self, content: bytes, body: bytes) -> None:
        """A whole answer in one read: the usual end of a call that does not stream. Says head, body, end at once."""
        self.up = None
        self.meter = None
        if self.need is not None and self.need.whole:
            body = evening.whole(body, self.need)
        self.whole = [body]
        self.record.bytes_out += len(body)
        self.send_head(200, content, len(body))
        self.say(body)
        self.settle("served", ok=True)

    def open_answer(self) -> None:
        """The first piece is here: there is no way back to another engine."""
        status, content, length = self.answer
        if length == WHOLE:
            return
        if self.framing == UNSENT:
            # A stream may still need an error event or an end of its own, so its length is never promised.
            self.send_head(status, content, length if length >= 0 and self.meter is None else None)
        self.raw = length == -1 and self.framing == CHUNKED and self.evened is None

    def reframe(self) -> None:
        """A chunk is too large to be held back: from now on the client's chunks are ours."""
        self.raw = False
        if self.answer[2] != WHOLE:
            self.answer = (*self.answer[:2], REFRAMED)

    def upstream_body(self, data: bytes, payload: bytes) -> None:
        """Relay one read. `data` is what came, whole chunks with their framing; `payload` is without it."""
        now = monotonic()
        if self.first_at == 0.0 and self.status < 400:
            self.first_at = now
            assert self.endpoint is not None and self.call is not None
            self.gate.picker.first_token(self.endpoint, self.call, now)
            if self.gate.waitroom.waiting:
                self.gate.waitroom.next_ones(self.call.model)
            if self.gate.hedges:
                self.gate.learn_patience(self.call, now)
            self.open_answer()
        elif self.meter is not None:
            self.gate.figures.gap(now - self.last_at)
            if self.endpoint is not None:
                self.endpoint.heard_at = now
        self.last_at = now
        if (meter := self.meter) is not None:
            if self.evened is not None and not (payload := self.evened.feed(payload)):
                return
            meter.feed(payload)
        elif self.whole is not None and (self.body_bytes < WHOLE_MOST or self.status >= 400):
            self.whole.append(payload)
            self.body_bytes += len(payload)
            if self.status >= 400:  # held back: it may need another shape
                if self.body_bytes > ERROR_BODY_MOST and self.up is not None:
                    self.up.drop()
                    self.answer_engine_error()
                return
        self.overdue_at = min(now + self.gate.between_tokens_s, self.total_at)
        if self.answer[2] == WHOLE and not self.end_of_patience():
            return
        out = data if self.raw else self.framed(payload)
        self.record.bytes_out += len(payload)
        self.say(out)

    def end_of_patience(self) -> bool:
        """Whether an answer that waits for its end has become too large to wait: it goes out as it is, in pieces."""
        if self.body_bytes < WHOLE_MOST:
            return False
        self.answer = (*self.answer[:2], REFRAMED)
        self.open_answer()
        for piece in (self.whole or [])[:-1]:  # the last one is on its way
            self.say(self.framed(piece))
        return True

    def relay_rest(self, rest: bytes) -> None:
        """What was held back of a stream that has ended."""
        if self.meter is not None:
            self.meter.feed(rest)
        self.record.bytes_out += len(rest)
        self.say(self.framed(rest))

    def upstream_done(self, up: UpstreamConnection) -> None:
        """The engine's answer is complete."""
        self.up = None
        if self.status >= 400:
            self.answer_engine_error()
            return
        if self.first_at == 0.0:
            self.open_answer()
        if self.answer[2] == WHOLE:
            self.upstream_whole(self.answer[1], b"".join(self.whole or ()))
            return
        if self.evened is not None and (rest := self.evened.close()):
            self.relay_rest(rest)
        outcome, ok = "served", True
        if (meter := self.meter) is not None:
            gap = b"" if self.at_boundary() else b"\n\n"
            meter.close()
            if self.answer[2] == TO_END and not meter.done and not meter.finish_reason:
                if gap:
                    self.say(self.framed(gap))
                self.failed(
                    "the connection ended before the answer did"
                )  # no other sign of a cut in this framing
                return
            if meter.failed:
                outcome, ok = "cut", False
                self.record.reason = "the engine said in its stream that it failed"
            if not meter.done and self.dialect == "openai":  # transformers serve sends none
                self.say(self.framed(gap + errors.DONE))
        if self.framing == CHUNKED:
            self.say(LAST_CHUNK)
        self.settle(outcome, ok=ok)

    def upstream_lost(self, up: UpstreamConnection, why: str, *, stale: bool = False) -> None:
        """The connection broke before the answer was complete.

        `stale`: it was a kept one, and no byte of an answer came.
        """
        self.up = None
        if not self.done:
            stale = stale and monotonic() - self.last_at < STALE_WITHIN_S
            if stale:
                up.line.purge()
            self.failed(why, stale=stale)

    def failed(self, why: str, *, stale: bool = False) -> None:
        """This endpoint failed this call: try another, or tell the client."""
        endpoint, call = self.endpoint, self.call
        assert endpoint is not None and call is not None
        self.up = None
        self.overdue_at = self.total_at
        again = self.may_try_another() and (stale or self.gate.may_retry(call.model))
        # A kept connection that the engine closed under us says nothing about the engine's health.
        self.gate.picker.settle(endpoint, call, ok=None if stale else False, now=monotonic())
        self.endpoint = None
        self.record.reason = f"{self.record.reason}; {endpoint.name}: {why}".removeprefix("; ")[:REASON_MOST]
        refusal = Refused(
            Reason.UPSTREAM_FAILED, f"The model's engine failed. Please try again. {self.named()}"
        )
        if self.second is not None:  # the other copy may still answer
            call.tried += (endpoint.name,)
            return
        if not again:
            self.fail(refusal)
            return
        if not stale or self.record.attempts > 1:
            call.tried += (endpoint.name,)
        self.gate.figures.retries.add(1)
        try:
            self.another()
        except Refused:
            self.fail(refusal)

    def carried_on(
        self, call: Call, endpoint: Endpoint, up: UpstreamConnection, need: evening.Needed | None
    ) -> None:
        """The second copy has been answered first: it is this call from now on."""
        self.second = None
        self.stop_engine()
        if self.endpoint is not None and self.call is not None:
            self.gate.picker.settle(self.endpoint, self.call, ok=None, now=monotonic())
        self.call, self.endpoint, self.up, self.need = call, endpoint, up, need
        up.exchange = self
        self.record.endpoint, self.record.version = endpoint.facts.name, endpoint.facts.version
        if self.client.blocked_at:
            up.transport.pause_reading()

    def second_lost(self) -> None:
        """The second copy has ended without an answer."""
        self.second = None
        if self.done or self.endpoint is not None:
            return
        why = f"The model's engine failed. Please try again. {self.named()}"
        try:
            self.another()
        except Refused:
            self.fail(Refused(Reason.UPSTREAM_FAILED, why))

    def named(self) -> str:
        """A sentence that lets a caller and an operator speak of the same call."""
        return f"(request {self.record.call_id})"

    def may_try_another(self) -> bool:
        """Nothing of an answer has reached the client, and tries are left."""
        return self.first_at == 0.0 and self.record.attempts - self.tried_before <= self.gate.settings.retries

    def has_another(self) -> bool:
        """Whether an endpoint is left that has not been asked. An engine's own words are better than none."""
        call = self.call
        assert call is not None
        return any(
            endpoint.takes_calls and endpoint is not self.endpoint and endpoint.name not in call.tried
            for endpoint in self.gate.pools.get(call.model, ())
        )

    # -- what the client does ---------------------------------------------------------------------------

    def client_left(self) -> None:
        """The client's connection is gone: the engine is told at once, and what it got is paid for."""
        self.stop_engine()
        if not self.done:
            self.settle(Reason.CLIENT_LEFT.value, ok=None)

    def unanswered(self, refusal: Refused) -> None:
        """The connection ends before it was this request's turn."""
        if not self.done:
            self.settle(refusal.reason.value, ok=None)

    def stop_engine(self) -> None:
        """Nobody waits for the engine's answer any more: it sees that at once, and stops generating."""
        if self.up is not None:
            self.up.drop()
            self.up = None
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.second is not None:
            self.second.give_way()

    def client_blocked(self) -> None:
        if self.up is not None:
            self.up.transport.pause_reading()

    def client_took(self) -> None:
        if self.up is not None and not self.up.lost:
            self.up.transport.resume_reading()

    def probe(self) -> bool:
        """Write something harmless, so that a peer that closed answers with RST. False: nothing can be written."""
        if self.done:
            return True
        if not self.http11:
            return False
        if self.framing == UNSENT:
            self.client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self.meter is not None and self.at_boundary():
            self.say(self.framed(COMMENT))
        return True

    # -- what only a passage does -------------------------------------------------------------------------

    def turn(self) -> None:
        """It is this request's turn to be answered, and its body may still be coming."""

    def pass_on(self, data: bytes) -> None:
        """A piece of the body."""

    def upstream_blocked(self) -> None:
        """The other side takes nothing. A request to an engine waits in memory: the client has sent it whole."""

    def upstream_took(self) -> None:
        """It takes again."""

    # -- time -------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> None:
        """Called by the sweep: keep a silent stream alive, or give up on an engine or a client."""
        deadlines = self.gate.settings.deadlines
        if self.client.blocked_at:
            if now - self.client.blocked_at > deadlines.client_write_s:
                self.stop_engine()
                self.keep_alive = False
                self.settle(Reason.SLOW_CLIENT.value, ok=None)
                self.client.transport.abort()
            return  # while the client takes nothing, the engine's silence is ours
        if now >= self.overdue_at:
            self.stop_engine()
            if now >= self.total_at:
                why = f"The call took longer than {deadlines.total_s:g} s (gateway.deadlines.total_s)."
                self.fail(Refused(Reason.DEADLINE, why))
            elif self.first_at == 0.0 and self.endpoint is not None:
                self.failed(f"no answer within {deadlines.first_token_s:g} s")
            else:
                why = f"The model's engine stopped for {deadlines.between_tokens_s:g} s in mid-answer."
                self.fail(Refused(Reason.DEADLINE, why), ok=False)
        elif self.place is not None and not self.place.gone:
            pass  # a comment would promise an answer; its turn, or a refusal, comes within `queue.wait_s`
        elif now - self.last_at >= deadlines.keep_alive_comment_s and self.request is not None:
            self.last_at = now
            if self.request.stream and self.status < 400 and self.http11 and self.at_boundary():
                if self.framing == UNSENT:
                    self.send_head(200, b"text/event-stream", None)
                if self.whole is None:
                    self.say(self.framed(COMMENT))

    def at_boundary(self) -> bool:
        """Whether a comment can be put here without cutting an event."""
        return self.meter is None or self.meter.between_events

    # -- words to the client ----------------------------------------------------------------------------

    def answer_engine_error(self) -> None:
        """An engine's refusal goes to the client in the client's dialect."""
        raw = b"".join(self.whole or ())
        told = self.status
        if told == 500:
            if errors.blames_request(raw):
                self.status = 400
            elif self.may_try_another() and self.has_another():
                self.status = 0
                self.failed("status 500")
                return
        if (
            self.fallbacks
            and self.status in TRY_ANOTHER
            and self.call is not None
            and self.endpoint is not None
        ):
            self.gate.picker.settle(self.endpoint, self.call, ok=False, now=monotonic())
            if self.falls_back(f"status {self.status}"):
                return
        status, call_id = self.status, self.record.call_id
        self.record.reason = f"{self.record.reason}; {self.record.endpoint}: status {told}".removeprefix("; ")
        if status in OUR_KEY_REFUSED:
            self.status = 0
            message = f"The model's engine does not let this gateway in; tell the operator. {self.named()}"
            self.fail(Refused(Reason.UPSTREAM_FAILED, message), ok=False)
            return
        if self.framing == UNSENT:
            extra = b""
            if (wait := self.answer[1]).isdigit():
                extra = b"\r\nretry-after: " + wait
            elif status in (429, 503):  # vLLM sends none
                extra = b"\r\nretry-after: 1"
            self.send_whole(
                status, errors.from_engine(status, raw, self.dialect, call_id) or raw, extra=extra
            )
        else:  # a keep-alive comment has already promised a stream
            event = errors.event_from_engine(status, raw, self.dialect, call_id)
            self.say(self.framed(event) + LAST_CHUNK)
        failed = status >= 500
        self.settle((Reason.UPSTREAM_FAILED if failed else Reason.UPSTREAM_REFUSED).value, ok=not failed)

    def fail(self, refusal: Refused, *, ok: bool | None = None) -> None:
        """Tell the client no: as a whole answer, or as an error event when an answer has begun.

        `ok` is False where it was the engine's fault, see `settle`.
        """
        if self.done:
            return
        reason = refusal.reason
        if self.fallbacks and reason in FALLS_BACK and self.falls_back(reason.value):
            return
        self.stop_engine()
        outcome = reason.value
        if not self.record.reason:
            self.record.reason = refusal.detail or refusal.param or ""
        if self.framing == UNSENT:
            if not self.client.left:
                self.gate.refuse(self, refusal)
        elif not self.client.left:
            if self.streaming:
                gap = b"" if self.at_boundary() else b"\n\n"
                event = gap + errors.event(refusal, self.dialect, self.record.call_id)
                last = LAST_CHUNK if self.framing == CHUNKED else b""
                self.say(self.framed(event) + last)
            else:  # a whole answer that broke off: closing early is all that HTTP leaves us
                self.keep_alive = False
            if reason is Reason.UPSTREAM_FAILED:
                outcome = "cut"
        self.settle(outcome, ok=ok)

    # -- the end ----------------------------------------------------------------------------------------

    def settle(self, outcome: str, *, ok: bool | None) -> None:
        """Exactly once for every request: give back what was taken, hand over the record.

        `ok` is what was learned of the endpoint: it worked, it failed, or (None) nothing.
        """
        if self.done:
            return
        self.done = True
        if self.second is not None:
            self.second.give_way()
        gate, record, now = self.gate, self.record, monotonic()
        record.outcome = outcome
        record.seconds = now - self.began_at
        if self.first_at and self.meter is not None:
            record.first_token_s = self.first_at - self.began_at
        if self.unsent and not self.client.left:
            self.say(b"")
        self.count_tokens()
        if self.call is not None and self.endpoint is not None:
            tokens = record.output_tokens if record.tokens_from else -1
            gate.picker.settle(self.endpoint, self.call, ok, now, tokens, found_tokens(self.call, record))
            if self.endpoint.exact is not None:
                self.endpoint.exact.ended(
                    record.call_id, self.call, record.prompt_tokens, record.output_tokens
                )
        if self.place is not None:
            gate.waitroom.leave(self, record.prompt_tokens + record.output_tokens)
        if gate.waitroom.waiting and self.call is not None:
            gate.waitroom.next_ones(self.call.model)
        if self.hold is not None:
            self.hold.settle(record.prompt_tokens + record.output_tokens, now)
        elif self.allowed is not None:
            self.allowed.settle(record.prompt_tokens, record.cached_tokens, record.output_tokens)
        gate.running.discard(self)
        if self.record.route or outcome != "served":
            gate.remember(record)
        self.client.finished(self)

    def count_tokens(self) -> None:
        """What the answer cost, from the engine's own usage where it gave one."""
        record, meter = self.record, self.meter
        if meter is not None:
            record.prompt_tokens, record.cached_tokens = meter.prompt_tokens, meter.cached_tokens
            record.output_tokens, record.tokens_from = meter.output_tokens, meter.source
            if meter.source != "engine" and self.call is not None:
                record.prompt_tokens = self.call.prompt_tokens
        elif self.whole and self.status == 200:
            usage = usage_of(self.whole[0] if len(self.whole) == 1 else b"".join(self.whole), self.dialect)
            if usage is not None:
                record.prompt_tokens, record.cached_tokens, record.output_tokens = usage
                record.tokens_from = "engine"


def within(region: str, endpoints: Sequence[Endpoint], model: str) -> list[Endpoint]:
    """Those of the endpoints that are in the region.

    Raises:
        Refused: none is. A call never leaves its tenant's region, whatever else could answer it.
    """
    inside = [endpoint for endpoint in endpoints if endpoint.facts.region == region]
    if endpoints and not inside:
        raise Refused(
            Reason.REGION,
            f"Your calls stay in the region {region}, and no engine of {model} is there. Use another model.",
            param="model",
            code="region_unavailable",
        )
    return inside


def least_tokens(request: Request) -> int:
    """The fewest tokens that a long prompt can have: repetitions may be one, and images have few for their bytes."""
    if request.images or b'"input_audio"' in request.prompt:
        return 0
    return prompt_tokens(REPEATED.sub(b" ", request.prompt))
