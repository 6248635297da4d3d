"""A real gateway worker for tests: its own process, told what to serve by a `GatewaySettings`.

    async with FakeEngine() as engine:
        a = engine.facts("a", pool="m")
        settings = GatewaySettings(port=0, pools=(Pool(name="m"),), endpoints=(a,), keys_required=False)
        async with start_worker(settings) as worker:
            ...  # worker.url, worker.pid

The worker is asked to drain when the block ends, and killed when it has not within ten seconds; on Linux the
kernel ends it with us should we be killed ourselves. So a test can leave no process behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from gemstead.gateway.control import Listening
from gemstead.gateway.settings import GatewaySettings
from gemstead.ledger.keys import Grant, open_keys
from gemstead.ledger.secrets import secret_at


@dataclass(slots=True)
class Worker:
    """A running gateway worker."""

    host: str
    port: int
    pid: int
    process: asyncio.subprocess.Process = field(repr=False)
    log_path: Path  # what it wrote to standard error

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def log(self) -> str:
        """What the worker wrote to standard error so far."""
        return _read(self.log_path)

    async def drained(self, within_s: float = 10.0) -> int:
        """Ask the worker to drain; returns its exit status (negative: the signal that ended it)."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), within_s)


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key for tests. `keys_path` and `pepper` go into `GatewaySettings` under the same names."""

    secret: str = field(repr=False)
    key_id: str
    keys_path: str
    pepper: str = field(repr=False)  # hex


@contextlib.asynccontextmanager
async def start_worker(
    settings: GatewaySettings, *, within_s: float = 10.0, env: dict[str, str] | None = None
) -> AsyncIterator[Worker]:
    """A gateway worker that listens; port 0 in `settings` takes a free one.

    Raises:
        RuntimeError: it did not start to listen within `within_s` seconds; with what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="gemstead-test-") as folder:
        settings_path, log_path = _write(settings, Path(folder))
        with _open(log_path) as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gemstead.gateway.worker", "--settings", str(settings_path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=env,
                preexec_fn=_end_with_us(),
            )
        reading: asyncio.Task[None] | None = None
        try:
            heard = await _listening(process, within_s, log_path)
            reading = asyncio.create_task(_read_on(process))
            yield Worker(heard.host, heard.port, heard.pid, process, log_path)
        finally:
            await _end(process)
            if reading is not None:
                await reading


async def _listening(process: asyncio.subprocess.Process, within_s: float, log_path: Path) -> Listening:
    assert process.stdout is not None
    line = b""
    try:
        line = await asyncio.wait_for(process.stdout.readline(), within_s)
        return msgspec.json.decode(line, type=Listening)
    except (TimeoutError, msgspec.DecodeError) as error:
        raise RuntimeError(f"the gateway worker does not listen: {line!r}\n{_read(log_path)}") from error


async def _read_on(process: asyncio.subprocess.Process) -> None:
    """A worker that reports more must never block on a full pipe."""
    assert process.stdout is not None
    while await process.stdout.read(65_536):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), 10.0)
    except TimeoutError:
        process.kill()
        await process.wait()


def _write(settings: GatewaySettings, folder: Path) -> tuple[Path, Path]:
    """The settings as a file that only we can read (they hold secrets), and where the worker's words go."""
    path = folder / "settings.json"
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(settings))
    return path, folder / "worker.log"


def _end_with_us() -> Callable[[], object] | None:
    """What the worker does before it starts: ask the kernel for a SIGKILL when we die."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    pr_set_pdeathsig = 1  # linux/prctl.h
    return lambda: libc.prctl(pr_set_pdeathsig, signal.SIGKILL)


def make_key(folder: Path, grant: Grant | None = None) -> MadeKey:
    """A key in a key store in `folder`, both made at the first use, and what a gateway must know to accept it."""
    pepper = secret_at(folder / "pepper")
    path = folder / "keys.db"
    minted = open_keys(path, pepper).create(grant or Grant(), now=time.time())
    return MadeKey(minted.secret, minted.key.key_id, str(path), pepper.hex())


def _open(path: Path) -> BinaryIO:
    return path.open("wb")


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
