"""Nothing accepted is lost while the process lives, and a crash costs no more than is stated. Real files,
real processes, a really full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ledger_records import BEGAN, call_ids, record, until

from gemstead.ledger.proof import verify
from gemstead.ledger.writer import Writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def told():
    return []


@pytest.fixture
def writer(path, told):
    writer = Writer(path, flush_s=0.02, on_trouble=told.append)
    yield writer
    writer.close(within_s=0.1)


def test_what_is_put_is_there_after_closing(writer, path, told):
    for number in range(5000):
        writer.put(record(number))
    assert writer.close() == 0
    assert call_ids(path) == [f"call-{number:06d}" for number in range(5000)]
    assert (writer.healthy, writer.written, writer.dropped, told) == (True, 5000, 0, [])
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_record_reaches_the_file_by_itself(writer, path):
    writer.put(record(1))
    until(lambda: path.exists() and writer.written == 1)
    assert call_ids(path) == ["call-000001"]


def test_512_waiting_records_end_the_wait(path):
    writer = Writer(path, flush_s=3600)
    until(path.exists)
    for number in range(513):
        writer.put(record(number))
    until(lambda: writer.written >= 513)
    writer.close()


def test_a_call_is_stored_once(writer, path):
    writer.put(record(1, outcome="served"))
    writer.put(record(1, outcome="cut"))
    until(lambda: writer.written == 2)
    writer.put(record(1, outcome="internal"))
    assert writer.close() == 0
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT call_id, outcome FROM audit").fetchall() == [("call-000001", "served")]
    connection.close()


def test_a_clock_that_jumps_changes_no_order(writer, path):
    for number, began in enumerate([BEGAN, BEGAN - 1e6, BEGAN + 1e6, BEGAN]):
        writer.put(record(number, began=began))
    writer.close()
    assert call_ids(path) == [f"call-{number:06d}" for number in range(4)]


@pytest.mark.parametrize(
    "odd",
    [
        {"user": "\ud800 lone surrogate"},
        {"model": "nul \0 inside"},
        {"seconds": float("nan")},
        {"queued_s": float("inf")},
        {"first_token_s": float("nan")},
        {"prompt_tokens": 2**70},
        {"bytes_out": -(2**70)},
        {"tenant": None},
        {"outcome": 7},
        {"status": "200"},
        {"client": ("127.0.0.1", 80)},
        {"began": None},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_a_record_that_does_not_fit_keeps_no_other_out(writer, path, odd):
    writer.put(record(1))
    writer.put(record(2, **odd))
    writer.put(record(3))
    assert writer.close() == 0
    assert call_ids(path) == ["call-000001", "call-000002", "call-000003"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_listener_that_breaks_does_not_stop_the_writing(path):
    path.mkdir(parents=True)  # a folder where the file should be

    def break_down(message):
        raise RuntimeError("the loop is closed")

    writer = Writer(path, flush_s=0.01, on_trouble=break_down)
    writer.put(record(1))
    until(lambda: not writer.healthy)
    path.rmdir()
    until(lambda: writer.written == 1)
    assert writer.close() == 0


def test_while_the_file_is_locked_records_are_held(path, told):
    first = Writer(path, flush_s=0.01)
    until(path.exists)
    first.put(record(0))
    first.close()
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    writer = Writer(path, flush_s=0.01, on_trouble=told.append)
    for number in range(1, 100):
        writer.put(record(number))
    until(lambda: not writer.healthy, within_s=20)
    assert (writer.held, len(told)) == (99, 1)
    assert "locked" in told[0]
    lock.execute("ROLLBACK")
    lock.close()
    until(lambda: writer.healthy)
    assert writer.close() == 0
    assert call_ids(path) == [f"call-{number:06d}" for number in range(100)]
    assert len(told) == 2


def test_a_newer_file_is_left_alone_and_told(path, told):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    writer = Writer(path, flush_s=0.01, on_trouble=told.append)
    writer.put(record(1))
    until(lambda: not writer.healthy)
    assert "newer Gemstead" in told[0]
    assert writer.close(within_s=0.2) == 1
    assert "1 audit records could not be written" in told[-1]


def test_beyond_the_bound_the_newest_are_let_go_and_the_gap_is_written_down(path, told):
    path.mkdir(parents=True)
    writer = Writer(path, flush_s=0.01, most_held=50, on_trouble=told.append)
    until(lambda: not writer.healthy)
    for number in range(80):
        writer.put(record(number))
    assert writer.dropped == 80 - writer.held
    kept = writer.held
    path.rmdir()
    until(lambda: writer.healthy)
    writer.put(record(200))
    assert writer.close() == 0
    assert call_ids(path) == [f"call-{number:06d}" for number in [*range(kept), 200]]
    connection = sqlite3.connect(path)
    gaps = connection.execute("SELECT began, ended, records FROM gaps").fetchall()
    connection.close()
    assert gaps == [(BEGAN + kept, BEGAN + 79, 80 - kept)]
    assert len(told) == 2
    assert f"{80 - kept} could not be held" in told[1]


def test_a_deleted_file_is_made_anew(writer, path):
    writer.put(record(1))
    until(lambda: writer.written == 1)
    for name in list(path.parent.iterdir()):
        name.unlink()
    until(path.exists)
    writer.put(record(2))
    assert writer.close() == 0
    assert call_ids(path) == ["call-000002"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, really full when it is full."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place]).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_costs_nothing_once_there_is_room(small_disk, told):
    path = small_disk / "ledger.db"
    writer = Writer(path, flush_s=0.01, on_trouble=told.append)
    writer.put(record(0))
    until(lambda: writer.written == 1)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)
    number = 0
    while writer.healthy and number < 50_000:
        number += 1
        writer.put(record(number))
        if number % 100 == 0:
            time.sleep(0.002)
    until(lambda: not writer.healthy)
    assert ("full" in told[0] or "space" in told[0]) and len(told) == 1
    for _ in range(300):
        number += 1
        writer.put(record(number))
    assert writer.held >= 300
    ballast.unlink()
    until(lambda: writer.healthy)
    assert writer.close() == 0
    assert call_ids(path) == [f"call-{n:06d}" for n in range(number + 1)]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


FILE_LIMIT = """
import resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ledger_records import record
from gemstead.ledger.writer import Writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told = []
writer = Writer(Path(sys.argv[2]), flush_s=0.01, on_trouble=told.append)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(5000):
    writer.put(record(number))
