"""Logs: bounded, whole lines, and followed across rotations."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.supervise.logs import RotatedLog, follow, last_lines, numbered


def test_logs_are_rotated_by_size_and_count(tmp_path):
    path = tmp_path / "engine.log"
    log = RotatedLog(path, most_bytes=100, files=2)
    for number in range(100):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.log", "engine.log.1", "engine.log.2"]
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())
    assert last_lines(path, 15) == [f"line {number:03}" for number in range(85, 100)]
    assert path.stat().st_mode & 0o077 == 0


def test_a_new_start_adds_to_the_log(tmp_path):
    for word in (b"one\n", b"two\n"):
        log = RotatedLog(tmp_path / "a.log", most_bytes=100, files=1)
        log.write(word)
        log.close()
    assert last_lines(tmp_path / "a.log", 9) == ["one", "two"]


@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(1, 40))
def test_how_output_is_cut_never_matters_to_what_is_seen(pieces, most):
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.log"
        log = RotatedLog(path, most_bytes=most, files=100, seen=seen.append)
        for piece in pieces:
            log.write(piece)
        log.close()
        files = [numbered(path, n) for n in range(100, 0, -1)] + [path]
        assert b"".join(file.read_bytes() for file in files if file.exists()) == b"".join(pieces)
    whole = b"".join(pieces).split(b"\n")[:-1]
    assert seen == [line.decode("utf-8", "replace").rstrip("\r") for line in whole]


def test_follow_reads_across_rotations(tmp_path):
    path = tmp_path / "engine.log"
    log = RotatedLog(path, most_bytes=40, files=3)
    log.write(b"before\n")
    turns = iter(range(12))

    def wait() -> bool:
        if (turn := next(turns, None)) is None:
            return False
        log.write(f"turn {turn:02}\n".encode())
        return True

    assert list(follow(path, wait=wait)) == [f"turn {turn:02}" for turn in range(12)]
    log.close()


def test_follow_waits_for_a_log_that_is_not_there_yet(tmp_path):
    path = tmp_path / "later.log"
    turns = iter(range(2))

    def wait() -> bool:
        if next(turns, None) is None:
            return False
        path.write_text("hello\n")
        return True

    assert list(follow(path, wait=wait)) == ["hello"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_lines_and_nothing_else(tmp_path):
    path = tmp_path / "full.log"
    path.symlink_to("/dev/full")
    seen = []
    log = RotatedLog(path, most_bytes=1000, files=1, seen=seen.append)
    log.write(b"one\ntwo\n")
    assert seen == ["one", "two"]
    assert list(log.recent) == ["one", "two"]
