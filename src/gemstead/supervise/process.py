"""One child process: started so that it cannot outlive us, its output kept, its end noticed.

Every child leads its own session, so a Ctrl-C in the terminal reaches only the head, which decides. It also
gets one end of something we hold open: a pipe (its *leash*), or a socket it already has. When the head
dies, even by `kill -9`, the kernel closes our end and the child ends itself. After a child's exit the rest
of its process group is swept away, so what an engine started itself goes too.

An engine in a container is no child of ours: its client is. So the container, which has a name, is removed by that
name: before a start (one that a power cut left), after every end, and by the leash when we are gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from gemstead.engines.container import removal
from gemstead.supervise.bounds import Bounds

OUTPUT_CHUNK = 65_536
LEASH = str(Path(__file__).with_name("leash.py"))
REMOVAL_S = 20.0  # for a container tool to remove a container
LAST_WORDS_S = 1.0  # after its exit, what a child wrote may still be on the way


class Leash(Enum):
    """How a child notices that we are gone."""

    WATCHED = "watched"  # it takes `--leash-fd N` and watches it
    WRAPPED = "wrapped"  # it knows nothing of us: `supervise/leash.py` watches for it
    OTHER = "other"  # it holds something else of ours (a control socket)


class Process:
    """A running child. Made by `launch`."""

    def __init__(
        self,
        child: asyncio.subprocess.Process,
        leash: int | None,
        output: Output,
        afterwards: Sequence[str] = (),
    ) -> None:
        self._child, self._leash, self._output, self._afterwards = child, leash, output, afterwards
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
        await _remove(self._afterwards)
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
    inherit: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
) -> Process:
    """Start a child. `output` gets what it prints, in pieces.

    Args:
        env: variables that it gets besides those that it inherits.
        inherit: the variables that it inherits; None: all of ours.
        bounds: what it may take of the machine; None: what we may.

    Raises:
        OSError: the program cannot be started.
    """
    afterwards = removal(argv)
    await _remove(afterwards)
    theirs, ours = os.pipe() if leash is not Leash.OTHER else (None, None)
    read, write = os.pipe()
    command = _leashed(argv, leash, theirs, bounds, afterwards)
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env={**(os.environ if inherit is None else inherit), **(env or {})},
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
    return Process(child, ours, Output(read, output), afterwards)


def _leashed(
    argv: Sequence[str],
    leash: Leash,
    descriptor: int | None,
    bounds: Bounds | None,
    afterwards: Sequence[str],
) -> list[str]:
    words = [*argv, "--leash-fd", str(descriptor)] if leash is Leash.WATCHED else list(argv)
    words = words if bounds is None else bounds.before(words)
    if leash is not Leash.WRAPPED:
        return words
    then = ["--then", json.dumps(afterwards)] if afterwards else []
    # As a file, and isolated: the environment is the engine's, and need not lead to Gemstead.
    return [sys.executable, "-I", "-S", LEASH, "--fd", str(descriptor), *then, "--", *words]


async def _remove(command: Sequence[str]) -> None:
    """Remove the container of a name. Whether there was one does not matter, nor does a tool that says nothing."""
    if not command:
        return
    with suppress(OSError, TimeoutError):
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(child.wait(), REMOVAL_S)
        except BaseException:
            with suppress(ProcessLookupError):
                child.kill()
            raise