deadline = time.monotonic() + 20
while writer.healthy and time.monotonic() < deadline: time.sleep(0.005)
assert not writer.healthy and writer.held, (told, writer.held)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
while not writer.healthy and time.monotonic() < deadline: time.sleep(0.005)
print(writer.close(), len(told))
"""


def test_a_file_that_may_not_grow_costs_nothing_once_it_may(path):
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", FILE_LIMIT, here, str(path)], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "2"], done.stderr
    assert call_ids(path) == [f"call-{n:06d}" for n in range(5000)]


STEADY = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ledger_records import record
from gemstead.ledger.writer import Writer
writer = Writer(Path(sys.argv[2]), flush_s=0.1)
name, number = sys.argv[3], 0
while number < int(sys.argv[4]):
    for _ in range(20):
        number += 1
        writer.put(record(number, call_id=f"{name}-{number:06d}"))
    # "this many had been accepted by then": one short line, whole or not at all
    os.write(1, f"{number} {time.monotonic()}\\n".encode())
    time.sleep(0.002)
sys.exit(writer.close())
"""


def steady(path, name, most):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", STEADY, here, str(path), name, str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_costs_no_more_than_the_stated_bound(path, rounds):
    """Many rounds, ten on each file, whose chain holds. The bound is flush_s and the time of one transaction;
    on a loaded machine that is allowed a second here."""
    bound_s = 0.1 + 1.0
    there: list[str] = []
    for turn in range(rounds):
        if turn % 10 == 0 and turn:  # a new file, so that looking at all of it stays quick
            path, there = path.with_name(f"ledger{turn}.db"), []
        process = steady(path, f"turn{turn}", 1_000_000)
        accepted: list[tuple[int, float]] = []

        def listen(process=process, accepted=accepted):
            for line in process.stdout:
                if line.endswith(b"\n"):
                    number, when = line.split()
                    accepted.append((int(number), float(when)))

        reader = threading.Thread(target=listen)
        reader.start()
        until(lambda accepted=accepted: len(accepted) > 5, within_s=20)
        time.sleep(
            1.15 + turn % 10 * 0.037
        )  # so that something is older than the bound, and each turn dies elsewhere
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
        reader.join()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        kept = call_ids(path)
        assert len(kept) == len(set(kept)), "nothing is there twice"
        assert kept[: len(there)] == there, "what was there stays there"
        new = kept[len(there) :]
        assert new == [f"turn{turn}-{n:06d}" for n in range(1, len(new) + 1)], "no hole before the end"
        owed = max((number for number, when in accepted if when < killed - bound_s), default=0)
        assert owed > 0, "the round must have had something to lose"
        assert len(new) >= owed
        there = kept
        if turn % 5 == 4:
            assert verify(path, {}).fault is None


def test_four_processes_write_one_new_file(path):
    processes = [steady(path, f"worker{n}", 2000) for n in range(4)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    kept = call_ids(path)
    assert len(kept) == 8000
    for n in range(4):
        mine = [call_id for call_id in kept if call_id.startswith(f"worker{n}-")]
        assert mine == [f"worker{n}-{number:06d}" for number in range(1, 2001)]
