"""HTTP/1.1 in: one `ClientConnection` per client socket.

The parser is llhttp (through `httptools`); what it leaves open is closed here: one Host and only one, sizes of
head and body, `Expect`, pipelining in order, and time. It makes an `Exchange` of each request and knows nothing
of models. Anything ambiguous is refused and the connection closed; nothing is ever repaired.

Ownership: `exchange` is the request being answered; `waiting` are complete requests behind it (pipelining);
`arriving` is the one whose body is still being read. `until` is when the sweep (see `app.Gateway.sweep`) may
close the connection; it is `inf` while an exchange runs, since an exchange has its own deadlines.

A client that closes and one that only shuts its sending side look the same at first (FIN). At FIN we write
one interim `100 Continue`, which every HTTP/1.1 client must skip: a closed peer answers with RST, and the kernel's
state of the socket then tells us, also while the engine is silent.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools

from gemstead.gateway.exchange import Exchange
from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway

# Headers that mean something to us or to an engine. All others stop here.
KEPT = frozenset(
    {
        b"accept",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"anthropic-beta",
        b"anthropic-version",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"openai-beta",
        b"origin",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"x-api-key",
    }
)
ONCE = frozenset({b"authorization", b"content-length", b"expect", b"host", b"origin", b"x-api-key"})
PIPELINED = 16  # complete requests that may wait behind a running one
LINGER_BYTES = 4 << 20  # read and thrown away after an early refusal, so that the client sees it
LINGER_S = 2.0
SMALL_BODY = 1 << 20  # a refused call's body is read to its end up to this size, and the connection kept
BODY_PAUSES = 20  # a body must be whole within this many times the longest pause in it
TCP_CLOSE = 7  # Linux tcp_states.h
WRITE_LOW = 65_536


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "arriving",
        "blocked_at",
        "client",
        "exchange",
        "fault",
        "gate",
        "head_bytes",
        "headers",
        "left",
        "lingering",
        "parser",
        "probes",
        "reading_head",
        "transport",
        "until",
        "url",
        "waiting",
    )

    def __init__(self, gate: Gateway) -> None:
        self.gate = gate
        self.transport: Any = None
        self.client = ""
        self.parser = httptools.HttpRequestParser(self)
        self.exchange: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.arriving: Exchange | None = None
        self.headers: dict[bytes, bytes] = {}
        self.url = b""
        self.head_bytes = 0
        self.reading_head = False
        self.fault: Refused | None = None
        self.lingering = 0
        self.blocked_at = 0.0  # since when the client takes nothing; 0: it takes
        self.left = False
        self.probes = 0
        self.until = inf

    # -- the socket -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gate = self.gate
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else ""
        self.transport.set_write_buffer_limits(high=gate.settings.bounds.write_buffer_bytes, low=WRITE_LOW)
        self.until = monotonic() + gate.settings.deadlines.client_idle_s
        gate.connections.add(self)
        if len(gate.connections) > gate.settings.bounds.connections:
            self.refuse_unparsed(
                Refused(Reason.SHED, "Too many connections to this gateway; try again.", retry_after_s=1)
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.left = True
        self.gate.connections.discard(self)
        if self.arriving is not None:
            self.arriving.client_left()
        for exchange in self.waiting:
            exchange.client_left()
        self.waiting.clear()
        if self.exchange is not None:
            self.exchange.client_left()
        self.parser = None

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.lingering += len(data)
            if self.lingering > LINGER_BYTES:
                self.transport.abort()
            return
        if (arriving := self.arriving) is not None:
            pause_s = self.gate.settings.deadlines.client_body_s
            self.until = min(monotonic() + pause_s, arriving.began_at + BODY_PAUSES * pause_s)
        before = self.head_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if (exchange := self.exchange) is not None:  # answered as plain HTTP/1.1, then closed
                exchange.keep_alive = False
        except httptools.HttpParserError as error:
            if self.fault is None:
                self.fault = Refused(Reason.BAD_REQUEST, f"This is not valid HTTP/1.1: {error}.")
        if self.left:
            return
        if self.fault is None and self.reading_head:
            self.head_bytes = max(self.head_bytes, before + len(data))
            if self.head_bytes > self.gate.settings.bounds.header_bytes:
                self.fault = too_large_head(self.gate.settings.bounds.header_bytes)
        if self.fault is not None:
            self.refuse_unparsed(self.fault)

    def eof_received(self) -> bool:
        """True keeps our sending side open, for a client that only shut its own."""
        if self.exchange is None or self.transport.get_extra_info("ssl_object") is not None:
            return False
        if sys.platform != "linux" or not self.exchange.probe():
            return False
        (self.waiting[-1] if self.waiting else self.exchange).keep_alive = False  # no more can come
        self.look_again()
        return True

    def look_again(self) -> None:
        """Ask the kernel whether the peer has answered our probe with RST; soon at first, then each second."""
        if self.left or self.exchange is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE:
            self.transport.abort()
            return
        self.probes += 1
        self.gate.loop.call_later(min(1.0, 0.002 * 2**self.probes), self.look_again)

    def pause_writing(self) -> None:
        self.blocked_at = monotonic()
        if self.exchange is not None:
            self.exchange.client_blocked()

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        if self.exchange is not None:
            self.exchange.client_took()

    # -- what the parser says ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.headers = {}
        self.url = b""
        self.head_bytes = 0
        self.reading_head = True
        self.until = monotonic() + self.gate.settings.deadlines.client_header_s

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in KEPT:
            headers = self.headers
            if name not in headers:
                headers[name] = value
            elif name in ONCE:
                self.fault = Refused(Reason.BAD_REQUEST, f"The header {name.decode()} was sent twice.")
            else:
                headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        self.reading_head = False
        gate = self.gate
        if self.fault is not None:
            return
        if self.head_bytes + len(self.url) > gate.settings.bounds.header_bytes:
            self.fault = too_large_head(gate.settings.bounds.header_bytes)
            return
        parser = self.parser
        http11 = parser.get_http_version() == "1.1"
        if fault := head_fault(self.headers, http11, parser.get_http_version()):
            self.fault = fault
            return
        exchange = Exchange(gate, self, parser.get_method(), self.url, self.headers, http11)
        exchange.keep_alive = parser.should_keep_alive()
        self.arriving = exchange
        self.until = exchange.began_at + gate.settings.deadlines.client_body_s
        exchange.opened()
        if exchange.refusal is not None:
            self.maybe_refuse_early(exchange)
        elif b"expect" in self.headers and self.exchange is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        exchange = self.arriving
        if exchange is None or self.fault is not None:
            return
        exchange.body_bytes += len(data)
        if exchange.refusal is None:
            exchange.parts.append(data)
            if exchange.body_bytes > self.gate.settings.bounds.body_bytes:
                exchange.parts.clear()
                exchange.refusal = too_large_body(self.gate.settings.bounds.body_bytes)
        if exchange.refusal is not None:
            self.maybe_refuse_early(exchange)

    def on_message_complete(self) -> None:
        exchange = self.arriving
        if exchange is None or self.fault is not None:
            return
        self.arriving = None
        self.until = inf
        if self.exchange is None:
            self.exchange = exchange
            self.start(exchange)
            return
        self.waiting.append(exchange)
        if len(self.waiting) >= PIPELINED:
            self.transport.pause_reading()

    def start(self, exchange: Exchange) -> None:
        try:
            exchange.begin()
        except Exception as error:  # a fault of ours must not leave a client waiting
            self.gate.broken(exchange, error)

    # -- what an exchange asks of us --------------------------------------------------------------------

    def finished(self, exchange: Exchange) -> None:
        """`exchange` has been answered in full: close, or go on with the next request."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        if self.left:
            return
        if not exchange.keep_alive or self.gate.draining:
            self.linger() if self.arriving is exchange else self.transport.close()
            return
        if self.waiting:
            if len(self.waiting) == PIPELINED:
                self.transport.resume_reading()
            self.exchange = following = self.waiting.popleft()
            self.start(following)
        elif self.arriving is None and not self.reading_head:
            self.until = monotonic() + self.gate.settings.deadlines.client_idle_s

    # -- what the sweep asks of us ----------------------------------------------------------------------

    def overdue(self) -> None:
        """`until` has passed."""
        if self.lingering or self.transport.is_closing():
            self.transport.abort()
            return
        self.until = monotonic() + LINGER_S
        if self.arriving is not None or self.reading_head:
            self.refuse_unparsed(Refused(Reason.SLOW_CLIENT, "The request did not arrive in time."))
        else:
            self.transport.close()

    def close_if_idle(self) -> None:
        if self.exchange is None and self.arriving is None and not self.reading_head:
            self.transport.close()

    # -- refusing ---------------------------------------------------------------------------------------

    def maybe_refuse_early(self, exchange: Exchange) -> None:
        """Answer a call that is refused already now, if its body is too large to be worth reading."""
        length = self.headers.get(b"content-length")
        known_small = length is not None and int(length) <= SMALL_BODY
        if known_small and b"expect" not in self.headers:
            return
        if length is None and b"transfer-encoding" not in self.headers:
            return
        exchange.keep_alive = False
        if self.exchange is None:
            self.exchange = exchange
            self.start(exchange)

    def refuse_unparsed(self, refusal: Refused) -> None:
        """Refuse bytes that never became a request, and close. Whatever ran before is answered first."""
        self.fault = None
        if self.exchange is not None and not self.exchange.done:
            # Its answer is under way and must stay whole; what came after it cannot be answered in order.
            self.exchange.keep_alive = False
            self.lingering = 1
            return
        if (arriving := self.arriving) is not None and not arriving.done:
            arriving.refusal, arriving.keep_alive = refusal, False
            self.exchange = arriving
            self.start(arriving)
            return
        exchange = Exchange(self.gate, self, b"", self.url[:256], {}, True)
        exchange.keep_alive, exchange.refusal = False, refusal
        self.exchange = self.arriving = exchange
        self.start(exchange)

    def linger(self) -> None:
        """Close, but read on for a moment: closing with unread bytes would reset away our last words."""
        self.arriving = None
        self.lingering = 1
        self.until = monotonic() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()


