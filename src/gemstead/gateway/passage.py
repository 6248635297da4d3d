"""Requests that are not for a model: files and batches, passed on to the process beside the gateway that keeps them.

A `Passage` is an exchange whose body is never held: what the client sends goes on as it comes, and while the other
side takes nothing the client is not read. The worker does what it does for every request (identity, bounds, the record)
and decides nothing else; who calls is said in a header, with the secret that only the two processes share.

    opened      identify; the bound of an upload is larger than that of a request
    turn        it is this request's turn to be answered: reach the other process
    pass_on     a piece of the body
    begin       the body is whole

There is no second endpoint: when the connection breaks, the caller is told to try again.
"""

from __future__ import annotations

import base64
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from gemstead.gateway.exchange import LAST_CHUNK, Exchange
from gemstead.gateway.reply import CHUNKED, UNSENT
from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.upstream import UpstreamConnection

ROUTES = ("/v1/files", "/v1/batches")
METHODS = frozenset({b"GET", b"POST", b"DELETE"})
PENDING_MOST = 262_144  # bytes of a body that wait while the other process is being reached
ANSWER_S = 120.0  # from the end of the body to an answer, and between two pieces of one
AWAY = "Files and batches cannot be reached for the moment. Please try again."


def passes(method: bytes, url: bytes) -> bool:
    """Whether such a request is for the process beside the gateway."""
    return (url.startswith((b"/v1/files", b"/v1/batches"))) and method in METHODS


class Passage(Exchange):
    """One request on its way through."""

    passing = True
    whole_body = False
    paused = False
    blocked = False  # the other process takes nothing
    pending_bytes = 0

    def opened(self) -> None:
        super().opened()
        self.record.route = next((route for route in ROUTES if self.path.startswith(route)), "")
        if self.refusal is not None:
            return
        length = self.headers.get(b"content-length")
        if b"content-encoding" in self.headers:
            self.refusal = Refused(Reason.UNSUPPORTED, "Send the body without Content-Encoding.")
        elif length is not None and int(length) > self.body_most():
            self.refusal = self.too_large()

    def body_most(self) -> int:
        """The largest body of this request, in bytes."""
        settings = self.gate.settings
        if self.path == "/v1/files" and settings.aside is not None:
            return settings.aside.body_bytes
        return settings.bounds.body_bytes

    def too_large(self) -> Refused:
        return Refused(Reason.BODY_TOO_LARGE, f"The request's body is larger than {self.body_most()} bytes.")

    # -- towards the other process ------------------------------------------------------------------------

    def turn(self) -> None:
        if self.done or self.up is not None or self.connecting is not None:
            return
        gate = self.gate
        if gate.aside is None:
            self.failed("there is none")
            return
        gate.running.add(self)
        self.last_at = self.began_at
        self.overdue_at = self.total_at = inf
        self.connecting = gate.loop.create_task(self.connect(gate.aside))

    def forward(self, up: UpstreamConnection) -> None:
        self.up = up
        assert self.caller is not None
        said = [b"%s %s HTTP/1.1\r\n" % (self.method, self.url), up.line.prefix]
        said.append(b"x-gemstead-caller: %s\r\n" % base64.urlsafe_b64encode(msgspec.json.encode(self.caller)))
        if b"content-length" in self.headers:
            said.append(b"content-length: %s\r\n" % self.headers[b"content-length"])
        elif b"transfer-encoding" in self.headers:
            said.append(b"transfer-encoding: chunked\r\n")
        # The line's own prefix says JSON; what the client says of its body comes instead.
        content = self.headers.get(b"content-type", b"application/json")
        head = b"".join(said).replace(b"content-type: application/json", b"content-type: " + content, 1)
        up.send(self, head + b"\r\n", b"")
        parts, self.parts = self.parts, []
        for part in parts:
            self.put(part)
        if self.whole_body:
            self.body_ended()
        self.flow()

    def pass_on(self, data: bytes) -> None:
        if self.body_bytes > self.body_most():
            self.stop_engine()
            self.parts.clear()
            self.refusal = self.too_large()
        elif self.up is not None:
            self.put(data)
        else:
            self.parts.append(data)
            self.pending_bytes += len(data)
            self.flow()

    def put(self, data: bytes) -> None:
        assert self.up is not None
        if b"content-length" not in self.headers:
            data = b"%x\r\n%s\r\n" % (len(data), data)
        self.up.transport.write(data)

    def begin(self) -> None:
        self.whole_body = True
        self.record.bytes_in = self.body_bytes
        if self.refusal is not None:
            self.fail(self.refusal)
        elif self.up is not None:
            self.body_ended()
        else:
            self.turn()

    def body_ended(self) -> None:
        if b"transfer-encoding" in self.headers and self.up is not None:
            self.up.transport.write(LAST_CHUNK)
        self.overdue_at = monotonic() + ANSWER_S

    # -- flow: the client is read no faster than the other process reads ----------------------------------

    def upstream_blocked(self) -> None:
        self.blocked = True
        self.flow()

    def upstream_took(self) -> None:
        self.blocked = False
        self.flow()

    def flow(self) -> None:
        hold = not self.whole_body and (
            self.blocked or (self.up is None and self.pending_bytes > PENDING_MOST)
        )
        if hold != self.paused:
            self.paused = hold
            self.client.hold_body(hold)

    # -- the answer -----------------------------------------------------------------------------------------

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        if not self.whole_body:
            self.client.answer_early(self)
        self.first_at = monotonic()
        self.overdue_at = self.first_at + ANSWER_S
        content = headers.get(b"content-type", b"application/json")
        extra = b""
        if (name := headers.get(b"content-disposition")) is not None:
            extra = b"\r\ncontent-disposition: " + name
        self.send_head(status, content, length if length >= 0 else None, extra)

    def upstream_body(self, data: bytes, payload: bytes) -> None:
        self.overdue_at = monotonic() + ANSWER_S
        self.record.bytes_out += len(payload)
        self.say(self.framed(payload))

    def upstream_done(self, up: UpstreamConnection) -> None:
        self.up = None
        if self.framing == CHUNKED:
            self.say(LAST_CHUNK)
        if self.status < 400:
            self.settle("served", ok=True)
        else:
            failed = self.status >= 500
            self.settle((Reason.UPSTREAM_FAILED if failed else Reason.UPSTREAM_REFUSED).value, ok=None)

    def upstream_lost(self, up: UpstreamConnection, why: str, *, stale: bool = False) -> None:
        self.up = None
        if not self.done:
            self.failed(why)

    def failed(self, why: str, *, stale: bool = False) -> None:
        self.record.reason = f"batch: {why}"[:500]
        refusal = Refused(Reason.UPSTREAM_FAILED, f"{AWAY} {self.named()}")
        if self.whole_body or self.framing != UNSENT:
            self.fail(refusal)
            return
        self.refusal = refusal
        self.parts.clear()
        self.pending_bytes, self.blocked = 0, False
        self.flow()
        self.client.maybe_refuse_early(self)
