"""A server's side of HTTP/1.1 for pretend engines: requests in, bytes out, and when the other side left.

Small and strict rather than complete: keep-alive, pipelining, `Content-Length` and chunked request bodies,
`Expect: 100-continue`. What it adds to a library server is what gateway tests need: the exact bytes of each
request, the moment at which the peer closed its half (also while nothing is being written), and the right to
answer with something that is not HTTP at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Seen:
    """One request as it arrived. Times are the event loop's, in seconds."""

    method: str
    path: str  # with its query
    headers: list[tuple[str, str]]  # in order, names as they were written
    body: bytes
    at: float  # when it was complete
    connection: int  # number of the connection that brought it
    left_at: float | None = None  # when the peer closed before the answer was complete
    answered_at: float | None = None  # when the answer was complete

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case; None when it is absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class BadRequestError(Exception):
    """The peer's bytes are not an HTTP request."""


@dataclass(slots=True)
class _Head:
    method: str
    path: str
    headers: list[tuple[str, str]]
    length: int | None  # None: chunked
    body: bytearray = field(default_factory=bytearray)


class Connection(asyncio.Protocol):
    """One client connection. `serve` is called for each request in turn; it says whether to stay open."""

    def __init__(
        self,
        number: int,
        serve: Callable[[Connection, Seen], Awaitable[bool]],
        on_change: Callable[[Connection], None],
        idle_s: float | None,
    ) -> None:
        self.number = number
        self.open = False
        self.malformed = ""
        self._serve, self._on_change, self._idle_s = serve, on_change, idle_s
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._waiting: deque[Seen] = deque()
        self._current: Seen | None = None
        self._task: asyncio.Task[None] | None = None
        self._can_write = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None

    async def send(self, data: bytes) -> None:
        """Write, and wait while the peer is slow to read."""
        self._transport.write(data)
        await self._can_write.wait()

    def close(self) -> None:
        """Close after what is written has been sent."""
        self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset, as a killed process on a busy machine does."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True
        self._can_write.set()
        self._rest()
        self._on_change(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._stop_resting()
        try:
            while (seen := self._next_request()) is not None:
                self._waiting.append(seen)
        except (BadRequestError, ValueError) as bad:
            self.malformed = str(bad)
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self._transport.close()
            self._on_change(self)
            return
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def eof_received(self) -> bool:
        """A closed half counts as leaving: llama.cpp's server treats it so, and it is the earliest sign."""
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._leave()
        self._stop_resting()
        self._can_write.set()
        self._on_change(self)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                self._current = seen = self._waiting.popleft()
                keep = await self._serve(self, seen)
                seen.answered_at, self._current = loop.time(), None
                self._on_change(self)
                if not keep:
                    self._transport.close()
                    return
            self._rest()
        except asyncio.CancelledError:
            if self._current is None or self._current.left_at is None:
                raise
        finally:
            self._task = None

    def _leave(self) -> None:
        if self._current is not None and self._current.left_at is None:
            self._current.left_at = asyncio.get_running_loop().time()
            if self._task is not None:
                self._task.cancel()
            self._on_change(self)

    def _rest(self) -> None:
        if self._idle_s is not None and self.open:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_s, self._transport.close)

    def _stop_resting(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _next_request(self) -> Seen | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if any(k.lower() == "expect" and v.lower() == "100-continue" for k, v in self._head.headers):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = self._head
        if not (self._take_chunks(head) if head.length is None else self._take_length(head, head.length)):
            return None
        self._head = None
        at = asyncio.get_running_loop().time()
        return Seen(head.method, head.path, head.headers, bytes(head.body), at, self.number)

    def _take_length(self, head: _Head, length: int) -> bool:
        if len(self._buffer) < length:
            return False
        head.body = self._buffer[:length]
        del self._buffer[:length]
        return True

    def _take_chunks(self, head: _Head) -> bool:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end].split(b";")[0], 16)
            if size == 0:
                return self._take_trailers(end)
            if len(self._buffer) < end + 2 + size + 2:
                return False
            if self._buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise BadRequestError("a chunk does not end where it says")
            head.body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 4 + size]
        return False

    def _take_trailers(self, end: int) -> bool:
        last = self._buffer.find(b"\r\n\r\n", end)
        if last < 0:
            return False
        del self._buffer[: last + 4]
        return True


def _parse_head(raw: bytes) -> _Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequestError(f"not a request line: {first[:80]!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(f"not a header: {line[:80]!r}")
        headers.append((name, value.strip()))
    lengths = {value for name, value in headers if name.lower() == "content-length"}
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    if len(lengths) > 1 or (lengths and codings) or codings not in ([], ["chunked"]):
        raise BadRequestError("ambiguous framing")
    length = None if codings else int(lengths.pop()) if lengths else 0
    return _Head(parts[0], parts[1], headers, length)
