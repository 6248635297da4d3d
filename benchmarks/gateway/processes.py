"""Processes under measurement: where they run, what they have used, and how they end.

Gateway and load stay on CPUs of their own, and under the round-robin real-time scheduler where that is
permitted, so that other work on the machine does not enter latencies. (Caches and memory are still shared.)
What a gateway has used is the user and system time of its whole process tree, from /proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cpus:
    """Which CPUs each part may use; an empty set means any."""

    gateway: frozenset[int]
    engine: frozenset[int]
    load: frozenset[int]
    two_workers: frozenset[int]  # for the run with two workers


def divide_cpus() -> Cpus:
    """One CPU for the gateway, one for engine and load; with four or more, one for each part."""
    have = sorted(os.sched_getaffinity(0))
    if len(have) < 2:
        anywhere: frozenset[int] = frozenset()
        return Cpus(anywhere, anywhere, anywhere, anywhere)
    one = frozenset({have[1]})
    if len(have) < 4:
        return Cpus(one, frozenset({have[0]}), frozenset({have[0]}), one)
    return Cpus(one, frozenset({have[0]}), frozenset({have[3]}), frozenset({have[1], have[2]}))


def may_be_realtime() -> bool:
    """Whether this process may use SCHED_RR (root, or CAP_SYS_NICE)."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, *before)
    except (OSError, AttributeError):
        return False
    return True


_REALTIME = may_be_realtime()


@contextmanager
def punctual() -> Iterator[None]:
    """This process itself is real-time meanwhile, if permitted: it acts at a moment and measures from there."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if _REALTIME:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def spawn(
    command: Sequence[str],
    cpus: frozenset[int],
    *,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """A process in its own session, on those CPUs, real-time if permitted; its children inherit both."""

    def settle_in() -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)
        if _REALTIME:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))

    return subprocess.Popen(
        command, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True, preexec_fn=settle_in
    )


def stop(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """Ends a process and everything in its session."""
    for word in (signal.SIGCONT, signal.SIGTERM):
        signal_group(process, word)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        pass
    signal_group(process, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def signal_group(process: subprocess.Popen[bytes], word: signal.Signals) -> None:
    """Signals the whole process group, if any of it is left. Its leader is not reaped before `stop`."""
    try:
        os.killpg(process.pid, word)
    except ProcessLookupError:
        pass


def signal_tree(process: subprocess.Popen[bytes], word: signal.Signals) -> None:
    """Signals a process and all its descendants, whatever group they are in."""
    for pid in tree(process.pid):
        try:
            os.kill(pid, word)
        except ProcessLookupError:
            pass


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in _listed(Path(f"/proc/{pid}/task")):
            todo += [int(word) for word in _read(task / "children").split()]
    return found


def cpu_s(root: int) -> float:
    """Seconds of CPU, user and system, that the tree has used so far."""
    ticks = 0
    for pid in tree(root):
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:13])
    return ticks * _TICK_S


def rss_bytes(root: int) -> int:
    """Resident memory of the tree; pages that its processes share are counted more than once."""
    return sum(int((_read(Path(f"/proc/{pid}/statm")).split() or "00")[1]) * _PAGE for pid in tree(root))


def pss_bytes(root: int) -> int:
    """Resident memory of the tree with shared pages divided among those who share them."""
    kib = 0
    for pid in tree(root):
        for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib * 1024


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""


def _listed(path: Path) -> list[Any]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
