"""The kernel's count of what it ended, wherever this system keeps it."""

from __future__ import annotations

import pytest

from gemstead.supervise.memory import memory_kills

FILES = {
    "v2": ("0::/user/engine", "sys/fs/cgroup/user/engine/memory.events", "oom 9\noom_kill 3\n"),
    "v2 in its namespace": ("0::/", "sys/fs/cgroup/memory.events", "oom_kill 3\n"),
    "v1": ("4:cpu,memory:/box", "sys/fs/cgroup/memory/box/memory.oom_control", "under_oom 0\noom_kill 3\n"),
    "the machine": ("", "proc/vmstat", "pgfault 12\noom_kill 3\n"),
}


@pytest.mark.parametrize("how", FILES)
def test_the_count_is_found(tmp_path, how):
    cgroup, file, text = FILES[how]
    for name, content in (("proc/self/cgroup", cgroup + "\n"), (file, text)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory_kills(tmp_path) == 3


def test_where_nothing_is_told_it_is_nought(tmp_path):
    assert memory_kills(tmp_path) == 0
    assert memory_kills() >= 0
