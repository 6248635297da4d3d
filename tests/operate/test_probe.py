"""What a machine is found to be, from files as Linux has them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gemstead.operate.probe import cpus, machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
GIB = 1 << 30


def root(folder: Path, files: dict[str, str]) -> Path:
    given = {"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", **files}
    for name, text in given.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_without_limits_it_is_the_host(tmp_path: Path) -> None:
    found = machine(tmp_path, root(tmp_path, {}))
    assert (found.memory_bytes, found.memory_free_bytes) == (16 * GIB, 8 * GIB)
    assert found.disk_free_bytes > 0 and found.cpus >= 1


def test_the_tightest_cgroup_v2_limit_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/slice/app\n",
        "sys/fs/cgroup/slice/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/slice/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/slice/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        "sys/fs/cgroup/slice/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/slice/app/memory.max": "max\n",
        "sys/fs/cgroup/slice/app/cpu.max": "max 100000\n",
    }
    found = machine(tmp_path, root(tmp_path, files))
    assert (found.memory_bytes, found.memory_free_bytes, found.cpus) == (4 * GIB, 2 * GIB, 1)


def test_cgroup_v1_limits_count_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",  # in the container only the top is mounted
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    found = machine(tmp_path, root(tmp_path, files))
    assert (found.memory_bytes, found.memory_free_bytes, found.cpus) == (2 * GIB, GIB, 1)


def test_v1_without_a_limit_is_the_host(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
    }
    assert machine(tmp_path, root(tmp_path, files)).memory_bytes == 16 * GIB


def test_nonsense_is_survived(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "what\n",
        "proc/self/cgroup": "::\nx\n0::/../..\n",
        "sys/fs/cgroup/memory.max": "",
        "sys/fs/cgroup/cpu.max": "a b",
    }
    found = machine(tmp_path / "not" / "there", root(tmp_path, files))
    assert found.memory_bytes > 0 and found.cpus >= 1 and found.disk_free_bytes > 0
    assert cpus(tmp_path / "empty") >= 1
