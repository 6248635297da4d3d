"""The sockets of a picker: where it listens, its TLS, and one `Door` for each connection of a gateway."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gemstead.gateway.epp.link import Link

HIGH: Final = 1 << 20  # bytes that wait in the socket until streams have to
CROWDED: Final = 8 << 20  # that wait there although nobody reads: pings and settings without end
GREETS_S: Final = 10.0  # until a connection has said that it speaks HTTP/2
ALIVE_S: Final = 60  # of silence, after which the kernel asks whether the peer is still there
Pem = tuple[bytes, bytes]  # private key, certificate chain
log = logging.getLogger(__name__)


class Door(asyncio.Protocol):
    """One connection: what its `Link` says goes out, what comes in goes to it."""

    def __init__(self, make: Callable[[Callable[[], None]], Link], doors: set[Door]) -> None:
        self.link = make(self.flush)
        self.gone = asyncio.Event()
        self._doors = doors
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._doors.add(self)
        transport.set_write_buffer_limits(HIGH)
        _stay_alive(transport.get_extra_info("socket"))
        asyncio.get_running_loop().call_later(GREETS_S, self._greeted)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.link.receive(data)
        self.flush()
        transport = self._transport
        if self.link.full and transport is not None and transport.get_write_buffer_size() > CROWDED:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._doors.discard(self)
        self.gone.set()
        self.link.lost()

    def pause_writing(self) -> None:
        self.link.full = True

    def resume_writing(self) -> None:
        self.link.full = False
        self.link.push_all()
        self.flush()

    def flush(self) -> None:
        """Send what was said."""
        out, transport = self.link.out, self._transport
        if transport is None:
            return
        if out:
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self.link.closed:
            transport.close()

    def close(self) -> None:
        """Close it when all of what was said is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _greeted(self) -> None:
        if not self.link.greeted:
            self.abort()


def _stay_alive(sock: Any) -> None:
    """A gateway whose machine has died says nothing: its streams' charges must come back all the same."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def listening(listen: str) -> socket.socket:
    """A socket that listens on `host:port`; without a host on every interface.

    Raises:
        OSError: the address is taken, or not ours.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", int(port)), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=1024)
    except OSError as error:
        raise OSError(
            f"cannot listen on {listen} ({error.strerror or error}): "
            "is the port taken, or the address not this machine's?"
        ) from error


def tls_by(pem: Callable[[], Pem]) -> ssl.SSLContext:
    """TLS with the key and certificate that `pem` returns at each handshake; while it cannot, with the last ones.

    Raises:
        OSError, ssl.SSLError: the first ones are none.
    """
    known: Pem = pem()
    current = _context(known)

    def renew(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal known, current
        try:
            if (now := pem()) != known:
                current, known = _context(now), now
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            log.warning("the certificate cannot be read, the last one stays: %s", error)
        tls.context = current

    first = _context(known)
    first.sni_callback = renew
    return first


def _context(pem: Pem) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    key, chain = pem
    if hasattr(os, "memfd_create"):  # a key is not written to a disk, and there may be none to write to
        with os.fdopen(os.memfd_create("key", os.MFD_CLOEXEC), "wb") as file:
            file.write(key + b"\n" + chain)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        path.touch(0o600)
        path.write_bytes(key + b"\n" + chain)
        context.load_cert_chain(path)
    return context
