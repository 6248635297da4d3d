"""SIGTERM: take no new connections, let what runs end, leave.

llama.cpp's server can only stop at once, cutting its streams. So its listening socket is exchanged under it for
one that nobody can find: new connections are refused by the kernel, those that exist go on.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.1
QUIET_POLLS = 3  # the last bytes of an answer may still be on their way


def close_door(host: str, port: int) -> bool:
    """Refuse new connections to our own listener; whether it was found."""
    for descriptor in _descriptors():
        if _listens(descriptor, port):
            _exchange(descriptor)
            _wake(host, port)
            return True
    return False


def wait_until_idle(busy: Callable[[], int], within_s: float) -> bool:
    """Whether everything ended within the time."""
    end, quiet = time.monotonic() + within_s, 0
    while quiet < QUIET_POLLS:
        if time.monotonic() >= end:
            return False
        quiet = 0 if busy() else quiet + 1
        time.sleep(POLL_S)
    return True


def _descriptors() -> list[int]:
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit() and int(name) > 2)  # noqa: PTH208


def _listens(descriptor: int, port: int) -> bool:
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return False
    with sock:
        try:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            return bool(sock.getsockname()[1] == port)
        except (OSError, IndexError):
            return False


def _exchange(descriptor: int) -> None:
    with tempfile.TemporaryDirectory(prefix="gemstead-") as folder, socket.socket(socket.AF_UNIX) as blind:
        blind.bind(str(Path(folder) / "closed"))
        blind.listen(1)
        os.dup2(blind.fileno(), descriptor)


def _wake(host: str, port: int) -> None:
    """The server waits inside accept() on the old socket: one last connection lets go of it."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        pass
