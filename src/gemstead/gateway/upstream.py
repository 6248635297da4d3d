"""Towards the engines: connections that are kept, requests out, answers followed as they come.

An `UpstreamConnection` carries one exchange at a time. It reads an answer's head strictly, then follows its
framing without rebuilding it: what it hands on are whole chunks exactly as the engine sent them, beside their
payload for counting. A chunk that is cut between two reads is held back until it is whole (up to `HELD_MOST`),
so that an error event can always be put after what a client has already got.

A connection goes back to its `Line` (the idle connections of one endpoint) only after a whole answer with
nothing behind it. Idle ones are dropped before the engine's own keep-alive ends, since a request sent into a
connection that the engine is closing is lost.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from gemstead.engines import ENGINES
from gemstead.gateway.trust import Trust
from gemstead.openai.dialect import Dialect
from gemstead.traffic.endpoint import EndpointFacts

if TYPE_CHECKING:
    from gemstead.gateway.exchange import Exchange

STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n").match
CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})(?:[ \t]*;[^\r\n]{0,256})?\r\n").match
HEAD_MOST: Final = 65_536
CHUNK_HEAD_MOST: Final = 300
HELD_MOST: Final = 65_536
READ_HIGH: Final = 262_144

HEAD, LENGTH, CHUNKED, TRAILERS, TO_END, IDLE = range(6)


class UpstreamConnection:  # an asyncio.Protocol in all but name: a plain class can be compiled
    __slots__ = ("exchange", "held", "idle_since", "keep", "left", "line", "lost", "state", "transport")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.state = IDLE
        self.held = b""
        self.left = 0  # bytes of the body, or of the chunk with its line end, still to come
        self.keep = True
        self.lost = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=READ_HIGH)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self.line.forget(self)
        elif self.state == TO_END and exc is None:
            exchange.upstream_done(self)
        else:
            # Closed under us before a word of the answer: the engine may never have seen this request.
            stale = self.state == HEAD and not self.held and self.idle_since > 0.0
            why = "the engine closed the connection" if exc is None else str(exc)
            exchange.upstream_lost(self, why, stale=stale)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_blocked()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_took()

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Give this idle connection to an exchange and write its request."""
        self.exchange = exchange
        self.state = HEAD
        self.held = b""
        self.left = 0
        if len(body) < 16_384:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def drop(self) -> None:
        """Close at once: the engine sees it and stops generating."""
        self.exchange = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # an engine that speaks unasked is not to be trusted with the next request
            self.transport.abort()
            return
        try:
            if self.state == CHUNKED:
                self.chunks(exchange, data)
            elif self.state == HEAD:
                self.head(exchange, data)
            else:
                self.plain(exchange, data)
        except BadAnswer as bad:
            self.drop()
            exchange.upstream_lost(self, str(bad))
        except Exception as error:  # a fault of ours must not leave a client waiting
            self.drop()
            exchange.gate.broken(exchange, error)

    def head(self, exchange: Exchange, data: bytes) -> None:
        if self.held:
            data = self.held + data
            self.held = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > HEAD_MOST:
                    raise BadAnswer("the engine's answer has headers without end")
                self.held = data
                return
            status, headers, length, keep = read_head(data[: end + 4])
            rest = data[end + 4 :]
            if status >= 200:
                break
            data = rest  # an interim answer
        if (
            status == 200
            and 0 < length == len(rest)
            and keep
            and not self.transport.get_write_buffer_size()
            and exchange.wants_whole()
        ):
            self.exchange, self.state = None, IDLE
            self.line.give(self)
            exchange.upstream_whole(headers.get(b"content-type", b"application/json"), rest)
            return
        if length == -1:
            self.state = CHUNKED
        elif length == -2:
            self.state = TO_END
        else:
            self.state, self.left = LENGTH, length
        if not keep:
            self.keep = False
        exchange.upstream_head(self, status, headers, length)
        if self.exchange is None:
            return
        exchange = self.exchange  # another one may have carried it on (apart.py)
        if length == 0:
            if rest:
                raise BadAnswer("the engine sent more than it announced")
            self.done(exchange)
        elif rest:
            (self.chunks if length == -1 else self.plain)(exchange, rest)

    def plain(self, exchange: Exchange, data: bytes) -> None:
        """A body with a length, or one that ends with the connection."""
        if self.state == TO_END:
            exchange.upstream_body(data, data)
            return
        if self.state == TRAILERS:
            self.trailers(exchange, self.held + data)
            return
        self.left -= len(data)
        if self.left < 0:
            raise BadAnswer("the engine sent more than it announced")
        exchange.upstream_body(data, data)
        if self.left == 0 and self.exchange is exchange:
            self.done(exchange)

    def chunks(self, exchange: Exchange, data: bytes) -> None:
        """Follow chunk framing; hand on whole chunks as they came, with their payload."""
        if self.held:
            data = self.held + data
            self.held = b""
        size = len(data)
        if self.left == 0 and (match := CHUNK_HEAD(data)) is not None:
            # The usual read: exactly one chunk.
            start = match.end()
            if (length := int(match[1], 16)) and start + length + 2 == size:
                if data[-2:] != b"\r\n":
                    raise BadAnswer("the engine's chunk does not end where it said")
                exchange.upstream_body(data, data[start:-2])
                return
        self.many_chunks(exchange, data, size)

    def many_chunks(self, exchange: Exchange, data: bytes, size: int) -> None:
        at = whole = 0
        payload: list[bytes] = []
        ended = False
        if self.left:  # inside a chunk that was too large to hold back
            at = whole = self.rest_of_chunk(data, size, payload)
        while at < size:
            match = CHUNK_HEAD(data, at)
            if match is None:
                if size - at > CHUNK_HEAD_MOST or not may_grow(data[at:]):
                    raise BadAnswer("the engine's chunk framing is broken")
                break
            length, start = int(match[1], 16), match.end()
            if length == 0:
                ended = True
                whole, at = at, start
                break
            after = start + length + 2
            if after > size:
                if size - at > HELD_MOST:
                    exchange.reframe()
                    self.left = after - start
                    self.rest_of_chunk(data[start:], size - start, payload)
                    at = whole = size
                break
            if data[after - 2 : after] != b"\r\n":
                raise BadAnswer("the engine's chunk does not end where it said")
            payload.append(data[start : after - 2])
            at = whole = after
        if body := b"".join(payload):
            exchange.upstream_body(data if whole == size else data[:whole], body)
            if self.exchange is not exchange:
                return
        if ended:
            self.state = TRAILERS
            self.trailers(exchange, data[at:])
        elif whole < size:
            self.held = data[whole:]

    def rest_of_chunk(self, data: bytes, size: int, payload: list[bytes]) -> int:
        """Take what `data` has of the chunk that is open; returns how many bytes that is."""
        step, body = min(self.left, size), max(self.left - 2, 0)
        if step > body and data[body:step] != b"\r\n"[2 - min(self.left, 2) :][: step - body]:
            raise BadAnswer("the engine's chunk does not end where it said")
        payload.append(data[: min(step, body)])
        self.left -= step
        return step

    def trailers(self, exchange: Exchange, data: bytes) -> None:
        """The end of a chunked body: an empty line, perhaps behind trailers, which stop here."""
        if data == b"\r\n" or (data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1):
            self.done(exchange)
        elif len(data) > HEAD_MOST or (data.startswith(b"\r\n") and len(data) > 2):
            raise BadAnswer("the engine sent more than its answer")
        else:
            self.held = data

    def done(self, exchange: Exchange) -> None:
        self.exchange = None
        self.state = IDLE
        self.held = b""
        # An engine that answers before it has read the whole request leaves the connection in doubt.
        if self.keep and not self.transport.get_write_buffer_size():
            self.line.give(self)
        else:
            self.transport.abort()
        exchange.upstream_done(self)


