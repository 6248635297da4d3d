"""HTTP/1.1 in: one `ClientConnection` per client socket.

The parser is llhttp (through `httptools`); what it leaves open is closed here: one Host and only one, sizes of
head and body, `Expect`, pipelining in order, and time. It makes an `Exchange` of each request and knows nothing
of models. Anything ambiguous is refused and the connection closed; nothing is ever repaired.

Ownership: `exchange` is the request being answered; `waiting` are complete requests behind it (pipelining);
`arriving` is the one whose body is still being read. `until` is when the sweep (see `app.Gateway.sweep`) may
close the connection; it is `inf` while an exchange runs, since an exchange has its own deadlines. `lingering`
is above zero once nothing more is listened to: what still comes is counted and thrown away.

How a request is cut into reads never matters: `head_bytes` is exact and counts whole lines; `head_raw` only keeps
a head without end from filling memory, and so allows a little more.

A client that closes and one that only shuts its sending side look the same at first (FIN). At FIN we write
one interim `100 Continue`, which every HTTP/1.1 client must skip: a closed peer answers with RST, and the kernel's
state of the socket then tells us, also while the engine is silent.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from hashlib import sha256
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import httptools

from gemstead.gateway.exchange import Exchange
from gemstead.gateway.heads import Head, Key, split
from gemstead.gateway.passage import Passage, passes
from gemstead.gateway.vertex import VertexExchange
from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway

# Headers that mean something to us or to an engine, beside those that routes ask for. All others stop here.
KEPT = frozenset(
    {
        b"access-control-request-headers",
        b"access-control-request-method",
        b"anthropic-beta",
        b"anthropic-version",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"openai-beta",
        b"origin",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"x-api-key",
        b"x-session-id",
    }
)
ONCE = frozenset({b"authorization", b"content-length", b"expect", b"host", b"origin", b"x-api-key"})
PIPELINED: Final = 16  # complete requests that may wait behind a running one
LINGER_BYTES: Final = 4 << 20  # read and thrown away after an early refusal, so that the client sees it
LINGER_UPLOAD: Final = 1 << 30  # of a file that a known caller uploads
LINGER_S: Final = 2.0  # for an upload: without a byte
SMALL_BODY: Final = (
    1 << 20
)  # a refused call's body is read to its end up to this size, and the connection kept
HEAD_SLACK: Final = 4096  # request line and spaces, which are not counted in an unfinished head
PARTS: Final = 256  # pieces of a body kept apart; see `keep`
FRAMING_MOST: Final = (
    16  # bytes of chunk framing for each byte of body; beyond that framing is all that comes
)
BODY_PAUSES: Final = 20  # a body must be whole within this many times the longest pause in it
TCP_CLOSE: Final = 7  # Linux tcp_states.h
WRITE_LOW: Final = 65_536


class ClientConnection:  # an asyncio.Protocol in all but name: a plain class can be compiled
    __slots__ = (
        "arriving",
        "begun",
        "blocked_at",
        "certificate",
        "client",
        "exchange",
        "fault",
        "gate",
        "going_on",
        "head_bytes",
        "head_raw",
        "headers",
        "last_head",
        "left",
        "linger_most",
        "lingering",
        "new_head",
        "parser",
        "probes",
        "reading_head",
        "transport",
        "until",
        "url",
        "waiting",
        "wire_bytes",
    )

    def __init__(self, gate: Gateway) -> None:
        self.gate = gate
        self.transport: Any = None
        self.client = ""
        self.certificate: tuple[bytes, dict[str, Any]] | None = None
        self.parser: Any = httptools.HttpRequestParser(self)
        self.exchange: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.arriving: Exchange | None = None
        self.headers: dict[bytes, bytes] = {}
        self.url = b""
        self.head_bytes = self.head_raw = 0
        self.wire_bytes = 0  # of the body that arrives, with its framing
        self.new_head: Key | None = None  # of a head that is being parsed for the first time (heads.py)
        self.last_head: Head | None = None  # the next one is likely the same
        self.begun = False  # whether a message began in this read
        self.going_on = False
        self.reading_head = False
        self.fault: Refused | None = None
        self.lingering = 0
        self.linger_most = LINGER_BYTES
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
        if gate.settings.identity.certificates:
            self.certificate = shown_certificate(transport)
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
            if self.lingering > self.linger_most:
                self.transport.abort()
            elif self.linger_most > LINGER_BYTES and self.until < inf:
                self.until = monotonic() + LINGER_S
            return
        if self.exchange is None and not (
            self.reading_head or self.blocked_at or self.waiting or self.arriving is not None
        ):
            last = self.last_head
            if last is not None and last.heads is self.gate.heads and (body := last.body_at(data)):
                self.seen_before(last, data[body:])
                return
            found = split(data)
            if found is not None:
                head = self.gate.heads.find(found[0])
                if head is not None:
                    self.last_head = head
                    self.seen_before(head, data[found[1] :])
                    return
                self.new_head = found[0]
        if (arriving := self.arriving) is not None:
            pause_s = self.gate.settings.deadlines.client_body_s
            self.until = min(monotonic() + pause_s, arriving.began_at + BODY_PAUSES * pause_s)
            self.wire_bytes += len(data)
        self.begun = False
        self.feed(data)
        self.new_head = None
        if self.left or self.lingering:
            return
        if self.fault is None:
            bounds = self.gate.settings.bounds
            if self.reading_head:
                if not self.begun:
                    self.head_raw += len(data)
                if self.head_raw > bounds.header_bytes + HEAD_SLACK:
                    self.fault = too_large_head(bounds.header_bytes)
            elif (
                arriving is not None
                and self.arriving is arriving
                and self.wire_bytes > arriving.body_bytes * FRAMING_MOST + bounds.header_bytes
            ):
                self.fault = Refused(Reason.BAD_REQUEST, "This body is chunk framing and nothing else.")
        if self.fault is not None:
            self.refuse_unparsed(self.fault)

    def seen_before(self, head: Head, body: bytes) -> None:
        """A whole request in one read, whose head needs no parsing."""
        exchange = Exchange(self.gate, self, b"POST", head.url, head.headers, True, head.path)
        exchange.keep_alive = head.keep_alive
        exchange.head = head
        exchange.opened()
        exchange.body_bytes = len(body)
        if exchange.body_bytes > self.gate.body_most:
            exchange.refusal = too_large_body(self.gate.body_most)
        else:
            exchange.parts.append(body)
        self.until = inf
        self.exchange = exchange
        self.start(exchange)

    def feed(self, data: bytes) -> None:
        """Have `data` parsed. A wish to upgrade (Java's client asks for h2c) is passed over, as HTTP allows."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.fault is not None or self.lingering or self.left:
                    return
                if self.parser.get_method() == b"CONNECT":
                    self.fault = Refused(Reason.WRONG_METHOD, "This is not a proxy; send a request to it.")
                    return
                # The parser takes what follows for another protocol. Say the same request again without the wish.
                data = self.without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError as error:
                if self.fault is None:
                    what = str(error)  # one of the parser's own sentences
                    self.fault = Refused(
                        Reason.BAD_REQUEST, f"This is not valid HTTP/1.1: {what}.", detail=what
                    )
                return

    def without_upgrade(self) -> bytes:
        """The head that was just read, of what we keep, without `Upgrade`."""
        parser = self.parser
        lines = [b"%s %s HTTP/%s" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers.items()]
        if not parser.should_keep_alive():
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

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
        else:
            self.until = self.blocked_at + self.gate.settings.deadlines.client_write_s

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        if self.exchange is not None:
            self.exchange.client_took()
        elif not self.transport.is_closing():
            self.go_on()

    # -- what the parser says ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.headers = {}
        self.url = b""
        self.head_bytes = self.head_raw = 0
        self.begun = self.reading_head = True
        self.until = min(monotonic() + self.gate.settings.deadlines.client_header_s, self.blocked_until())

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if self.reading_head and name not in KEPT and name not in self.gate.kept:
            return
        if not self.reading_head:  # a trailer: nothing in it counts
            if name in KEPT:
                self.fault = Refused(
                    Reason.BAD_REQUEST, f"The header {name.decode()} stands behind the body."
                )
            elif self.head_bytes > self.gate.settings.bounds.header_bytes:
                self.fault = too_large_head(self.gate.settings.bounds.header_bytes)
        else:
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
        if self.fault is not None or self.lingering:
            return
        if self.head_bytes + len(self.url) > gate.settings.bounds.header_bytes:
            self.fault = too_large_head(gate.settings.bounds.header_bytes)
            return
        parser = self.parser
        http11 = parser.get_http_version() == "1.1"
        if fault := head_fault(self.headers, http11, parser.get_http_version()):
            self.fault = fault
            return
        if parser.should_upgrade():
            return  # see `feed`
        method = parser.get_method()
        if gate.aside is not None and passes(method, self.url):
            exchange: Exchange = Passage(gate, self, method, self.url, self.headers, http11)
            self.new_head = None
        elif gate.settings.vertex and self.url.decode("latin-1") in gate.settings.vertex:
            health = self.url.decode("latin-1") == gate.settings.vertex[1]
            exchange = VertexExchange(gate, self, method, self.url, self.headers, http11, health)
            self.new_head = None
        else:
            exchange = Exchange(gate, self, method, self.url, self.headers, http11)
        exchange.keep_alive = parser.should_keep_alive()
        if self.new_head is not None:
            self.remember(exchange, self.new_head)
            self.new_head = None
        self.arriving = exchange
        self.wire_bytes = 0
        self.until = exchange.began_at + gate.settings.deadlines.client_body_s
        exchange.opened()
        if self.exchange is None and not self.waiting:
            self.welcome(exchange)

    def remember(self, exchange: Exchange, key: Key) -> None:
        """The head that this read began with is well; its like will not be parsed again."""
        headers = exchange.headers
        plain = (
            b"content-length" in headers and b"expect" not in headers and b"transfer-encoding" not in headers
        )
        if plain and exchange.method == b"POST" and exchange.http11:
            kept = {name: value for name, value in headers.items() if name != b"content-length"}
            self.gate.heads.remember(key, Head(key, exchange.url, exchange.path, kept, exchange.keep_alive))

    def welcome(self, exchange: Exchange) -> None:
        """It is the turn of a request whose body is still to come."""
        if exchange.refusal is not None:
            self.maybe_refuse_early(exchange)
            return
        if exchange.passing:
            exchange.turn()
        if b"expect" in exchange.headers and exchange.http11 and not exchange.body_bytes:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        exchange = self.arriving
        if exchange is None or self.fault is not None:
            return
        exchange.body_bytes += len(data)
        if exchange.refusal is None:
            if exchange.passing:
                exchange.pass_on(data)
            elif exchange.body_bytes > self.gate.settings.bounds.body_bytes:
                exchange.parts.clear()
                exchange.refusal = too_large_body(self.gate.settings.bounds.body_bytes)
            elif exchange.caller is not None:  # what nobody identified has sent is not kept
                keep(exchange.parts, data)
        if exchange.refusal is not None:
            self.maybe_refuse_early(exchange)

    def on_message_complete(self) -> None:
        exchange = self.arriving
        if exchange is None or self.fault is not None:
            return
        self.arriving = None
        if self.exchange is None and not self.waiting and not self.blocked_at:
            self.until = inf
            self.exchange = exchange
            self.start(exchange)
            return
        self.wait(exchange)

    def wait(self, exchange: Exchange) -> None:
        """A complete request behind others."""
        self.until = self.blocked_until()
        self.waiting.append(exchange)
        if len(self.waiting) == PIPELINED:
            self.transport.pause_reading()

    def blocked_until(self) -> float:
        """When to give up on a client for which nothing runs, because it takes nothing."""
        if self.blocked_at and self.exchange is None:
            return self.blocked_at + self.gate.settings.deadlines.client_write_s
        return inf

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
        if self.left or self.transport.is_closing():
            return
        if not exchange.keep_alive or self.gate.draining:
            self.close()
        elif not self.going_on:
            self.go_on()

    def go_on(self) -> None:
        """Begin the next request. A loop, since the next may be answered before `start` returns."""
        self.going_on = True
        while self.waiting and self.exchange is None and not self.blocked_at:
            if self.transport.is_closing():
                break
            if len(self.waiting) == PIPELINED:
                self.transport.resume_reading()
                self.until = monotonic() + self.gate.settings.deadlines.client_header_s
            if self.arriving is None and not self.reading_head:
                self.until = inf
            self.exchange = following = self.waiting.popleft()
            self.start(following)
        self.going_on = False
        if self.exchange is not None or self.left or self.transport.is_closing():
            return
        if self.waiting:
            self.until = self.blocked_until()
        elif self.arriving is not None:
            self.welcome(self.arriving)
        elif not self.reading_head:
            self.until = monotonic() + self.gate.settings.deadlines.client_idle_s

    # -- what the sweep asks of us ----------------------------------------------------------------------

    def overdue(self) -> None:
        """`until` has passed."""
        if self.lingering or self.transport.is_closing() or self.blocked_until() <= monotonic():
            self.transport.abort()
        elif len(self.waiting) >= PIPELINED:
            self.until = self.blocked_until()  # it is we who do not read
        elif self.arriving is not None or self.reading_head:
            self.refuse_unparsed(Refused(Reason.SLOW_CLIENT, "The request did not arrive in time."))
        elif self.exchange is not None:
            self.until = inf
        else:
            self.close()

    def close_if_idle(self) -> None:
        if not self.busy() and not self.reading_head:
            self.close()

    def busy(self) -> bool:
        """Whether a request whose head was read has not been answered yet."""
        return self.exchange is not None or self.arriving is not None or bool(self.waiting)

    def give_up(self, refusal: Refused) -> None:
        """Answer what was accepted with a refusal, at once: the first in full, those behind it by closing."""
        accepted = [self.exchange, *self.waiting, self.arriving]
        self.exchange = self.arriving = None
        self.waiting.clear()
        first = True
        for exchange in accepted:
            if exchange is None or exchange.done:
                continue
            if first:
                exchange.keep_alive = first = False
                exchange.fail(refusal)
            else:
                exchange.unanswered(refusal)
        self.until = monotonic() + LINGER_S
        self.transport.close()

    # -- refusing ---------------------------------------------------------------------------------------

    def maybe_refuse_early(self, exchange: Exchange) -> None:
        """Answer a call that is refused already now, if its body is too large to be worth reading."""
        if self.exchange is not None or self.waiting:
            return  # its turn will come
        headers = exchange.headers
        length = headers.get(b"content-length")
        if length is not None and int(length) <= SMALL_BODY and b"expect" not in headers:
            return
        if length is None and b"transfer-encoding" not in headers:
            return
        self.answer_early(exchange)
        self.start(exchange)

    def answer_early(self, exchange: Exchange) -> None:
        """The answer to a request comes before the whole of its body, which nobody reads any more."""
        exchange.keep_alive = False
        self.arriving = None
        self.lingering = 1
        if exchange.passing and exchange.caller is not None:
            # Most clients send all of a file before they look for an answer; a reset would take it from them.
            self.linger_most = LINGER_UPLOAD
        self.until = inf
        self.exchange = exchange

    def hold_body(self, hold: bool) -> None:
        """Read no more of a body for now, or read on. While we do not read, the client is not slow."""
        if self.left or self.transport.is_closing():
            return
        if hold:
            self.transport.pause_reading()
            self.until = inf
        else:
            self.transport.resume_reading()
            self.until = monotonic() + self.gate.settings.deadlines.client_body_s

    def refuse_unparsed(self, refusal: Refused) -> None:
        """Refuse bytes that never became a request, and listen no more. What came before is answered first."""
        self.fault = None
        self.reading_head = False
        self.lingering = 1
        exchange, self.arriving = self.arriving, None
        if exchange is None:
            last = self.waiting[-1] if self.waiting else self.exchange
            if last is not None and not last.keep_alive:
                return  # the connection ends with that answer, whatever comes behind it
            exchange = Exchange(self.gate, self, b"", self.url[:256], {}, True)
        exchange.keep_alive, exchange.refusal = False, refusal
        exchange.parts.clear()
        if self.exchange is None and not self.waiting and not self.blocked_at:
            self.until = inf
            self.exchange = exchange
            self.start(exchange)
        else:
            self.wait(exchange)

    def close(self) -> None:
        """Close when all has been written, or after a while.

        Closing with unread bytes would reset away our last words, so while more may come we only shut our side.
        """
        deadlines = self.gate.settings.deadlines
        if self.lingering or self.arriving is not None:
            if (arriving := self.arriving) is not None:
                self.arriving = None
                arriving.client_left()
            self.lingering = 1
            self.until = monotonic() + LINGER_S
            if self.transport.can_write_eof():
                self.transport.write_eof()
            return
        self.until = monotonic() + deadlines.client_write_s
        self.transport.close()


def keep(parts: list[bytes], data: bytes) -> None:
    """Add a piece of a body, so that many small pieces cost no more than their bytes."""
    if len(parts) < PARTS:
        parts.append(data)
        return
    if len(parts) == PARTS:
        parts.append(bytearray())  # type: ignore[arg-type]
    parts[PARTS] += data


def shown_certificate(transport: asyncio.BaseTransport) -> tuple[bytes, dict[str, Any]] | None:
    """The client's certificate, which TLS has checked: its SHA-256 and what it says; None without one."""
    layer = transport.get_extra_info("ssl_object")
    if layer is None or not (der := layer.getpeercert(True)):
        return None
    return sha256(der).digest(), layer.getpeercert()


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
