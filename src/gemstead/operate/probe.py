"""What this machine is, as far as a plan needs to know. Nothing is decided here, and nothing here fails: what cannot
be read is left at what is certain.

In a container the machine is what the container may use: cgroup limits (v2 and v1) count before the host's totals.
`root` stands for the file system's root in tests.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemstead.plan.values import Machine

UNKNOWN_MEMORY_BYTES = 4 << 30
_NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as almost 2**63


def machine(cache: Path | None = None, root: Path = Path("/")) -> Machine:
    """This machine. `cache` is the folder whose disk matters: where models are kept."""
    from gemstead.operate.cards import cards

    memory, free = _memory(root)
    found = cards(_output, os.environ, root)
    return Machine(
        cpus=cpus(root),
        memory_bytes=memory,
        memory_free_bytes=min(free, memory),
        disk_free_bytes=disk_free(cache or Path.home()),
        os=sys.platform,
        arch=platform.machine(),
        gpus=tuple(card.name for card in found),
        cards=found,
    )


def cpus(root: Path = Path("/")) -> int:
    """Whole CPUs that this process may use, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups(root) if (quota := _quota(folder))]
    return max(1, min([count, *(int(quota) for quota in quotas)]))


def disk_free(folder: Path) -> int:
    """Bytes free where `folder` is, or would be made; 0 when that cannot be said."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0


def _memory(root: Path) -> tuple[int, int]:
    """Bytes in all and bytes free for use, within the tightest limit."""
    total, free = _host_memory(root)
    for folder in _cgroups(root):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if not limit or limit >= _NO_LIMIT:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        total, free = min(total, limit), min(free, max(limit - used + _reclaimable(folder), 0))
    return total, free


def _host_memory(root: Path) -> tuple[int, int]:
    if sys.platform == "darwin":
        return _mac_memory()
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        sizes = {
            name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)
        }
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"])
    except (OSError, ValueError, KeyError, IndexError):
        return UNKNOWN_MEMORY_BYTES, UNKNOWN_MEMORY_BYTES


def _mac_memory() -> tuple[int, int]:
    """macOS says how much there is; what is free it counts so differently that half is assumed."""
    try:
        total = int(_output(["/usr/sbin/sysctl", "-n", "hw.memsize"]))
    except ValueError:
        total = UNKNOWN_MEMORY_BYTES
    return total, total // 2


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders whose limits hold for us: our own group and every one above it, v2 and v1."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    base = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and not {"memory", "cpu"} & set(names):
            continue
        top = base / controllers if controllers else base
        group = top / path.strip("/")
        # Inside a container the path may be the host's, and only the top is mounted.
        yield from (
            place for place in (group, *group.parents) if place.is_relative_to(top) and place.is_dir()
        )


def _quota(folder: Path) -> float | None:
    """CPUs that a group may use, at least one part of one; None without a limit."""
    try:
        if (v2 := folder / "cpu.max").exists():
            quota, _, period = v2.read_text("ascii").strip().partition(" ")
            return None if quota == "max" else max(int(quota) / int(period), 1.0)
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return max(quota_us / period_us, 1.0) if quota_us and quota_us > 0 and period_us else None


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that the kernel counts as used and gives back when asked."""
    try:
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
        stats = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return 0
    return stats.get("inactive_file", stats.get("total_inactive_file", 0))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii").strip())
    except (OSError, ValueError):  # also "max"
        return None


def _output(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
