"""A replica with real processes: it comes up, comes back, and goes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import replace

import pytest

from gemstead.engines.lifecycle import Allowance, Phase
from gemstead.engines.reading import LogEvent
from gemstead.plan.values import Launch
from gemstead.supervise.logs import RotatedLog, last_lines
from gemstead.supervise.replica import Replica, Sight
from gemstead.traffic.endpoint import Load

# Accepts connections and echoes a line. Its counter is the number of lines so far.
ENGINE = """
import socketserver, sys
count = 0
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        global count
        for line in self.rfile:
            count += 1
            self.wfile.write(b"%d\\n" % count)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
print("loaded", flush=True)
server.serve_forever()
"""
QUICK = Allowance(start_s=10, hang_s=0.8, backoff_s=0.05, backoff_most_s=0.4, drain_s=5, grace_s=0.3)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class LineProbe:
    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(0.4):
                reader, writer = await asyncio.open_connection(self.launch.host, self.launch.port)
                writer.write(b"x\n")
                answer = (await reader.readline()).decode()
                writer.close()
                return answer
        except (OSError, TimeoutError):
            return ""

    async def listening(self) -> bool:
        return bool(await self._ask())

    async def answers(self, within_s: float) -> str:
        return "" if await self._ask() else "no answer"

    async def healthy(self) -> str:
        return await self.answers(1.0)

    async def warm(self, within_s: float) -> str:
        return ""

    async def prove(self, knows: bool, within_s: float) -> str:
        return ""

    async def can_sleep(self) -> bool:
        return False

    async def sleep(self) -> bool:
        return False

    async def wake(self) -> bool:
        return False

    async def look(self) -> Sight:
        answer = await self._ask()
        return Sight(Load(at=0.0, running=0), progress=float(answer)) if answer else Sight()


class Well(LineProbe):
    """Says that it is well even when it hangs, as an HTTP thread beside a stuck model does."""

    async def healthy(self) -> str:
        return ""


@pytest.fixture
def build(tmp_path):
    def make(argv=None, *, allowance=QUICK, probe=LineProbe, in_flight=lambda _: 0, **more):
        port = free_port()
        launch = Launch(
            name="m-0",
            pool="m",
            engine="other",
            argv=tuple(argv or (sys.executable, "-c", ENGINE, str(port))),
            host="127.0.0.1",
            port=port,
            version="v1",
        )
        phases = []
        replica = Replica(
            lambda _fresh: launch,
            allowance,
            probe,
            log=lambda seen: RotatedLog(tmp_path / "m-0.log", most_bytes=10_000, files=1, seen=seen),
            changed=lambda: phases.append((replica.phase, replica.facts.ready)),
            in_flight=in_flight,
            **more,
        )
        return replica, phases

    return make


async def until(holds, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_it_comes_up_comes_back_and_drains(build, tmp_path):
    replica, phases = build(
        read_log=lambda line: LogEvent("loaded", "model loaded") if line == "loaded" else None
    )
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.facts.ready)
    assert [phase for phase, _ in phases if phase is Phase.WARMING]
    assert (replica.facts.version, replica.describe()["slots"]) == ("v1", 1)
    pid = replica.describe()["pid"]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: replica.state.restarts == 1 and replica.facts.ready)
    assert (Phase.BACKING_OFF, False) in phases
    replica.drain()
    await asyncio.wait_for(running, 5)
    assert phases[-1] == (Phase.STOPPED, False)
    log = "\n".join(last_lines(tmp_path / "m-0.log", 100))
    assert "loaded" in log
    assert "m-0 backing off" in log


async def test_a_hanging_engine_is_restarted_while_calls_wait(build):
    replica, phases = build(probe=Well, in_flight=lambda _: 1)
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.facts.ready and replica.state.progress)
    pid = replica.describe()["pid"]
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: replica.state.restarts == 1 and replica.facts.ready)
    assert (Phase.FAILED, False) in phases
    assert replica.describe()["pid"] != pid
    replica.kill()
    await asyncio.wait_for(running, 5)


async def test_an_engine_that_cannot_start_is_tried_again_and_says_why(build):
    code = "import sys; print('no such model: x.gguf'); sys.exit(3)"
    replica, _ = build([sys.executable, "-c", code])
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.state and replica.state.restarts >= 2)
    await until(lambda: replica.phase is Phase.BACKING_OFF)
    assert replica.describe()["why"] == "exited with code 3; last line: no such model: x.gguf"
    replica.drain()
    await asyncio.wait_for(running, 5)
    missing, _ = build(["/no-such-engine"])
    missing.launch = replace(missing.launch, engine="embedded")
    running = asyncio.create_task(missing.run())
    await until(lambda: missing.phase is Phase.BACKING_OFF)
    assert "cannot start /no-such-engine" in missing.describe()["why"]
    missing.drain()
    await asyncio.wait_for(running, 5)


async def test_another_port_is_asked_for_after_a_start_that_never_answered(build, tmp_path):
    asked = []
    replica, _ = build([sys.executable, "-c", "raise SystemExit(1)"])
    plan = replica._plan
    replica._plan = lambda fresh: (asked.append(fresh), plan(fresh))[1]
    running = asyncio.create_task(replica.run())
    await until(lambda: len(asked) >= 2)
    assert all(asked)
    replica.kill()
    await asyncio.wait_for(running, 5)


async def test_a_cancelled_replica_leaves_no_process(build):
    replica, _ = build()
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.facts.ready)
    pid = replica.describe()["pid"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("turns", range(5))
async def test_when_it_is_cancelled_never_matters(build, turns):
    """Also just as its next turn was called for: a lost cancellation would watch, and restart, for ever."""
    replica, _ = build([sys.executable, "-c", "raise SystemExit(1)"])
    running = asyncio.create_task(replica.run())
    await asyncio.sleep(0)
    replica._nudged.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done, "it goes on"
    assert running.cancelled()
