"""A TCP proxy that misbehaves on purpose, between a gateway and an engine: what networks and hosts do to connections.

    async with FaultProxy(engine.host, engine.port) as proxy:
        facts = replace(engine.facts("a", pool="m"), port=proxy.port)
        proxy.fault = Fault(latency_s=0.2)

It passes bytes on unread, both ways, under the `fault` that holds when a connection is made; `cut` ends those that are
there. A fault that counts bytes counts those of the engine's answers on one connection. It decides nothing by chance,
so a test that fails does so again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Self

PIECE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done to a connection. The default does nothing. Seconds and bytes."""

    refuse: bool = False  # it is closed as soon as it is made
    latency_s: float = 0.0  # before each piece of an answer
    bytes_per_s: float = 0.0  # an answer comes no faster; 0: as it comes
    reset_after: int | None = None  # bytes of the answer, then a TCP reset
    half_close_after: int | None = None  # then the answer's side is closed, the request's stays open
    blackhole_after: int | None = None  # then nothing more comes, and nothing is closed
    corrupt_at: int | None = None  # the byte at this place of the answer is turned over


class FaultProxy:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self, host: str, port: int, fault: Fault = Fault()) -> None:
        self.to = (host, port)
        self.fault = fault
        self.port = 0
        self.connections = 0  # that were made, ever
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection that there is, as a host that loses power and comes back does."""
        for writer in tuple(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault = self.fault
        if fault.refuse:
            _reset(writer)
            return
        try:
            back, forth = await asyncio.open_connection(*self.to)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, forth}
        out = asyncio.create_task(_pass(reader, forth))
        home = asyncio.create_task(_answer(back, writer, fault))
        self._tasks |= {out, home}
        await asyncio.wait({out, home}, return_when=asyncio.FIRST_COMPLETED)
        if out.done():  # the gateway has closed: what is still coming is for nobody
            home.cancel()
            _reset(forth)
        await asyncio.gather(out, home, return_exceptions=True)
        for end in (writer, forth):
            self._writers.discard(end)
            with contextlib.suppress(OSError, RuntimeError):
                end.close()
        self._tasks -= {out, home}


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    """Pass an answer on under the fault."""
    sent = 0
    ends = [
        end for end in (fault.reset_after, fault.half_close_after, fault.blackhole_after) if end is not None
    ]
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            if fault.latency_s:
                await asyncio.sleep(fault.latency_s)
            if fault.corrupt_at is not None and sent <= fault.corrupt_at < sent + len(data):
                place = fault.corrupt_at - sent
                data = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
            if ends:
                data = data[: max(min(ends) - sent, 0)]
            sent += len(data)
            await _write(writer, data, fault.bytes_per_s)
            if ends and sent >= min(ends):
                await _end(reader, writer, fault)
                return
        writer.write_eof()


async def _write(writer: asyncio.StreamWriter, data: bytes, bytes_per_s: float) -> None:
    step = max(1, int(bytes_per_s * 0.02)) if bytes_per_s else max(len(data), 1)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
        await writer.drain()
        if bytes_per_s:
            await asyncio.sleep(step / bytes_per_s)


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    if fault.reset_after is not None:
        _reset(writer)
    elif fault.half_close_after is not None:
        writer.write_eof()
    while await reader.read(PIECE):  # the engine goes on speaking to nobody
        pass
    if fault.blackhole_after is not None:
        await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
