"""Addresses: read from the file, held before anything else is done, and said in words when they cannot be had.

The gateway's workers share one address with SO_REUSEPORT, which any program of the same user could join. So
it is first asked for alone, and then held for the life of the service by sockets that are bound and never
listen.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gemstead.spec.model import Spec
from gemstead.wiring.secrets import CannotRun

NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # IPv6 may be switched off


def split(listen: str) -> tuple[str, int]:
    """`host:port` as host and port; the host of `:4367` is "" (every interface)."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def gateway_address(spec: Spec, environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port that callers use; under Vertex AI the port is the one that Vertex says to the container.

    Raises:
        CannotRun: `AIP_HTTP_PORT` is no port.
    """
    host, port = split(spec.gateway.listen)
    said = environ.get("AIP_HTTP_PORT", "") if spec.gateway.vertex else ""
    if not said:
        return host, port
    if not said.isdecimal() or not 0 < int(said) < 1 << 16:
        raise CannotRun(f"AIP_HTTP_PORT: `{said[:16]}` is no port")
    return host, int(said)


def base_url(scheme: str, host: str, port: int) -> str:
    """The address to call from this machine."""
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"{scheme}://{f'[{here}]' if ':' in here and not here.startswith('[') else here}:{port}"


def is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def warnings(spec: Spec) -> tuple[str, ...]:
    """What a user should know before the service listens."""
    found = []
    gateway, admin = split(spec.gateway.listen)[0], split(spec.admin.listen)[0]
    if not is_loopback(gateway):
        if spec.gateway.keys == "off":
            found.append(f"anyone who reaches {spec.gateway.listen} can use the model: gateway.keys is off")
        if spec.gateway.tls is None:
            found.append(
                f"{spec.gateway.listen} is reachable from outside without TLS: keys and texts can be read"
            )
    if not is_loopback(admin):
        found.append(f"metrics on {spec.admin.listen} are readable from outside")
    return tuple(found)


def reserve(host: str, port: int) -> list[socket.socket]:
    """Hold an address for the workers: sockets that are bound and never listen. Port 0 becomes a free one.

    Raises:
        OSError: somebody else has it, or it is not an address of this machine.
    """
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    held: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(infos):
            where = (address[0], held[0].getsockname()[1] if held else address[1], *address[2:])
            try:
                with _bound(family, where, socket.SO_REUSEADDR) as alone:
                    where = alone.getsockname()
                held.append(_kept(family, where))
            except OSError as error:
                if host or error.errno not in NO_SUCH_FAMILY:  # "" is every interface that there is
                    raise
        if not held:
            raise OSError(errno.EADDRNOTAVAIL, "no interface to listen on")
    except BaseException:
        for sock in held:
            sock.close()
        raise
    return held


def _kept(family: int, address: tuple[object, ...]) -> socket.socket:
    """Without SO_REUSEADDR, so that nobody else can have it either; unless closed connections of another
    program linger on the port (TIME_WAIT, a minute)."""
    try:
        return _bound(family, address, socket.SO_REUSEPORT)
    except OSError:
        return _bound(family, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def _bound(family: int, address: tuple[object, ...], *options: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def named(field: str, host: str, port: int) -> Iterator[None]:
    """An address that cannot be had becomes a sentence that says what to change."""
    try:
        yield
    except OSError as error:
        raise CannotRun(
            f"cannot listen on {host or '*'}:{port}: {_reason(error)}; choose another address with "
            f"--set {field}=HOST:PORT (`--set {field}={host}:0` takes a free port)"
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    return {
        errno.EADDRINUSE: "another program has this port",
        errno.EACCES: "this user may not open it (ports below 1024 need more rights)",
        errno.EADDRNOTAVAIL: "it is not an address of this machine",
    }.get(error.errno or 0, error.strerror or str(error))


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens on the address.

    Raises:
        OSError: it cannot be had.
    """
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, proto, _, address = infos[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock
