"""Gateway workers as processes: told everything when they join, replaced when they die, gone when we are."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.workers import Worker

# Says hello, echoes, and leaves when told or when the head is gone.
WORKER = """
import socket, sys
lines = socket.socket(fileno=int(sys.argv[-1])).makefile("rwb", buffering=0)
lines.write(b"hello\\n")
for line in lines:
    if line == b"go\\n":
        break
    lines.write(line)
"""


class Notes:
    def __init__(self, tmp_path, code=WORKER):
        self.said, self.left, self.pids = [], [], []
        self.worker = Worker(
            "gateway-0",
            [sys.executable, "-c", code],
            log=RotatedLog(tmp_path / "gateway-0.log", most_bytes=10_000, files=1),
            joined=lambda worker: (self.pids.append(worker.pid), worker.tell(b"configure")),
            said=lambda _worker, line: self.said.append(line),
            left=lambda _worker, how: self.left.append(how),
        )


async def until(holds, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_worker_that_dies_is_replaced_and_told_everything_again(tmp_path):
    notes = Notes(tmp_path)
    running = asyncio.create_task(notes.worker.run())
    await until(lambda: notes.said.count(b"configure") == 1)
    os.kill(notes.pids[0], signal.SIGKILL)
    await until(lambda: notes.said.count(b"configure") == 2)
    assert notes.left == ["ended by signal 9"]
    assert notes.pids[0] != notes.pids[1]
    notes.worker.stop()
    notes.worker.tell(b"go")
    await asyncio.wait_for(running, 5)
    assert notes.left == ["ended by signal 9", "exited with code 0"]
    log = (tmp_path / "gateway-0.log").read_text()
    assert f"gateway-0 started, pid {notes.pids[1]}" in log
    assert "gateway-0 ended by signal 9" in log


async def test_a_worker_that_keeps_dying_is_not_replaced_without_a_pause(tmp_path):
    notes = Notes(tmp_path, "raise SystemExit(1)")
    running = asyncio.create_task(notes.worker.run())
    await until(lambda: len(notes.left) >= 3)
    assert set(notes.left) == {"exited with code 1"}
    notes.worker.stop()
    await asyncio.wait_for(running, 5)


async def test_a_cancelled_worker_leaves_no_process(tmp_path):
    notes = Notes(tmp_path)
    running = asyncio.create_task(notes.worker.run())
    await until(lambda: notes.said)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not notes.worker.running


async def test_a_line_beyond_every_bound_does_not_stop_the_head(tmp_path):
    notes = Notes(
        tmp_path,
        "import socket, sys\ns = socket.socket(fileno=int(sys.argv[-1]))\n"
        "try:\n    s.sendall(b'x' * (20 << 20))\nexcept OSError:\n    pass\n",
    )
    running = asyncio.create_task(notes.worker.run())
    await until(lambda: notes.left)
    notes.worker.kill()
    await asyncio.wait_for(running, 5)