class BadAnswer(Exception):
    """An engine's answer is not HTTP/1.1 that we are willing to follow."""


def may_grow(tail: bytes) -> bool:
    """Whether a cut chunk head could still become one."""
    line = tail.rstrip(b"\r")
    return not line or CHUNK_HEAD(line.split(b";", 1)[0].rstrip() + b"\r\n") is not None


@lru_cache(maxsize=512)
def read_head(head: bytes) -> tuple[int, dict[bytes, bytes], int, bool]:
    """Status, headers, framing and whether the connection may be kept. Remembered: an engine's heads repeat.

    Raises:
        BadAnswer: for anything ambiguous.
    """
    status, headers = parse_head(head)
    keep = b"close" not in headers.get(b"connection", b"").lower() and not head.startswith(b"HTTP/1.0")
    return status, headers, framing(status, headers), keep


def parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers (names in lower case) of an answer.

    Raises:
        BadAnswer: for anything ambiguous; an answer is never repaired.
    """
    match = STATUS_LINE(head)
    if match is None:
        raise BadAnswer("the engine did not answer in HTTP/1.1")
    if head.count(b"\n") != (lines := head.count(b"\r\n")) or head.count(b"\r") != lines:
        raise BadAnswer("the engine's answer has a broken line end")
    headers: dict[bytes, bytes] = {}
    for line in head[match.end() : -4].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            if line:
                raise BadAnswer("the engine's answer has a broken header")
            continue
        name = name.lower()
        if not name or name != name.strip():
            raise BadAnswer("the engine's answer has a broken header")
        if name in headers and name in (b"content-length", b"transfer-encoding"):
            raise BadAnswer("the engine's answer has two lengths")
        headers[name] = value.strip()
    return int(match[1]), headers


def framing(status: int, headers: dict[bytes, bytes]) -> int:
    """How an answer's body ends: its length in bytes, -1 for chunked, -2 for the end of the connection."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked":
            raise BadAnswer("the engine's answer has an unclear length")
        return -1
    if status in (204, 304):
        return 0
    if length is None:
        return -2
    if not length.isdigit():
        raise BadAnswer("the engine's answer has an unclear length")
    return int(length)


