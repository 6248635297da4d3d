"""What an engine may take of its machine, and what becomes of one in a container."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemstead.supervise.bounds import Bounds
from gemstead.supervise.process import Leash, launch

REPORT = """
import json, os, resource, sys
said = {
    "pid": os.getpid(),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    "oom": int(open("/proc/self/oom_score_adj").read()) if sys.platform == "linux" else 0,
    "variables": sorted(os.environ),
}
print(json.dumps(said))
"""


async def report(leash: Leash, bounds: Bounds | None, **more) -> dict:
    seen = bytearray()
    process = await launch(
        [sys.executable, "-c", REPORT], leash=leash, output=seen.extend, bounds=bounds, **more
    )
    assert await process.wait() == 0, seen
    said = json.loads(seen.splitlines()[-1])
    return {**said, "lines": seen.decode().splitlines()[:-1], "launched": process.pid}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("leash", list(Leash))
async def test_an_engine_gets_its_bounds_before_it_begins(leash):
    cpu = min(os.sched_getaffinity(0))
    said = await report(leash, Bounds(cpus=(cpu,), open_files=256))
    assert said["core"] == [0, 0]
    assert said["cpus"] == [cpu]
    assert said["oom"] >= 500
    assert said["files"] >= 256  # never fewer than it had
    if leash is not Leash.WRAPPED:
        assert said["pid"] == said["launched"]


async def test_more_files_than_we_may_open_are_as_many_as_we_may():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("there is no limit here")
    said = await report(Leash.OTHER, Bounds(open_files=hard + 1))
    assert said["files"] in (hard, hard + 1)  # root may raise it


def test_a_service_takes_the_open_files_that_it_may_have_and_leaves_no_dumps():
    """A shell gives 1,024 on most systems where many more may be had, and an init system may allow dumps."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < 5_000:
        pytest.skip("few files may be had here")
    program = f"from gemstead.supervise.bounds import ours\nassert ours() == []\n{REPORT}"
    done = subprocess.run(
        ["bash", "-c", 'ulimit -Sn 256; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["core"] == [0, 0]
    assert told["files"] == 65_536 or 0 <= hard == told["files"] < 65_536


async def test_processors_that_are_not_there_do_not_keep_an_engine_from_starting():
    said = await report(Leash.OTHER, Bounds(cpus=(4_000, 4_001)))
    assert said["lines"] == ["gemstead: processors 4000,4001 cannot be had"]


async def test_it_inherits_what_it_is_given_and_its_own():
    said = await report(Leash.WRAPPED, Bounds(), inherit={"PATH": os.environ["PATH"]}, env={"OWN": "1"})
    assert set(said["variables"]) - {"LC_CTYPE"} == {"PATH", "OWN"}


async def test_a_program_that_is_not_there_is_told_as_without_bounds():
    seen = bytearray()
    process = await launch(["/no-such-program"], leash=Leash.WRAPPED, output=seen.extend, bounds=Bounds())
    assert await process.wait() == 127
    assert b"cannot start /no-such-program" in seen


# A container is no child of its client: here a stand-in for the tool starts one as Docker does, out of our reach.

TOOL = """#!{python}
import os, pathlib, signal, subprocess, sys, time
place = pathlib.Path({folder!r})
if sys.argv[1] == "rm":
    file = place / sys.argv[-1]
    if file.exists():
        os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink()
    (place / "removals").open("a").write(" ".join(sys.argv[1:]) + "\\n")
    sys.exit(0)
name = sys.argv[sys.argv.index("--name") + 1]
if (place / name).exists():
    sys.exit("the name is taken")
box = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
(place / name).write_text(str(box.pid))
print("box", box.pid, flush=True)
signal.signal(signal.SIGTERM, lambda *_: (box.kill(), (place / name).unlink(), os._exit(143)))
box.wait()
"""
HEAD = """
import asyncio, os, sys
from gemstead.supervise.bounds import Bounds
from gemstead.supervise.process import Leash, launch
async def main():
    await launch(sys.argv[1:], leash=Leash.WRAPPED, output=lambda d: os.write(1, d), bounds=Bounds())
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def docker(tmp_path):
    program = tmp_path / "docker"
    program.write_text(TOOL.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    return [str(program), "run", "--rm", "--name", "gemstead-a-0", "image"]


async def started(docker: list[str]):
    seen = bytearray()
    process = await launch(docker, leash=Leash.WRAPPED, output=seen.extend, bounds=Bounds())
    async with asyncio.timeout(20):
        while b"\n" not in seen:
            await asyncio.sleep(0.02)
    return process, int(seen.split()[1])


async def test_a_container_that_is_asked_to_end_ends_and_is_removed(docker, tmp_path):
    process, box = await started(docker)
    process.terminate()
    await process.wait()
    assert gone_within(5, box)
    # before the start and after the end
    assert (tmp_path / "removals").read_text().splitlines() == ["rm --force gemstead-a-0"] * 2


async def test_a_container_goes_with_its_client_that_is_killed(docker):
    process, box = await started(docker)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert gone_within(5, box)


async def test_one_that_was_left_behind_makes_room_for_the_next(docker):
    left = subprocess.Popen(docker, stdout=subprocess.PIPE, text=True)
    box = int(left.stdout.readline().split()[1])
    left.kill()
    left.stdout.close()
    left.wait()
    process, other = await started(docker)
    assert gone_within(5, box)
    assert alive(other)
    process.kill()
    await process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_container_survives_kill_9_of_the_head(docker):
    head = subprocess.Popen([sys.executable, "-c", HEAD, *docker], stdout=subprocess.PIPE, text=True)
    box = int(head.stdout.readline().split()[1])
    assert alive(box)
    head.kill()
    head.wait()
    assert gone_within(20, box)
    head.stdout.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds: float, pid: int) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
