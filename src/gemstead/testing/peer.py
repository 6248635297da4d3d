"""A client that speaks bytes: what a test sends is exactly what arrives, and answers are read strictly.

A library client would repair, retry and hide; here a wrong length, a missing chunk or a word too many is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(slots=True)
class Answer:
    """One answer as it came. `chunks` are the pieces of a chunked body; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)  # statuses of the 1xx answers before it

    @property
    def fields(self) -> dict[str, Any]:
        """The body as JSON."""
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded


class Peer:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, within_s: float) -> None:
        self.reader, self.writer, self.within_s = reader, writer, within_s

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        receive_bytes: int = 0,
        within_s: float = 10.0,
    ) -> Self:
        """A new connection; `receive_bytes` makes the kernel's buffer for what comes so small.

        `within_s` bounds every later wait, too.
        """
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        name = host if tls is not None else None
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=1 << 20), within_s
        )
        return cls(reader, writer, within_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    async def send(self, *pieces: bytes) -> None:
        """Write each piece by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.wait_for(self.writer.drain(), self.within_s)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next whole answer. `to_head`: it answers a HEAD request and has no body.

        Raises:
            EOFError: the connection ended before the answer did.
            ValueError: these are not the bytes of an HTTP/1.1 answer.
            TimeoutError: nothing came in time.
        """
        async with asyncio.timeout(self.within_s):
            return await self._answer(to_head)

    async def head(self) -> Answer:
        """The next answer's head; its body is for `event` or `rest`."""
        async with asyncio.timeout(self.within_s):
            return await self._head()

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end.

        Raises:
            EOFError, ValueError, TimeoutError: as `answer`.
        """
        async with asyncio.timeout(self.within_s):
            return await self._chunk()

    async def rest(self) -> bytes:
        """All that still comes until the server closes its side."""
        async with asyncio.timeout(self.within_s):
            return await self.reader.read()

    async def closed(self) -> bool:
        """Whether the server closes without another word (a reset counts)."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def shut(self) -> None:
        """Close our sending side only."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close both sides; does not wait."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a TCP reset, as a process that dies does."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _answer(self, to_head: bool) -> Answer:
        answer = await self._head()
        if to_head or answer.status in (204, 304):
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while chunk := await self._chunk():
                answer.chunks.append(chunk)
            answer.body = b"".join(answer.chunks)
        elif (length := answer.headers.get("content-length")) is not None:
            answer.body = await self.reader.readexactly(int(length))
        else:
            answer.body = await self.reader.read()
        return answer

    async def _head(self) -> Answer:
        interim: list[int] = []
        while True:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            version, _, rest = lines[0].partition(" ")
            if version != "HTTP/1.1" or not rest[:3].isdigit():
                raise ValueError(f"not a status line: {lines[0]!r}")
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, colon, value = line.partition(": ")
                if not colon or name.lower() in headers:
                    raise ValueError(f"not a header, or one too many: {line!r}")
                headers[name.lower()] = value
            if (status := int(rest[:3])) >= 200:
                return Answer(status, headers, interim=interim)
            interim.append(status)

    async def _chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
        data = await self.reader.readexactly(size + 2)
        if data[size:] != b"\r\n":
            raise ValueError("a chunk does not end where it says")
        return data[:size]


def post(
    fields: object,
    path: str = "/v1/chat/completions",
    *,
    headers: tuple[str, ...] = (),
    host: str = "gateway.test",
) -> bytes:
    """The bytes of a POST request; `fields` is the body, or what becomes JSON."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, *sizes: int) -> bytes:
    """A chunked body whose first chunks have these sizes; the last chunk holds the rest."""
    out, at = [], 0
    for size in [*sizes, len(body)]:
        if piece := body[at : at + size]:
            out.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += size
    return b"".join([*out, b"0\r\n\r\n"])


def events(body: bytes) -> list[bytes]:
    """The events of a server-sent stream, comments left out; each without its blank line.

    Raises:
        ValueError: the last event is cut.
    """
    body = body.replace(b"\r\n", b"\n")
    if body and not body.endswith(b"\n\n"):
        raise ValueError(f"the stream ends inside an event: {body[-80:]!r}")
    return [event for event in body.split(b"\n\n") if event and not event.startswith(b":")]