def head_fault(headers: dict[bytes, bytes], http11: bool, version: str) -> Refused | None:
    """What is wrong with a request's head that the parser lets pass, or None."""
    if not http11 and version != "1.0":
        return Refused(Reason.BAD_REQUEST, f"HTTP version {version} is not spoken here; use HTTP/1.1.")
    if b"host" not in headers and http11:
        return Refused(Reason.BAD_REQUEST, "The Host header is missing.")
    if b"transfer-encoding" in headers:
        if b"content-length" in headers:
            return Refused(Reason.BAD_REQUEST, "Send Content-Length or Transfer-Encoding, not both.")
        if not http11 or headers[b"transfer-encoding"].lower() != b"chunked":
            return Refused(Reason.BAD_REQUEST, "The only Transfer-Encoding understood is `chunked`.")
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        return Refused(Reason.BAD_REQUEST, "The only Expect understood is `100-continue`.")
    return None


def too_large_head(limit: int) -> Refused:
    return Refused(Reason.HEADERS_TOO_LARGE, f"The request's headers are larger than {limit} bytes.")


def too_large_body(limit: int) -> Refused:
    return Refused(
        Reason.BODY_TOO_LARGE,
        f"The request's body is larger than {limit} bytes (gateway.bounds.body_mib in gemstead.yaml).",
    )
