"""A whole gateway for tests: pretend engines, a real worker process under a head's control, and its ledger.

async with start_stack(engine, folder=tmp_path) as stack, await stack.peer() as peer:
    await peer.send(post({"model": "m", "messages": []}))
    answer = await peer.answer()
    [record] = await stack.records(1)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gemstead.gateway.control import (
    Configure,
    Drain,
    Figures,
    Given,
    Listening,
    Report,
    Take,
    ToHead,
    ToWorker,
)
from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.gateway.sharing import environment
from gemstead.ledger import audittable
from gemstead.ledger.audit import AuditRecord
from gemstead.testing.engine import FakeEngine
from gemstead.testing.gateway import _end_with_us
from gemstead.testing.peer import Peer
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.window import Windows

POOL = "m"


@dataclass(slots=True, eq=False)
class Stack:
    """A running gateway worker with its engines."""

    settings: GatewaySettings
    process: asyncio.subprocess.Process = field(repr=False)
    folder: Path
    _writer: asyncio.StreamWriter = field(repr=False)
    host: str = ""
    port: int = 0
    heard: list[ToHead] = field(default_factory=list, repr=False)  # all but figures
    _figures: asyncio.Queue[Figures] = field(default_factory=asyncio.Queue, repr=False)
    _number: int = 0
    sockets_at_start: int = 0
    windows: Windows = field(default_factory=Windows, repr=False)  # counters of limits, as a head keeps them

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ledger_path(self) -> Path:
        return self.folder / "audit.db"

    def log(self) -> str:
        """What the worker wrote to standard error so far."""
        return (self.folder / "worker.log").read_text(errors="replace")

    async def peer(
        self, *, tls: ssl.SSLContext | None = None, receive_bytes: int = 0, within_s: float = 10.0
    ) -> Peer:
        """A new connection to the gateway."""
        return await Peer.connect(
            self.host, self.port, tls=tls, receive_bytes=receive_bytes, within_s=within_s
        )

    def say(self, word: ToWorker) -> None:
        """Say a word of `gateway/control.py` to the worker."""
        self._writer.write(msgspec.json.encode(word) + b"\n")

    def configure(self, **changes: Any) -> None:
        """Reload with these settings changed."""
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.say(Configure(settings=self.settings))

    def behead(self) -> None:
        """Close the control socket: for the worker, its head is dead."""
        self._writer.transport.abort()

    async def figures(self) -> Figures:
        """The worker's own figures, now."""
        self._number += 1
        self.say(Report(number=self._number))
        while True:
            said = await asyncio.wait_for(self._figures.get(), 10.0)
            if said.number == self._number:
                return said

    async def quiet(self, within_s: float = 10.0) -> None:
        """Wait until nothing runs and nothing is booked.

        Raises:
            AssertionError: something still was after `within_s` seconds.
        """
        until = time.monotonic() + within_s
        while True:
            said = await self.figures()
            running = said.snapshot["gemstead_in_flight"]
            busy = [said.in_flight, running]
            if not any(said.in_flight.values()) and not any(map(any, running.values())):
                return
            assert time.monotonic() < until, f"still busy: {busy}"
            await asyncio.sleep(0.02)

    async def records(self, count: int, within_s: float = 10.0) -> list[AuditRecord]:
        """All records of the ledger, once there are `count`; more than that fails.

        Raises:
            AssertionError: there are others than that many.
        """
        until = time.monotonic() + within_s
        while len(found := self._records()) < count and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert len(found) == count, [(record.outcome, record.status, record.reason) for record in found]
        return found

    def sockets(self) -> int:
        """How many sockets the worker has open."""
        count = 0
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(path.readlink()).startswith("socket:")
        return count

    async def sockets_fall_to(self, count: int, within_s: float = 10.0) -> None:
        """Wait until the worker has no more than `count` sockets open.

        Raises:
            AssertionError: it still had more after `within_s` seconds.
        """
        until = time.monotonic() + within_s
        while (found := self.sockets()) > count:
            assert time.monotonic() < until, f"{found} sockets are open, not {count}"
            await asyncio.sleep(0.02)

    def resident_bytes(self) -> int:
        """The worker's resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def drained(self, within_s: float = 10.0) -> int:
        """Have the worker drain; returns its exit status."""
        self.say(Drain())
        return await asyncio.wait_for(self.process.wait(), within_s)

    def _records(self) -> list[AuditRecord]:
        if not self.ledger_path.exists():
            return []
        with contextlib.closing(sqlite3.connect(self.ledger_path, timeout=5)) as connection:
            try:
                rows = connection.execute(f"SELECT {audittable.COLUMNS} FROM audit ORDER BY seq").fetchall()  # noqa: S608
            except sqlite3.OperationalError:  # made, and not yet furnished
                return []
        return [audittable.record(row) for row in rows]

    async def _listen_to(self, reader: asyncio.StreamReader, listening: asyncio.Future[None]) -> None:
        decoder = msgspec.json.Decoder(ToHead)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                match word := decoder.decode(line):
                    case Figures():
                        self._figures.put_nowait(word)
                    case Listening():
                        self.host, self.port = word.host, word.port
                        listening.set_result(None)
                    case Take(batch=batch):
                        grants = self.windows.apply(batch, time.monotonic())
                        self.say(Given(number=batch.number, grants=grants))
                    case _:
                        self.heard.append(word)
        if not listening.done():
            listening.set_exception(RuntimeError(f"the worker does not listen:\n{self.log()}"))


@contextlib.asynccontextmanager
async def start_stack(
    *engines: FakeEngine, folder: Path, endpoints: tuple[EndpointFacts, ...] = (), **settings: Any
) -> AsyncIterator[Stack]:
    """A gateway before `engines` (named a, b, ...; all serve the model "m"). `settings` are its other settings."""
    facts = tuple(engine.facts(chr(97 + place), pool=POOL) for place, engine in enumerate(engines))
    usual: dict[str, Any] = {
        "port": 0,
        "pools": (Pool(name=POOL),),
        "endpoints": facts + endpoints,
        "keys_required": False,
        "ledger_path": str(folder / "audit.db"),
        "hash_key": "11" * 32,
    }
    made = GatewaySettings(**usual | settings)
    ours, theirs = socket.socketpair()
    with (folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gemstead.gateway.worker", "--control-fd", str(theirs.fileno())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, **environment(made.sharing)},
            preexec_fn=_end_with_us(),
        )
    theirs.close()
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=64 << 20)
    stack = Stack(made, process, folder, writer)
    listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    hearing = asyncio.create_task(stack._listen_to(reader, listening))
    stack.say(Configure(settings=made))
    try:
        await asyncio.wait_for(listening, 15.0)
        stack.sockets_at_start = stack.sockets()
        yield stack
    finally:
        await _end(process)
        hearing.cancel()
        writer.transport.abort()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), 2.0)
    except TimeoutError:
        process.kill()
        await process.wait()
