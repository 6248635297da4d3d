"""A leash for an engine that is not ours: `python -m gemstead.supervise.leash --fd N -- command...`

The supervisor holds the other end of the pipe `N`. When it dies, however it dies, the pipe reads
end-of-file and the whole process group is ended. On Linux the engine also asks the kernel to be ended with
its parent, in case this small process is the one that is killed. SIGTERM and SIGINT are passed on; the
engine's exit code is ours (128 + number for a signal). Our own engine watches its leash itself and needs no
wrapper.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run the command after `--` until it ends or the leash is let go; its exit code."""
    if len(arguments) < 4 or arguments[0] != "--fd" or arguments[2] != "--":
        print("usage: python -m gemstead.supervise.leash --fd N -- COMMAND...", file=sys.stderr)  # noqa: T201
        return 2
    leash, woken, waker = int(arguments[1]), *os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        child = subprocess.Popen(arguments[3:], preexec_fn=_end_with_parent())  # noqa: S603
    except OSError as error:
        print(f"cannot start {arguments[3]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _passed_to(child))
    while (code := child.poll()) is None:
        readable, _, _ = select.select([leash, woken], [], [])
        if woken in readable:
            os.read(woken, 64)
        if leash in readable and not os.read(leash, 1):
            os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


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
