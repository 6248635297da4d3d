"""The story of one request, from its head to its record. Read `begin` first: each line is a stage.

An `Exchange` is driven by calls from two sockets: the client's (`opened`, `begin`, `client_*`) and the engine's
(`upstream_*`), and by the sweep (`overdue`). It never waits, so there is no task per request; the only awaited
thing is a new connection to an engine.

    opened   the head is here: identify
    begin    the body is here: parse, admit, route, pick, forward
    upstream_head, upstream_body, upstream_done     relay
    settle   exactly once, however it ended: charges go back, the record is handed over

Until the first byte has gone to the client, a failing engine is replaced by another (`another`). After it, the
client gets a well-formed error event (`fail`). The bytes of an accepted request reach the engine unchanged,
except that a model's alias becomes the name that the engine knows.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from gemstead.ledger.audit import AuditRecord, hash_prompt
from gemstead.openai import errors
from gemstead.openai.meter import Meter, usage_of
from gemstead.openai.requests import ROUTES, Request, parse
from gemstead.openai.rewrite import with_model
from gemstead.refused import Reason, Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.estimate import prompt_tokens, tokens_to_hold
from gemstead.traffic.prefix import chain

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.protocol import ClientConnection
    from gemstead.gateway.upstream import UpstreamConnection
    from gemstead.traffic.caller import Caller

TRY_ANOTHER = frozenset({500, 502, 503, 504})
WHOLE_MOST = 4 << 20  # of a whole answer, kept to read its usage
PASSED_ON = (
    b"traceparent",
    b"tracestate",
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
    b"accept",
)
ERROR_BODY_MOST = 65_536
LEDGER_AWAY = (
    "Calls cannot be recorded at the moment, and this service serves none unrecorded. Try again soon."
)
COMMENT = b": keep-alive\n\n"
LAST_CHUNK = b"0\r\n\r\n"

UNSENT, LENGTH, CHUNKED, CLOSE = range(4)  # how the client will see the end of the answer


class Exchange:
    __slots__ = (
        "answer",
        "began_at",
        "body",
        "body_bytes",
        "call",
        "caller",
        "client",
        "connecting",
        "dialect",
        "done",
        "endpoint",
        "first_at",
        "framing",
        "gate",
        "headers",
        "hold",
        "http11",
        "keep_alive",
        "last_at",
        "last_payload",
        "meter",
        "method",
        "overdue_at",
        "parts",
        "path",
        "raw",
        "record",
        "refusal",
        "request",
        "status",
        "total_at",
        "up",
        "url",
        "whole",
    )

    def __init__(
        self,
        gate: Gateway,
        client: ClientConnection,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        http11: bool,
    ) -> None:
        self.gate = gate
        self.client = client
        self.method = method
        self.url = url
        self.headers = headers
        self.http11 = http11
        self.keep_alive = False
        self.parts: list[bytes] = []
        self.body = b""
        self.body_bytes = 0
        self.refusal: Refused | None = None
        self.caller: Caller | None = None
        self.request: Request | None = None
        self.call: Call | None = None
        self.hold: Any = None
        self.endpoint: Endpoint | None = None
        self.up: UpstreamConnection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.meter: Meter | None = None
        self.whole: list[bytes] | None = None
        self.answer = (0, b"", 0)  # the engine's status, content type and framing (upstream.framing)
        self.framing = UNSENT
        self.raw = False  # the engine's chunk framing goes to the client as it is
        self.done = False
        self.status = 0
        self.began_at = monotonic()
        self.first_at = self.last_at = 0.0
        self.last_payload = b""
        self.overdue_at = self.total_at = inf
        path = url.partition(b"?")[0].decode("latin-1")
        self.path = path
        self.dialect = ROUTES.get(path, "openai")
        self.record = AuditRecord(
            call_id=gate.new_id(),
            began=time(),
            route=path if path in gate.known else "",
            client=client.client,
        )

    # -- the stages -------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The head is here and the body is not: identity comes before anything is read or parsed."""
        if not self.path.startswith("/v1/") and self.path not in ROUTES:
            return
        if self.method == b"OPTIONS":
            return
        try:
            headers = self.headers
            self.caller = caller = self.gate.keyring.identify(
                headers.get(b"authorization"), headers.get(b"x-api-key"), self.record.began
            )
            record = self.record
            record.tenant, record.app, record.user = caller.tenant, caller.app, caller.user
            record.key_id = caller.key_id
            if self.gate.settings.ledger_on_error == "refuse" and not self.gate.ledger_healthy():
                raise Refused(Reason.LEDGER_UNAVAILABLE, LEDGER_AWAY, retry_after_s=2.0)
            length = headers.get(b"content-length")
            if length is not None and int(length) > self.gate.settings.bounds.body_bytes:
                limit = self.gate.settings.bounds.body_bytes
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
            record.prompt_hash = hash_prompt(request.prompt, gate.hash_key)
            record.pool = pool = gate.routes.pool(request.model or gate.only_model(), self.caller)
            self.call = call = self.describe(request, pool)
            self.hold = gate.limits.hold(self.caller, call.most_tokens, self.began_at)
            self.body = body
            gate.running.add(self)
            gate.figures.in_flight.add(1)
            self.total_at = self.began_at + gate.settings.deadlines.total_s
            self.another()
        except Refused as refusal:
            self.fail(refusal)

    def describe(self, request: Request, pool: str) -> Call:
        """The facts that decisions need. A prompt is hashed into blocks only where there is a choice."""
        tokens = prompt_tokens(request.prompt)
        several = len(self.gate.pools[pool]) > 1
        assert self.caller is not None
        return Call(
            model=pool,
            tenant=self.caller.tenant,
            priority=self.caller.priority,
            prompt_tokens=tokens,
            most_tokens=tokens_to_hold(tokens, request.most_output),
            prefix=chain(request.prompt) if several else (),
        )

    def another(self) -> None:
        """Pick an endpoint that has not failed this call yet, and forward.

        Raises:
            Refused: NO_ENDPOINT, or the last failure when every endpoint has been tried.
        """
        gate, call = self.gate, self.call
        assert call is not None
        self.endpoint = endpoint = gate.picker.pick(call, gate.pools[call.model], monotonic())
        gate.picker.charge(endpoint, call)
        self.record.attempts += 1
        self.record.endpoint, self.record.version = endpoint.facts.name, endpoint.facts.version
        line = gate.lines[endpoint.facts.name]
        if (up := line.take()) is not None:
            self.forward(up)
        else:
            self.connecting = gate.loop.create_task(self.connect(endpoint))

    async def connect(self, endpoint: Endpoint) -> None:
        """Open a connection, then forward; an engine that cannot be reached is replaced."""
        line = self.gate.lines[endpoint.facts.name]
        try:
            up = await line.connect(self.gate.settings.deadlines.connect_s)
        except (OSError, TimeoutError) as error:
            self.connecting = None
            if not self.done:
                self.failed(f"cannot connect: {error or 'no answer in time'}")
            return
        self.connecting = None
        if self.done:
            up.drop()
        else:
            self.forward(up)

    def forward(self, up: UpstreamConnection) -> None:
        """Write the request to the engine."""
        gate, endpoint = self.gate, self.endpoint
        assert endpoint is not None and self.request is not None
        self.up = up
        facts = endpoint.facts
        body = self.body
        if facts.served_model and facts.served_model != self.request.model and self.request.model:
            body = with_model(body, facts.served_model)
        head = b"POST %s%s HTTP/1.1\r\n%scontent-length: %d\r\nx-request-id: %s\r\n%s\r\n" % (
            facts.base_path.encode(),
            self.url,
            up.line.prefix,
            len(body),
            self.record.call_id.encode(),
            passed_on(self.headers),
        )
        now = monotonic()
        self.overdue_at = min(now + gate.settings.deadlines.first_token_s, self.total_at)
        self.last_at = now
        up.send(self, head, body)
        if self.client.blocked_at:
            up.transport.pause_reading()

    # -- what the engine does ---------------------------------------------------------------------------

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        """The engine has answered: relay its head, or see whether another endpoint does better."""
        if status >= 400:
            if status in TRY_ANOTHER and self.may_try_another():
                up.drop()
                self.failed(f"status {status}")
                return
            self.status = status
            self.whole = []
            return
        content = headers.get(b"content-type", b"application/json")
        assert self.request is not None
        if self.request.stream and content.startswith(b"text/event-stream"):
            self.meter = Meter(self.dialect)
        else:
            self.whole = []
        # The head waits for the first piece of the body: until then another engine can take over.
        self.answer = (status, content, length)

    def open_answer(self) -> None:
        """The first piece is here: there is no way back to another engine."""
        status, content, length = self.answer
        if self.framing == UNSENT:
            self.send_head(status, content, length if length >= 0 else None)
        self.raw = length == -1 and self.framing == CHUNKED

    def upstream_body(self, data: bytes, payload: bytes) -> None:
        """Relay one read. `data` is what came, whole chunks with their framing; `payload` is without it."""
        now = monotonic()
        if self.first_at == 0.0:
            self.first_at = now
            assert self.endpoint is not None and self.call is not None
            self.gate.picker.first_token(self.endpoint, self.call)
            if self.status < 400:
                self.open_answer()
        elif self.meter is not None:
            self.gate.figures.gap(now - self.last_at)
        self.last_at = now
        if (meter := self.meter) is not None:
            meter.feed(payload)
            self.last_payload = payload
        elif self.whole is not None and self.body_bytes < WHOLE_MOST:
            self.whole.append(payload)
            self.body_bytes += len(payload)
            if self.status >= 400:  # held back: it may need another shape
                if self.body_bytes > ERROR_BODY_MOST and self.up is not None:
                    self.up.drop()
                    self.answer_engine_error()
                return
        self.overdue_at = min(now + self.gate.settings.deadlines.between_tokens_s, self.total_at)
        out = data if self.raw else self.framed(payload)
        self.record.bytes_out += len(payload)
        self.client.transport.write(out)

    def upstream_done(self, up: UpstreamConnection) -> None:
        """The engine's answer is complete."""
        self.up = None
        if self.status >= 400:
            self.answer_engine_error()
            return
        if self.first_at == 0.0:
            self.open_answer()
        if self.meter is not None and not self.meter.done and self.dialect == "openai":
            self.client.transport.write(self.framed(errors.DONE))  # transformers serve sends none
        if self.framing == CHUNKED:
            self.client.transport.write(LAST_CHUNK)
        self.settle("served", ok=True)

    def upstream_lost(self, up: UpstreamConnection, why: str) -> None:
        """The connection broke before the answer was complete."""
        self.up = None
        if not self.done:
            self.failed(why, stale=up.idle_since > 0.0 and self.first_at == 0.0)

    def failed(self, why: str, *, stale: bool = False) -> None:
        """This endpoint failed this call: try another, or tell the client."""
        endpoint, call = self.endpoint, self.call
        assert endpoint is not None and call is not None
        self.up = None
        self.overdue_at = self.total_at
        again = self.may_try_another()
        # A kept connection that the engine closed under us says nothing about the engine's health.
        self.gate.picker.settle(endpoint, call, ok=None if stale else False, now=monotonic())
        self.endpoint = None
        refusal = Refused(
            Reason.UPSTREAM_FAILED, f"The model's engine failed ({endpoint.name}: {why}). Please try again."
        )
        if not again:
            self.fail(refusal)
            return
        if stale and self.record.attempts == 1:
            self.gate.lines[endpoint.name].purge()
        else:
            call.tried += (endpoint.name,)
        self.gate.figures.retries.add(1)
        try:
            self.another()
        except Refused:
            self.fail(refusal)

    def may_try_another(self) -> bool:
        """Nothing of an answer has reached the client, and tries are left."""
        return self.first_at == 0.0 and self.record.attempts <= self.gate.settings.retries

    # -- what the client does ---------------------------------------------------------------------------

    def client_left(self) -> None:
        """The client's connection is gone: the engine is told at once, and what it got is paid for."""
        if self.up is not None:
            self.up.drop()
            self.up = None
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if not self.done:
            self.settle(Reason.CLIENT_LEFT.value, ok=None)

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
            self.client.transport.write(self.framed(COMMENT))
        return True

    # -- time -------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> None:
        """Called by the sweep: keep a silent stream alive, or give up on an engine or a client."""
        deadlines = self.gate.settings.deadlines
        if self.client.blocked_at:
            if now - self.client.blocked_at > deadlines.client_write_s:
                self.settle(Reason.SLOW_CLIENT.value, ok=None)
                self.client.transport.abort()
            return  # while the client takes nothing, the engine's silence is ours
        if now >= self.overdue_at:
            if self.up is not None:
                self.up.drop()
            if now >= self.total_at:
                why = f"The call took longer than {deadlines.total_s:g} s (gateway.deadlines.total_s)."
                self.fail(Refused(Reason.DEADLINE, why))
            elif self.first_at == 0.0:
                self.failed(f"no answer within {deadlines.first_token_s:g} s")
            else:
                why = f"The model's engine stopped for {deadlines.between_tokens_s:g} s in mid-answer."
                self.fail(Refused(Reason.DEADLINE, why))
        elif now - self.last_at >= deadlines.keep_alive_comment_s and self.request is not None:
            self.last_at = now
            if self.request.stream and self.status < 400 and self.http11 and self.at_boundary():
                if self.framing == UNSENT:
                    self.send_head(200, b"text/event-stream", None)
                if self.whole is None:
                    self.client.transport.write(self.framed(COMMENT))

    def at_boundary(self) -> bool:
        """Whether a comment can be put here without cutting an event."""
        last = self.last_payload
        return not last or last.endswith((b"\n\n", b"\r\n\r\n"))

    # -- words to the client ----------------------------------------------------------------------------

    def send_head(self, status: int, content: bytes, length: int | None, extra: bytes = b"") -> None:
        """Write the answer's head. `extra` is further header lines, each begun with a line end."""
        gate = self.gate
        self.status = self.record.status = status
        self.framing = LENGTH if length is not None else CHUNKED if self.http11 else CLOSE
        head = [
            errors.STATUS_LINES[status],
            b"content-type: ",
            content,
            gate.date,
            self.record.call_id.encode(),
            extra,
        ]
        if length is not None:
            head.append(b"\r\ncontent-length: %d" % length)
        elif self.framing == CHUNKED:
            head.append(b"\r\ntransfer-encoding: chunked")
        else:
            self.keep_alive = False
        if self.meter is not None or content == b"text/event-stream":
            head.append(b"\r\ncache-control: no-cache\r\nx-accel-buffering: no")
        if self.hold is not None:
            for name, value in gate.limits.headers(self.hold, self.began_at):
                head.append(b"\r\n%s: %s" % (name, value))
        if gate.cors and b"origin" in self.headers:
            head.append(gate.cors_headers(self.headers[b"origin"]))
        if gate.draining:
            self.keep_alive = False
        if not self.keep_alive:
            head.append(b"\r\nconnection: close")
        elif not self.http11:
            head.append(b"\r\nconnection: keep-alive")
        head.append(b"\r\n\r\n")
        self.client.transport.write(b"".join(head))

    def framed(self, payload: bytes) -> bytes:
        """A chunk of ours, where the client reads chunks."""
        if self.framing == CHUNKED:
            return b"%x\r\n%s\r\n" % (len(payload), payload)
        return payload

    def send_empty(self, status: int, extra: bytes) -> None:
        """An answer that has no body."""
        self.framing, self.record.status = LENGTH, status
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n"
        gate = self.gate
        parts = (errors.STATUS_LINES[status][:-2], gate.date, self.record.call_id.encode(), extra, end)
        self.client.transport.write(b"".join(parts))

    def answer_engine_error(self) -> None:
        """An engine's refusal goes to the client in the client's dialect."""
        raw = b"".join(self.whole or ())
        status, call_id = self.status, self.record.call_id
        if self.framing == UNSENT:
            self.send_whole(status, errors.from_engine(status, raw, self.dialect, call_id) or raw)
        else:  # a keep-alive comment has already promised a stream
            event = errors.event_from_engine(status, raw, self.dialect, call_id)
            self.client.transport.write(self.framed(event) + LAST_CHUNK)
        failed = status >= 500
        self.settle((Reason.UPSTREAM_FAILED if failed else Reason.UPSTREAM_REFUSED).value, ok=not failed)

    def send_whole(
        self, status: int, body: bytes, content: bytes = b"application/json", extra: bytes = b""
    ) -> None:
        self.send_head(status, content, len(body), extra)
        self.record.bytes_out += len(body)
        if self.method != b"HEAD":
            self.client.transport.write(body)

    def fail(self, refusal: Refused) -> None:
        """Tell the client no: as a whole answer, or as an error event when an answer has begun."""
        if self.done:
            return
        self.up = None
        outcome = refusal.reason.value
        if self.framing == UNSENT:
            if not self.client.left:
                self.gate.refuse(self, refusal)
        elif not self.client.left:
            if self.whole is None:  # a stream: say it in the stream
                gap = b"" if self.at_boundary() else b"\n\n"
                event = gap + errors.event(refusal, self.dialect, self.record.call_id)
                last = LAST_CHUNK if self.framing == CHUNKED else b""
                self.client.transport.write(self.framed(event) + last)
            else:  # a whole answer that broke off: closing early is all that HTTP leaves us
                self.keep_alive = False
            if refusal.reason is Reason.UPSTREAM_FAILED:
                outcome = "cut"
        self.settle(outcome, ok=False)

    # -- the end ----------------------------------------------------------------------------------------

    def settle(self, outcome: str, *, ok: bool | None) -> None:
        """Exactly once for every request: give back what was taken, hand over the record.

        `ok` is what was learned of the endpoint: it worked, it failed, or (None) nothing.
        """
        if self.done:
            return
        self.done = True
        gate, record, now = self.gate, self.record, monotonic()
        record.outcome = outcome
        record.seconds = now - self.began_at
        if self.first_at and self.meter is not None:
            record.first_token_s = self.first_at - self.began_at
        self.count_tokens()
        if self.call is not None and self.endpoint is not None:
            gate.picker.settle(self.endpoint, self.call, ok=ok, now=now)
        if self.hold is not None:
            self.hold.settle(record.prompt_tokens + record.output_tokens, now)
        if self in gate.running:
            gate.running.discard(self)
            if not gate.running:
                gate.emptied.set()
            gate.figures.in_flight.add(-1)
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


def passed_on(headers: dict[bytes, bytes]) -> bytes:
    """The few request headers that an engine may see, as lines."""
    return b"".join(b"%s: %s\r\n" % (name, headers[name]) for name in PASSED_ON if name in headers)
