"""Real processes: what they print is kept, and nothing outlives its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemstead.supervise.process import Leash, launch

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
# An engine that watches its leash, as ours does.
WATCHER = (
    "import os, sys; print('up', flush=True); os.read(int(sys.argv[sys.argv.index('--leash-fd') + 1]), 1)"
)
# An engine that starts another process and prints its number.
PARENT = (
    "import subprocess, sys, time\n"
    "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('child', c.pid, flush=True); time.sleep(60)"
)
HEAD = """
import asyncio, os, sys
from gemstead.supervise.process import Leash, launch
async def main():
    for leash, code in ((Leash.WRAPPED, sys.argv[1]), (Leash.WATCHED, sys.argv[2])):
        p = await launch([sys.executable, "-c", code], leash=leash, output=lambda d: os.write(1, d))
        print("pid", p.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def eventually(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("leash", list(Leash))
async def test_output_and_exit_code_come_back(leash):
    seen = bytearray()
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    process = await launch([sys.executable, "-c", code], leash=leash, output=seen.extend)
    assert await process.wait() == 7
    assert set(bytes(seen).split()) == {b"out", b"err"}


@pytest.mark.parametrize("leash", [Leash.WRAPPED, Leash.OTHER])
async def test_an_engine_asked_to_end_ends(leash):
    seen = bytearray()
    process = await launch([sys.executable, "-c", SLEEPER], leash=leash, output=seen.extend)
    await eventually(lambda: seen)
    process.terminate()
    assert await process.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.parametrize("leash", [Leash.WRAPPED, Leash.OTHER])
async def test_what_an_engine_started_goes_with_it(leash):
    seen = bytearray()
    process = await launch([sys.executable, "-c", PARENT], leash=leash, output=seen.extend)
    await eventually(lambda: b"\n" in seen)
    grandchild = int(seen.split()[1])
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert gone_within(2, grandchild)


async def test_a_stopped_engine_can_be_killed():
    seen = bytearray()
    process = await launch([sys.executable, "-c", SLEEPER], leash=Leash.OTHER, output=seen.extend)
    await eventually(lambda: seen)
    os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_a_program_that_is_not_there_is_an_error():
    with pytest.raises(OSError, match="no-such-program"):
        await launch(["/no-such-program"], leash=Leash.OTHER, output=lambda _: None)
    seen = bytearray()
    process = await launch(["/no-such-program"], leash=Leash.WRAPPED, output=seen.extend)
    assert await process.wait() == 127
    assert b"cannot start /no-such-program" in seen


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_orphan_survives_kill_9_of_the_head():
    head = subprocess.Popen([sys.executable, "-c", HEAD, PARENT, WATCHER], stdout=subprocess.PIPE, text=True)
    words = [head.stdout.readline().split() for _ in range(4)]
    pids = [int(number) for word, *rest in words if word in ("pid", "child") for number in rest]
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    head.kill()
    head.wait()
    assert gone_within(2, *pids)
    head.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
async def test_an_engine_dies_with_its_wrapper():
    seen = bytearray()
    report = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = await launch([sys.executable, "-c", report], leash=Leash.WRAPPED, output=seen.extend)
    await eventually(lambda: b"\n" in seen)
    os.kill(process.pid, signal.SIGKILL)
    assert gone_within(2, int(seen))
    await process.wait()
