"""Why an engine ended: out of memory, a crash, killed by someone, or something that its log names.

Signs, the surest first. The kernel counts what it kills for want of memory (`oom_kill` in the cgroup's
`memory.events` and in `/proc/vmstat`): a SIGKILL while that count rose was the kernel. Then the engine's own last
words, which its adapter reads (`LOG_PATTERNS`): "memory", "port", "corrupt". Then the signal: SIGSEGV, SIGABRT, SIGBUS
and SIGFPE are crashes, SIGILL is a processor too old for the code. SIGKILL without any of these is a person, or a
container's limit that we cannot see. A process wrapped by a shell or our leash says 128 + n for signal n.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gemstead.engines.reading import LogEvent


class Cause(StrEnum):
    """What is told apart. Each has a remedy in `remedies.py`."""

    MEMORY = "out_of_memory"
    CRASH = "crash"
    KILLED = "killed"
    HANG = "hang"
    SILENT = "silent"  # does not answer its health path
    SLOW_START = "slow_start"
    ERRORS = "errors"  # it says that it is well, and answers every call with a 5xx
    NONSENSE = "nonsense"  # it answers, and what it answers is no language or plainly wrong
    FILES = "files"  # the model's files are missing, damaged, or not for this engine
    PORT = "port"
    PROCESSOR = "processor"  # its code is not for this CPU
    PROGRAM = "program"  # the engine itself cannot be started


# A restart with the same settings meets the same end, so a rollout need not try again.
HOPELESS = frozenset(
    {
        Cause.MEMORY,
        Cause.SLOW_START,
        Cause.ERRORS,
        Cause.NONSENSE,
        Cause.FILES,
        Cause.PROCESSOR,
        Cause.PROGRAM,
    }
)
KINDS = {
    "memory": Cause.MEMORY,
    "kv_cache": Cause.MEMORY,
    "port": Cause.PORT,
    "architecture": Cause.FILES,
    "corrupt": Cause.FILES,
    "missing": Cause.FILES,
    "projector": Cause.FILES,
    "load": Cause.FILES,
}
NAMES = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
CRASHES = frozenset({6, 7, 8, 11})
SIGILL, SIGKILL = 4, 9
CANNOT_RUN = frozenset({126, 127})  # of a shell, and of our leash


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong, for a machine and for a person."""

    cause: Cause
    why: str


def diagnose(
    code: int, said: Iterable[LogEvent], *, memory_kills: int = 0, wrapped: bool = False
) -> Diagnosis:
    """Why a process ended.

    Args:
        code: its exit code; negative for a signal.
        said: what its log said that matters, in order.
        memory_kills: processes that the kernel ended for want of memory while it ran.
        wrapped: whether 128 + n stands for signal n.
    """
    number = -code if code < 0 else code - 128 if wrapped and 128 < code < 160 else 0
    if number == SIGKILL and memory_kills > 0:
        return Diagnosis(Cause.MEMORY, "ended by the system, which had no memory left (SIGKILL)")
    known = [(KINDS[event.kind], event) for event in said if event.fatal and event.kind in KINDS]
    if known:  # the first is the reason, what follows is its wake; but memory is never said by accident
        cause, event = next((one for one in known if one[0] is Cause.MEMORY), known[0])
        return Diagnosis(cause, f"{_ended(code, number)}: {event.sentence}")
    if code in CANNOT_RUN and not number:
        return Diagnosis(Cause.PROGRAM, _ended(code, number))
    if number == SIGILL:
        return Diagnosis(Cause.PROCESSOR, _ended(code, number))
    if number == SIGKILL:
        return Diagnosis(Cause.KILLED, _ended(code, number))
    return Diagnosis(Cause.CRASH, _ended(code, number))


def _ended(code: int, number: int) -> str:
    if not number:
        return f"exited with code {code}"
    named = f" ({NAMES[number]})" if number in NAMES else ""
    crashed = "crashed, " if number in CRASHES else ""
    return f"{crashed}ended by signal {number}{named}"
