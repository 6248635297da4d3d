"""The engine never outlives its parent.

On Linux the kernel ends us with the thread that started us, even inside a native call. Everywhere, a thread reads a
pipe whose other end the parent holds: end-of-file means that the parent is gone. While a model loads, no thread of
ours runs (see `witness.py`): off Linux the end comes when loading does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def hold(descriptor: int) -> None:
    """End this process when the pipe `descriptor` closes, or with our parent."""
    if descriptor < 0:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(descriptor,), name="leash", daemon=True).start()


def _watch(descriptor: int) -> None:
    try:
        while os.read(descriptor, 64):
            pass
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
