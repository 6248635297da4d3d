"""A leash for an engine that is not ours: `python leash.py --fd N [--then WORDS] -- command...`

The supervisor holds the other end of the pipe `N`. When it dies, however it dies, the pipe reads end-of-file and the
whole process group is ended. On Linux the engine also asks the kernel to be ended with its parent, in case this
small process is the one that is killed. SIGTERM and SIGINT are passed on; the engine's exit code is ours (128 +
number for a signal). `--then` is a command, as JSON, for when the supervisor is gone: it removes the container that
the engine runs in, which no signal of ours reaches. Our own engine watches its leash itself and needs no wrapper.
Standard library only: it runs as a file, in the engine's environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAST_S = 20


def main(arguments: list[str]) -> int:
    """Run the command after `--` until it ends or the leash is let go; its exit code."""
    at = arguments.index("--") if "--" in arguments else 0
    said = dict(zip(arguments[:at:2], arguments[1:at:2], strict=False))
    command = arguments[at + 1 :]
    if not command or "--fd" not in said or not said.keys() <= {"--fd", "--then"}:
        print("usage: python leash.py --fd N [--then WORDS] -- COMMAND...", file=sys.stderr)  # noqa: T201
        return 2
    leash, woken, waker = int(said["--fd"]), *os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        child = subprocess.Popen(command, preexec_fn=_end_with_parent())  # noqa: S603
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _passed_to(child))
    while (code := child.poll()) is None:
        readable, _, _ = select.select([leash, woken], [], [])
        if woken in readable:
            os.read(woken, 64)
        if leash in readable and not os.read(leash, 1):
            _last(said.get("--then", "[]"))
            os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _last(then: str) -> None:
    """Run the last command, if there is one; in a session of its own, so that nothing sweeps it away."""
    if command := json.loads(then):
        try:
            subprocess.run(  # noqa: S603
                command, timeout=LAST_S, start_new_session=True, stdin=subprocess.DEVNULL, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            pass


def _passed_to(child: subprocess.Popen[bytes]) -> Callable[[int, FrameType | None], None]:
    return lambda number, _frame: child.send_signal(number)


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
