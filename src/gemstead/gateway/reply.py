"""An answer as the client sees it: its head, its framing, its bytes.

The head is not written when it is known but with the first bytes that follow it, in one packet: two packets cost
a kernel more than everything Python does for a request. How the answer ends is fixed with the head: a length,
chunks of ours, or the end of the connection for clients that know neither.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Any

from gemstead.ledger.audit import AuditRecord
from gemstead.openai import errors
from gemstead.openai.meter import Meter
from gemstead.traffic.call import Call

if TYPE_CHECKING:
    from gemstead.gateway.allowances import Need
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.protocol import ClientConnection

NO_BODY = frozenset({204, 304})
UNSENT, LENGTH, CHUNKED, CLOSE = range(4)  # how the client will see the end of the answer


class Reply:
    """The writing half of an exchange."""

    keep_alive = False
    hold: Any = None
    allowed: Any = None  # what shared limits and rules hold of this call (allowances.py)
    need_of: Need | None = None  # what it takes of them
    meter: Meter | None = None
    note = b""  # header lines that tell of another model than the one asked for
    framing = UNSENT
    streaming = False  # the client was promised a stream of events
    unsent = b""  # the answer's head, until its first bytes follow
    status = 0

    def __init__(
        self,
        gate: Gateway,
        client: ClientConnection,
        method: bytes,
        headers: dict[bytes, bytes],
        http11: bool,
    ) -> None:
        self.gate = gate
        self.client = client
        self.method = method
        self.headers = headers
        self.http11 = http11
        self.began_at = monotonic()
        self.record = AuditRecord(call_id=gate.new_id(), began=time(), client=client.client)

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
            if status not in NO_BODY:
                head.append(b"\r\ncontent-length: %d" % length)
        elif self.framing == CHUNKED:
            head.append(b"\r\ntransfer-encoding: chunked")
        else:
            self.keep_alive = False
        if self.meter is not None or content == b"text/event-stream":
            self.streaming = True
            head.append(b"\r\ncache-control: no-cache\r\nx-accel-buffering: no")
        if self.hold is not None:
            head.append(gate.limits.header_lines(self.hold, self.began_at))
        elif self.allowed is not None and gate.allowances is not None and status < 400:
            head.append(gate.allowances.lines(self))
        if self.note:
            head.append(self.note)
        if gate.cors and b"origin" in self.headers:
            head.append(gate.cors_headers(self.headers[b"origin"]))
        if gate.draining:
            self.keep_alive = False
        if not self.keep_alive:
            head.append(b"\r\nconnection: close")
        elif not self.http11:
            head.append(b"\r\nconnection: keep-alive")
        head.append(b"\r\n\r\n")
        self.unsent = b"".join(head)

    def send_whole(
        self, status: int, body: bytes, content: bytes = b"application/json", extra: bytes = b""
    ) -> None:
        self.send_head(status, content, len(body), extra)
        self.record.bytes_out += len(body)
        if self.method != b"HEAD":
            self.say(body)

    def say(self, data: bytes) -> None:
        """Write to the client. The head goes out with what follows it, in one packet."""
        if self.unsent:
            data = self.unsent + data
            self.unsent = b""
        self.client.transport.write(data)

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


def found_tokens(call: Call, record: AuditRecord) -> int:
    """Tokens of the prompt that the engine had cached, in tokens as the picker estimates them; -1: it did not say."""
    if record.tokens_from != "engine":
        return -1
    cached = record.cached_tokens
    return cached * call.prompt_tokens // record.prompt_tokens if cached and record.prompt_tokens else 0
