"""Gateway worker processes: N of them, replaced at once when one dies, each at the end of a socket pair.

What is said over the sockets is not our business: lines come and go as bytes. A worker that dies is
replaced at once, and one that keeps dying is replaced with growing pauses, so that a worker that cannot
start does not eat the machine. A worker leaves by itself when its socket reads end-of-file, so none
outlives the head.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from gemstead.engines.lifecycle import Allowance, pause_s
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.process import Leash, Process, launch

LONGEST_LINE = 16 * 1024 * 1024  # bytes; a worker's figures with many tenants are some 100 KiB
STABLE_S = 5.0  # a worker that lived as long is replaced without a pause
PAUSES = Allowance(backoff_s=0.1, backoff_most_s=5.0)


class Worker:
    """One place for a worker; processes come and go in it."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: RotatedLog,
        joined: Callable[[Worker], None],
        said: Callable[[Worker, bytes], None],
        left: Callable[[Worker, str], None],
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        joined: a fresh process is there and has been told nothing yet.
        said: one line from it, without the newline.
        left: it is gone; the sentence says how. Unless it was told to stop, another follows.
        pass_fds: descriptors of ours that each process gets under the same numbers.
        env: variables that it gets besides those that it inherits.
        """
        self.name, self.log = name, log
        self.pid: int | None = None
        self.restarts = -1
        self._argv, self._joined, self._said, self._left = list(argv), joined, said, left
        self._pass_fds, self._env = tuple(pass_fds), env
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stopping = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def stopped(self) -> bool:
        """No process will follow the present one."""
        return self._stopping.is_set()

    def tell(self, line: bytes) -> None:
        """Send one line; nothing happens when no process is there: a fresh one is told everything."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line + b"\n")

    def stop(self) -> None:
        """No process follows this one. Telling it to drain is the caller's business."""
        self._stopping.set()

    def kill(self) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        """Keep a process in this place until `stop`."""
        failures = 0
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self.restarts += 1
                how = await self._live()
                self.log.say(f"{self.name} {how}")
                failures = 0 if time.monotonic() - began >= STABLE_S else failures + 1
                self._left(self, how)
                if failures > 1:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), pause_s(PAUSES, failures - 1))
        finally:
            self.log.close()

    async def _live(self) -> str:
        """One process from start to exit; how it ended, in words."""
        ours, theirs = socket.socketpair()
        try:
            argv = [*self._argv, "--control-fd", str(theirs.fileno())]
            self._process = await launch(
                argv,
                leash=Leash.OTHER,
                output=self.log.write,
                env=self._env,
                pass_fds=[theirs.fileno(), *self._pass_fds],
            )
        except OSError as error:
            ours.close()
            return f"cannot be started: {os.strerror(error.errno or 0)}"
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.log.say(f"{self.name} started, pid {self.pid}")
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        listening = asyncio.create_task(self._listen(reader))
        self._joined(self)
        try:
            code = await self._process.wait()
        except asyncio.CancelledError:
            self._process.kill()
            await self._process.wait()
            raise
        finally:
            await self._hang_up(listening)
        return f"ended by signal {-code}" if code < 0 else f"exited with code {code}"

    async def _hang_up(self, listening: asyncio.Task[None]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(listening, 1.0)  # its last words
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._process, self.pid = None, None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, ValueError):  # ValueError: a line beyond every bound
            while line := await reader.readline():
                self._said(self, line.rstrip(b"\n"))