def dialect_of(engine: str) -> Dialect | None:
    """How an engine departs from what callers see; None: not at all, or nobody knows the engine."""
    adapter = ENGINES.get(engine)
    dialect: Dialect | None = None if adapter is None else adapter.DIALECT
    return None if dialect is None or dialect.plain else dialect


class Line:
    """The connections to one endpoint."""

    __slots__ = ("context", "dialect", "facts", "idle", "idle_s", "most", "post", "prefix", "rest", "trust")

    def __init__(self, facts: EndpointFacts, idle_s: float, most: int) -> None:
        self.facts = facts
        self.dialect = dialect_of(facts.engine)
        self.idle: deque[UpstreamConnection] = deque()  # the freshest at the right
        self.idle_s = idle_s
        self.most = most
        self.trust = Trust(facts.tls_files) if facts.tls and facts.tls_files is not None else None
        self.context = ssl.create_default_context() if facts.tls and self.trust is None else None
        host = f"[{facts.host}]" if ":" in facts.host else facts.host
        secret = f"authorization: Bearer {facts.api_key}\r\n" if facts.api_key else ""
        self.prefix = (
            f"host: {host}:{facts.port}\r\ncontent-type: application/json\r\naccept-encoding: identity\r\n{secret}"
        ).encode("latin-1")
        # What a call's head is made of: `post`, the path, `rest`, the length, and what differs from call to call.
        self.post = b""
        self.rest = b" HTTP/1.1\r\n" + self.prefix + b"content-length: "
        self.serves(facts)

    def serves(self, facts: EndpointFacts) -> None:
        """The endpoint's facts are these from now on; its door is the same."""
        self.facts = facts
        self.post = b"POST " + facts.base_path.encode()

    def same_door(self, facts: EndpointFacts) -> bool:
        """Whether `facts` can be reached over this line's connections."""
        mine = self.facts
        if (mine.tls, mine.tls_name, mine.tls_files) != (facts.tls, facts.tls_name, facts.tls_files):
            return False
        return (mine.host, mine.port, mine.api_key) == (facts.host, facts.port, facts.api_key)

    def take(self) -> UpstreamConnection | None:
        """An idle connection that is fresh enough, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.lost and monotonic() - connection.idle_since < self.idle_s:
                return connection
            if not connection.lost:
                connection.transport.close()
        return None

    def give(self, connection: UpstreamConnection) -> None:
        if connection.lost or len(self.idle) >= self.most or connection.transport.is_closing():
            connection.transport.close()
            return
        connection.idle_since = monotonic()
        connection.transport.resume_reading()
        self.idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        try:
            self.idle.remove(connection)
        except ValueError:
            pass

    def sweep(self, now: float) -> None:
        """Close what has idled too long."""
        while self.idle and now - self.idle[0].idle_since >= self.idle_s:
            self.idle.popleft().transport.close()

    def close(self) -> None:
        """Keep no connection from now on; those in use end with their answers."""
        self.most = 0
        self.purge()

    def purge(self) -> None:
        """Close what is idle: after a stale connection the others are likely stale too."""
        while self.idle:
            self.idle.pop().transport.close()

    async def connect(self, timeout_s: float) -> UpstreamConnection:
        """A new connection.

        Raises:
            OSError, TimeoutError: the engine cannot be reached.
        """
        loop, facts = asyncio.get_running_loop(), self.facts
        context = self.context if self.trust is None else self.trust.context()
        name = None if context is None else facts.tls_name or facts.host
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(  # type: ignore[type-var]
                lambda: UpstreamConnection(self), facts.host, facts.port, ssl=context, server_hostname=name
            )
        return connection
