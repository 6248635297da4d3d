"""One HTTP request as Envoy tells it to us, from its head to the end of its answer: messages in, messages out.

    request head, body     kept until the body has ended; then the call is parsed and enters the desk
    (its turn)             at once, or when the queue says so: an endpoint is picked and booked; the answer to the
                           head names it, and the body goes back as it came (or with the model's new name)
    answer's head          who has really answered, and whether it failed
    answer's body          its first piece is the first token; what passes is counted and goes on unchanged
    the end                of the answer, or of the stream, whichever is first: charges go back, once

`take` and `turn` answer with the bytes to be sent, and never wait. While a call waits (`waiting`), nothing more is
taken; when its turn comes, `woken` is called.

**How bodies come.** The protocol asks for full duplex: the head's answer is held back until the body has been read,
and every piece is sent back. Gateways that buffer are served too: the head is answered at once with nothing, and the
body with the choice. Where no body is sent to us (none, or streamed without being held), the pick is made from the
head alone, without knowing the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic, time
from typing import Any

from gemstead.gateway.epp import names, wire
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.reply import found_tokens
from gemstead.ledger.audit import AuditRecord
from gemstead.openai import errors, media
from gemstead.openai.meter import Meter, usage_of
from gemstead.openai.requests import ROUTES, Request, parse
from gemstead.openai.rewrite import with_model
from gemstead.refused import Reason, Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.estimate import prompt_tokens, tokens_to_hold
from gemstead.traffic.prefix import chain
from gemstead.traffic.queue import Waiting

WHOLE_MOST = 4 << 20  # of an answer that does not stream, kept to read its usage
HELD = (
    wire.FULL_DUPLEX,
    wire.BUFFERED,
    wire.BUFFERED_PARTIAL,
)  # bodies that are seen before the request goes on
BROKEN = 500  # an engine's (or Envoy's own) status from which on the endpoint has failed
BY_PATH = sorted(ROUTES, key=len, reverse=True)


class Conversation:
    """Use it from one event loop. `over` is set when what was answered last ends it: the stream can be closed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.over = False
        self.picked = False
        self.waiting: Waiting | None = None
        self.woken: Callable[[], None] = _nobody_waits
        self.call: Call | None = None
        self.record = AuditRecord(call_id="", began=time())
        self._began_at = monotonic()
        self._request_mode = self._response_mode = wire.FULL_DUPLEX
        self._headers: dict[str, str] = {}
        self._subset: list[str] | None = None
        self._parts: list[bytes] = []
        self._body: bytes | None = None  # while it is in our hands
        self._body_came = False  # perhaps empty
        self._changed = False  # the body is not the one that came
        self._trailers = False  # the request ended with trailers
        self._dialect = "openai"
        self._new_model = ""
        self._opened = False  # the request's head was here
        self._held = False  # and has not been answered
        self._addresses: list[str] = []
        self._first: Endpoint | None = None
        self._session = ""  # what the engine is told to call it, where it says what it stores
        self._refusal: Refused | None = None
        self._queued: Waiting | None = None  # it has waited
        self._status = 0
        self._meter: Meter | None = None
        self._whole: list[bytes] | None = None
        self._begun = False  # the first piece of the answer was here
        self._settled = False

    def take(self, raw: bytes) -> list[bytes]:
        """What to say to the next message.

        Raises:
            BadMessage: it is none of the protocol's.
        """
        message = wire.read(raw)
        which = message.WhichOneof("request")
        if which is None:
            raise wire.BadMessage("a message without a request or response part")
        if message.observability_mode:  # nobody listens
            return []
        return _SAY[which](self, message)

    def turn(self) -> list[bytes]:
        """What to say after waiting: where the call goes, or why not."""
        self.waiting = None
        if (refusal := self._refusal) is not None:
            return self._refuse(refusal)
        return self._go()

    def left(self) -> None:
        """The stream has ended: without an answer's end, whoever called has left."""
        if self.waiting is not None:
            self.desk.leave(self.waiting)
            self.waiting = None
        if not self._settled:
            self._settle("served" if self._status and self._answered() else Reason.CLIENT_LEFT.value, None)

    # -- the request ------------------------------------------------------------------------------------------

    def _request_headers(self, message: Any) -> list[bytes]:
        if self._opened:
            raise wire.BadMessage("a second request head")
        self._opened = True
        self._request_mode, self._response_mode = wire.modes(message)
        self._headers = wire.head(message.request_headers)
        self._subset = wire.subset(message)
        self.record.call_id = self._headers.get("x-request-id", "")
        self.record.tenant = names.first(self._headers, names.FAIRNESS) or names.NO_TENANT
        self.record.pool = self.desk.settings.pool
        self._held = True
        if message.request_headers.end_of_stream or self._request_mode not in HELD:
            return self._decide()
        if self._request_mode != wire.FULL_DUPLEX:
            self._held = False
            return [wire.GO_ON["request_headers"]]
        return []

    def _request_body(self, message: Any) -> list[bytes]:
        if self.picked or not self._opened or self._request_mode not in HELD:
            return [wire.GO_ON["request_body"]]
        body = message.request_body
        self._body_came = True
        self._parts.append(body.body)
        self.record.bytes_in += len(body.body)
        if self.record.bytes_in > (most := self.desk.settings.body_bytes):
            return self._refuse(
                Refused(Reason.BODY_TOO_LARGE, f"The request's body is larger than {most} bytes.")
            )
        if body.end_of_stream or body.end_of_stream_without_message or self._request_mode != wire.FULL_DUPLEX:
            return self._decide()
        return []

    def _request_trailers(self, message: Any) -> list[bytes]:
        if self.picked or not self._opened or self._request_mode != wire.FULL_DUPLEX:
            return [wire.GO_ON["request_trailers"]]
        self._trailers = True
        return self._decide()

    def _decide(self) -> list[bytes]:
        """All of the request is here that will be: it enters the desk."""
        try:
            self._body = body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self.call = call = self._describe(body)
            self.waiting = self.desk.enter(call, self._subset, partial(self._place, call), monotonic())
            return [] if self.waiting is not None else self._go()
        except Refused as refusal:
            return self._refuse(refusal)

    def _describe(self, body: bytes) -> Call:
        """The facts that decisions need. Only what is known to be a request to a model is parsed."""
        headers, record, desk = self._headers, self.record, self.desk
        path = headers.get(":path", "").partition("?")[0]
        route = path if path in ROUTES else next((known for known in BY_PATH if path.endswith(known)), "")
        request = None
        if body and route and "content-encoding" not in headers:
            record.route, self._dialect = route, ROUTES[route]
            request = parse(route, body)
            if desk.settings.media == "refuse":
                media.check(body, self._dialect == "anthropic")
            self._body = body = self._as_rewritten(request, body)
            record.model, record.stream = request.model[:128], request.stream
        prompt = request.prompt if request is not None else body
        model = self._new_model or record.model
        tokens = prompt_tokens(prompt)
        several = len(desk.endpoints) > 1
        return Call(
            model=record.pool,
            tenant=record.tenant,
            priority=desk.rules.priority(names.first(headers, names.OBJECTIVE)),
            prompt_tokens=tokens,
            most_tokens=tokens_to_hold(tokens, request.most_output if request is not None else None),
            prefix=chain(prompt, seed=hash(model)) if several else (),
            adapter=model if model in desk.adapters else "",
            session=names.first(headers, names.SESSION),
            streams=record.stream,
        )

    def _as_rewritten(self, request: Request, body: bytes) -> bytes:
        """The body with the model's name that the rules, or the gateway, want in place of the caller's."""
        wanted = names.first(self._headers, names.REWRITE) or self.desk.rules.rewritten(
            request.model, self.desk.choose
        )
        if not wanted or wanted == request.model:
            return body
        self._new_model, self._changed = wanted, True
        return with_model(body, wanted)

    def _place(self, call: Call) -> Waiting:
        """Its place in the queue, where it is told by `_turned`."""
        due_at = inf
        if aim := names.first(self._headers, names.TTFT_MS):
            with suppress(ValueError):
                due_at = self._began_at + float(aim) / 1000.0
        if (most := names.duration_s(names.first(self._headers, names.QUEUE_TTL))) is not None:
            due_at = min(due_at, self._began_at + most)
        size = len(self._body or b"")
        self._queued = place = Waiting(
            self._turned, call.tenant, call.priority, float(call.most_tokens), size, due_at
        )
        return place

    def _turned(self, refusal: Refused | None) -> None:
        """The queue has let it go. It is sent at once, so that whoever is next sees what is booked."""
        self.record.queued_s = waited_s = monotonic() - self._began_at
        self.desk.figures.queue_seconds.observe(waited_s)
        self._refusal = refusal
        if refusal is None:
            try:
                self._send()
            except Refused as nobody:
                self._refusal = nobody
        self.woken()

    def _send(self) -> None:
        assert self.call is not None
        self._addresses = self.desk.send(self.call, self._subset, monotonic())
        self.picked = True
        self._first = endpoint = self.call.charged_to
        if endpoint is not None:
            self.record.endpoint, self.record.version = endpoint.name, endpoint.facts.version
            if endpoint.facts.kv_events:
                self._session = self.desk.name_call()
        self.record.attempts = 1
        self.desk.figures.in_flight.add(1)

    def _go(self) -> list[bytes]:
        """Tell the gateway where the request goes."""
        if not self.picked:
            try:
                self._send()
            except Refused as refusal:
                return self._refuse(refusal)
        body, self._body = self._body or b"", None
        if not self._held:  # its head was let through, and its body is buffered
            return [
                wire.picked_with_body(
                    self._addresses, body if self._changed else None, self._new_model, self._session
                ),
            ]
        self._held = False
        out = [wire.picked(self._addresses, self._new_model, self._session)]
        if self._body_came:
            out += wire.pieces(body, not self._trailers, request=True)
        if self._trailers:
            out.append(wire.GO_ON["request_trailers"])
        return out

    def _refuse(self, refusal: Refused) -> list[bytes]:
        """Answer in the engine's place."""
        self.over = True
        self._body = None
        self._parts.clear()
        self.record.status = status = errors.STATUS[refusal.reason]
        if refusal.reason is Reason.SHED:
            status = self.record.status = 429
        headers = {"content-type": "application/json"}
        if dropped := names.dropped_as(refusal):
            headers[names.DROPPED] = dropped
        if refusal.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(refusal.retry_after_s)))
        self._settle(refusal.reason.value, None)
        body = errors.body(refusal, self._dialect, self.record.call_id)
        return [wire.refused(status, body, headers, dropped or refusal.reason.value)]

    # -- the answer -------------------------------------------------------------------------------------------

    def _response_headers(self, message: Any) -> list[bytes]:
        now = monotonic()
        self._status, kind, encoding = wire.answer_head(message.response_headers)
        self.record.status = self._status
        if self.call is not None and (served := wire.served(message)):
            self._served_by(served, now)
        if message.response_headers.end_of_stream or self._response_mode == wire.NONE:
            self._end()
            self.over = message.response_headers.end_of_stream
        elif self._status == 200 and not encoding:
            if kind.startswith("text/event-stream"):
                self._meter = Meter(self._dialect)
            elif kind.startswith("application/json"):
                self._whole = []
        return [wire.GO_ON["response_headers"] if self._queued is None else wire.queued(self.record.queued_s)]

    def _served_by(self, address: str, now: float) -> None:
        """Believe the gateway about who answered, if it is another than we said."""
        assert self.call is not None
        self.desk.served_by(self.call, address, now)
        endpoint = self.call.charged_to
        if endpoint is not None and endpoint is not self._first:
            self.record.attempts += 1
            self.record.endpoint, self.record.version = endpoint.name, endpoint.facts.version

    def _response_body(self, message: Any) -> list[bytes]:
        body = message.response_body
        data = body.body
        ended = body.end_of_stream or body.end_of_stream_without_message
        if data:
            if not self._begun:
                self._begun = True
                if self.record.stream:
                    self._first_piece()
            if self._meter is not None:
                self._meter.feed(data)
            elif self._whole is not None:
                self._whole.append(data)
                if self.record.bytes_out > WHOLE_MOST:
                    self._whole = None
            self.record.bytes_out += len(data)
        if ended:
            self._end()
            self.over = True
        if self._response_mode != wire.FULL_DUPLEX:
            return [wire.GO_ON["response_body"]]
        return wire.pieces(data, ended, request=False)

    def _response_trailers(self, message: Any) -> list[bytes]:
        self._end()
        self.over = True
        return [wire.GO_ON["response_trailers"]]

    def _first_piece(self) -> None:
        """The first token is here. Of an answer that does not stream nobody knows when it was."""
        now = monotonic()
        self.record.first_token_s = now - self._began_at
        if self.call is not None and (endpoint := self.call.charged_to) is not None:
            self.desk.picker.first_token(endpoint, self.call, now)

    def _answered(self) -> bool:
        """Whether the answer is whole as far as can be seen: its own end was there, or it is no stream."""
        return self._settled or (self._meter is not None and self._meter.done)

    def _end(self) -> None:
        """The answer has ended by itself."""
        if self._settled:
            return
        ok = self._status < BROKEN
        cut = self._meter is not None and ok and not self._meter.done
        outcome = "cut" if cut else "served"
        if self._status >= 400:
            outcome = (Reason.UPSTREAM_FAILED if not ok else Reason.UPSTREAM_REFUSED).value
        self._settle(outcome, ok)

    def _settle(self, outcome: str, ok: bool | None) -> None:
        """Exactly once: charges go back, the record is counted."""
        if self._settled:
            return
        self._settled = True
        now, record, desk = monotonic(), self.record, self.desk
        record.outcome, record.seconds = outcome, now - self._began_at
        self._count()
        if self.call is not None and self.picked:
            desk.figures.in_flight.add(-1)
            tokens = record.output_tokens if record.tokens_from else -1
            if self._queued is not None and record.tokens_from:
                desk.queue.settle(self._queued, record.prompt_tokens + record.output_tokens)
            endpoint = self.call.charged_to
            desk.settle(self.call, ok, now, tokens, found_tokens(self.call, record))
            if endpoint is not None and endpoint.exact is not None and self._session:
                endpoint.exact.ended(self._session, self.call, record.prompt_tokens, record.output_tokens)
        desk.figures.record(record)

    def _count(self) -> None:
        """What the answer cost, in the engine's own figures where it gave them."""
        record = self.record
        if (meter := self._meter) is not None:
            meter.close()
            record.prompt_tokens, record.cached_tokens = meter.prompt_tokens, meter.cached_tokens
            record.output_tokens, record.tokens_from = meter.output_tokens, meter.source
            if meter.source != "engine" and self.call is not None:
                record.prompt_tokens = self.call.prompt_tokens
        elif self._whole:
            whole = self._whole[0] if len(self._whole) == 1 else b"".join(self._whole)
            if (usage := usage_of(whole, self._dialect)) is not None:
                record.prompt_tokens, record.cached_tokens, record.output_tokens = usage
                record.tokens_from = "engine"


def _nobody_waits() -> None:
    """A call that does not wait has nobody to wake."""


_SAY: dict[str, Callable[[Conversation, Any], list[bytes]]] = {
    "request_headers": Conversation._request_headers,
    "request_body": Conversation._request_body,
    "request_trailers": Conversation._request_trailers,
    "response_headers": Conversation._response_headers,
    "response_body": Conversation._response_body,
    "response_trailers": Conversation._response_trailers,
}
