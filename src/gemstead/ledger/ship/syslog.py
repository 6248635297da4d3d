"""Syslog: RFC 5424 messages over TLS with octet counting (RFC 5425).

The protocol has no acknowledgement. A batch counts when the receiver's system has taken all bytes and the connection
still stands a moment later; what was in flight when a connection broke is sent again. So nothing is lost that the
receiver's machine did not lose, and a few records may come twice: `uid` in the structured data tells.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.ship.forms import Shipped, shaped
from gemstead.ledger.ship.sink import Later, SinkSettings, Unwanted
from gemstead.ledger.ship.tls import context

FACILITY = 13  # log audit
_NOTICE, _WARNING = 5, 4
PEN = 32473  # the enterprise number for examples (RFC 5612); structured data needs one


class Syslog:
    """A connection that is made when it is needed and kept."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings
        self.socket: socket.socket | None = None
        self.host = socket.gethostname() or "-"

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        try:
            sock = self._connected()
            sock.sendall(b"".join(framed(self.message(one)) for one in batch))
            self._taken(sock)
        except OSError as error:
            self.close()
            raise Later(f"cannot be reached: {type(error).__name__}") from None
        return []

    def message(self, one: Shipped) -> bytes:
        """The record as an RFC 5424 message."""
        call = isinstance(one.record, AuditRecord)
        ok = one.record.outcome in ("served", "done")
        at = (
            datetime.fromtimestamp(max(one.at, 0.0), UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z")
        )
        data = f'[gemstead@{PEN} uid="{one.uid}" chain="{one.chain}" seq="{one.seq}" form="{self.settings.form}"]'
        priority = FACILITY * 8 + (_NOTICE if ok else _WARNING)
        head = f"<{priority}>1 {at} {self.host} gemstead - {'call' if call else 'act'} {data} "
        return (
            head.encode("ascii", "replace")
            + b"\xef\xbb\xbf"
            + msgspec.json.encode(shaped(one, self.settings.form))
        )

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _connected(self) -> socket.socket:
        if self.socket is not None and not self._gone(self.socket):
            return self.socket
        self.close()
        parts = urlsplit(self.settings.url)
        host, port = parts.hostname or "", parts.port or 6514
        plain = socket.create_connection((host, port), self.settings.timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "tls":
            try:
                self.socket = context(self.settings).wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        else:
            self.socket = plain
        return self.socket

    def _taken(self, sock: socket.socket) -> None:
        """Wait until the other system has acknowledged every byte, and see whether it has hung up."""
        import time

        until = time.monotonic() + self.settings.timeout_s
        while _unsent(sock):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.005)
        if self._gone(sock):
            raise ConnectionResetError

    def _gone(self, sock: socket.socket) -> bool:
        """Whether the receiver has closed. It never says anything else, TLS's own messages apart."""
        if not select.select([sock], [], [], 0)[0]:
            return False
        sock.settimeout(0.0)
        try:
            return sock.recv(1024) == b""
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        finally:
            sock.settimeout(self.settings.timeout_s)


def framed(message: bytes) -> bytes:
    """The message with its length before it (RFC 5425, section 4.3)."""
    return b"%d %s" % (len(message), message)


def _unsent(sock: socket.socket) -> int:
    """Bytes that the other system has not acknowledged (Linux: SIOCOUTQ)."""
    try:
        import fcntl
        import termios

        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0
