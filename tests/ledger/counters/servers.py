"""Real servers for tests: Redis and PostgreSQL on free ports of this machine, in folders of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(done: Callable[[], bool], what: str, within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server that can be ended hard, and started again with what it had kept."""

    def __init__(self, argv: list[str], port: int, url: str, user: str = "") -> None:
        self.argv, self.port, self.url, self.user = argv, port, url, user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        who = {"user": self.user, "group": self.user} if self.user else {}
        self.process = subprocess.Popen(
            self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **who
        )
        until(lambda: answers(self.port), f"{self.argv[0]} does not answer")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=START_S)
            self.process = None


@contextmanager
def redis_server(*options: str) -> Iterator[Server]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        argv = [shutil.which("redis-server") or "redis-server", "--port", str(port), "--bind", "127.0.0.1"]
        argv += ["--dir", folder, "--save", "", "--appendonly", "yes", "--appendfsync", "always", *options]
        server = Server(argv, port, f"redis://127.0.0.1:{port}/0")
        server.start()
        try:
            yield server
        finally:
            server.kill()


def postgres_bin() -> Path | None:
    """The folder of `postgres` and `initdb`, which Debian does not put on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).parent if there else None


@contextmanager
def postgres_server() -> Iterator[Server]:
    """PostgreSQL will not run as root, so root runs it as another user."""
    folder, port = Path(tempfile.mkdtemp()), free_port()
    binaries = postgres_bin()
    assert binaries is not None
    user = ""
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
        shutil.chown(folder, user)
    who = {"user": user, "group": pwd.getpwnam(user).pw_gid} if user else {}
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-A", "trust", "-U", "gemstead", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd="/", **who,
    )  # fmt: skip
    argv = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        str(folder),
        *("-c", "fsync=off"),  # a killed server loses nothing by it, only a machine would
    ]
    server = Server(argv, port, f"postgresql://gemstead@127.0.0.1:{port}/postgres", user)
    server.start()
    try:
        yield server
    finally:
        server.kill(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
