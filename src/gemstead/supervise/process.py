"""One child process: started so that it cannot outlive us, its output kept, its end noticed.

Every child leads its own session, so a Ctrl-C in the terminal reaches only the head, which decides. It also
gets one end of something we hold open: a pipe (its *leash*), or a socket it already has. When the head
dies, even by `kill -9`, the kernel closes our end and the child ends itself. After a child's exit the rest
of its process group is swept away, so what an engine started itself goes too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum

OUTPUT_CHUNK = 65_536
LAST_WORDS_S = 1.0  # after its exit, what a child wrote may still be on the way


class Leash(Enum):
    """How a child notices that we are gone."""

    WATCHED = "watched"  # it takes `--leash-fd N` and watches it
    WRAPPED = "wrapped"  # it knows nothing of us: `supervise/leash.py` watches for it
    OTHER = "other"  # it holds something else of ours (a control socket)


class Process:
    """A running child. Made by `launch`."""

    def __init__(self, child: asyncio.subprocess.Process, leash: int | None, output: Output) -> None:
        self._child, self._leash, self._output = child, leash, output
        self.pid = child.pid

    @property
    def running(self) -> bool:
        return self._child.returncode is None

    def terminate(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self._child.terminate()

    def kill(self) -> None:
        """End it and everything in its process group, now."""
        self._sweep()

    async def wait(self) -> int:
        """Its exit code once it is gone; negative for a signal. All it printed has been kept by then."""
        code = await self._child.wait()
        self._sweep()
        await self._output.finish()
        self._let_go()
        return code

    def _sweep(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, signal.SIGKILL)

    def _let_go(self) -> None:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None


class Output:
    """The read end of a child's stdout and stderr, emptied as it fills."""

    def __init__(self, descriptor: int, keep: Callable[[bytes], None]) -> None:
        self._descriptor, self._keep = descriptor, keep
        self._ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, OUTPUT_CHUNK)
        except BlockingIOError:
            return
        if data:
            self._keep(data)
        else:
            self._close()

    async def finish(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), LAST_WORDS_S)
        self._close()

    def _close(self) -> None:
        if not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended.set()


async def launch(
    argv: Sequence[str],
    *,
    leash: Leash,
    output: Callable[[bytes], None],
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a child. `env` is added to our environment; `output` gets what it prints, in pieces.

    Raises:
        OSError: the program cannot be started.
    """
    theirs, ours = os.pipe() if leash is not Leash.OTHER else (None, None)
    read, write = os.pipe()
    command = _leashed(argv, leash, theirs)
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env={**os.environ, **(env or {})},
            pass_fds=(*pass_fds, *(() if theirs is None else (theirs,))),
            start_new_session=True,
        )
    except BaseException:
        os.close(read)
        if ours is not None:
            os.close(ours)
        raise
    finally:
        os.close(write)
        if theirs is not None:
            os.close(theirs)
    return Process(child, ours, Output(read, output))


def _leashed(argv: Sequence[str], leash: Leash, descriptor: int | None) -> list[str]:
    if leash is Leash.WATCHED:
        return [*argv, "--leash-fd", str(descriptor)]
    if leash is Leash.WRAPPED:
        return [sys.executable, "-m", "gemstead.supervise.leash", "--fd", str(descriptor), "--", *argv]
    return list(argv)
