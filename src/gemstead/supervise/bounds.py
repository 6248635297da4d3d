"""What an engine process may take of its machine, set before its first instruction; and what we take ourselves.

`python bounds.py WORDS -- COMMAND...` bounds itself and then becomes the command, so the number of the process stays
and whatever the engine starts inherits it all. (A function run between fork and exec would do the same, but is not
safe in a program with threads, as ours is.) This file imports nothing but the standard library and runs as a file:
the engine's environment need not lead to Gemstead.

- *Processors*: those of the replica's side of the machine; memory then comes from that side, because Linux takes it
  where it is first touched.
- *Core dumps* are off: a dump of 70 GB of weights fills a disk, and would hold people's prompts.
- *Open files*: as many as we may have, at least what an engine needs for its callers and its files of weights.
- *Who goes first when memory ends*: the engine, which is started again, and not the gateway, which is not.
- *Locked memory*: without bound where we may say so; transfers to cards want it.

A bound that cannot be set is left as it is and said on standard error: an engine that runs without it is better than
none.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

OPEN_FILES = 65_536
FEW_FILES = 4_096  # with fewer one may run short: two for each caller, and some for each file of weights
FIRST_TO_GO = (
    500  # added to its score: of 1000, so an engine at half the memory outweighs a gateway at all of it
)


@dataclass(frozen=True)
class Bounds:
    """The bounds of one engine process and all that it starts."""

    cpus: tuple[int, ...] = ()  # empty: any
    core_bytes: int = 0
    open_files: int = OPEN_FILES
    oom_score_adj: int = FIRST_TO_GO
    memory_locked: bool = True

    def before(self, argv: list[str]) -> list[str]:
        """The command that sets these bounds and becomes `argv`."""
        return [sys.executable, "-I", "-S", str(Path(__file__)), json.dumps(asdict(self)), "--", *argv]


def apply(bounds: Bounds) -> list[str]:
    """Set them on this process; what could not be set, in words."""
    said = []
    if bounds.cpus and hasattr(os, "sched_setaffinity"):
        allowed = set(bounds.cpus) & os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, allowed)
        except OSError:  # also when none of them is ours to use
            said.append(f"processors {_short(bounds.cpus)} cannot be had")
    said += _limit("core dumps", resource.RLIMIT_CORE, bounds.core_bytes, lower=True)
    said += _limit("open files", resource.RLIMIT_NOFILE, bounds.open_files)
    if bounds.memory_locked and hasattr(resource, "RLIMIT_MEMLOCK"):
        _limit("locked memory", resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # never lowered: that needs rights, and ours may be higher
            path = Path("/proc/self/oom_score_adj")
            path.write_text(str(max(bounds.oom_score_adj, int(path.read_text()))))
    return said


def ours() -> list[str]:
    """Set the bounds of a process that has callers, and of all that it starts; what could not be set, in words.

    A shell or an init system gives 1,024 open files where many more may be had, and a caller's connection is one and
    the engine's another. And a dump would hold prompts and keys.
    """
    return [
        *_limit("core dumps", resource.RLIMIT_CORE, 0, lower=True),
        *_limit("open files", resource.RLIMIT_NOFILE, OPEN_FILES),
    ]


def _limit(what: str, kind: int, wanted: int, *, lower: bool = False) -> list[str]:
    """Set a limit, as near to `wanted` as the hard one allows. It is not lowered unless that is the point."""
    soft, hard = resource.getrlimit(kind)
    try:
        if lower:
            resource.setrlimit(kind, (wanted, wanted))
            return []
        if _number(soft) >= _number(wanted):
            return []
        with contextlib.suppress(ValueError, OSError):  # raising the hard limit needs rights
            resource.setrlimit(kind, (wanted, max(wanted, hard, key=_number)))
            return []
        resource.setrlimit(kind, (hard, hard))
    except (ValueError, OSError):
        return [f"the limit of {what} stays at {soft}"]
    if kind == resource.RLIMIT_NOFILE and _number(hard) < FEW_FILES:
        return [f"{what}: only {hard}; raise the hard limit (ulimit -Hn)"]
    return []


def _number(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _short(cpus: tuple[int, ...]) -> str:
    return ",".join(map(str, cpus[:8])) + (",..." if len(cpus) > 8 else "")


def main(arguments: list[str]) -> int:
    """Set the bounds that the first word says, and become the words after `--`."""
    said = json.loads(arguments[0])
    argv = arguments[2:]
    for sentence in apply(Bounds(**{**said, "cpus": tuple(said["cpus"])})):
        print(f"gemstead: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
