"""How many processes the kernel has ended for want of memory, as far as we can see.

Read before and after an engine's life: a SIGKILL while the count rose was the kernel's. Our own cgroup counts what was
ended within its limit (v2: `memory.events`, v1: `memory.oom_control`), `/proc/vmstat` what the whole machine ended. In
a container that shows neither, the count stays 0 and the cause stays "killed". `root` stands for the file system's.
"""

from __future__ import annotations

from pathlib import Path


def memory_kills(root: Path = Path("/")) -> int:
    """The count now; only its growth means anything."""
    return max(
        [_count(root / "proc/vmstat", "oom_kill"), *(_count(file, "oom_kill") for file in _files(root))]
    )


def _files(root: Path) -> list[Path]:
    """Where our cgroup keeps its count."""
    try:
        lines = (root / "proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = path.lstrip("/")
        if not controllers:
            found += [
                root / base / inside / "memory.events" for base in ("sys/fs/cgroup", "sys/fs/cgroup/unified")
            ]
            found.append(root / "sys/fs/cgroup/memory.events")  # in a cgroup namespace we are the root
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            found += [folder / inside / "memory.oom_control", folder / "memory.oom_control"]
    return found


def _count(file: Path, name: str) -> int:
    try:
        for line in file.read_text("ascii").splitlines():
            word, _, number = line.partition(" ")
            if word == name:
                return int(number)
    except (OSError, ValueError):
        pass
    return 0
