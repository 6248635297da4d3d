"""The head with real gateway workers and real engine processes that pretend: nothing that can be routed around
is seen.

The engines are `gemstead.testing.FakeEngine`s in processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager

import httpx2
import pytest

from gemstead.engines.lifecycle import Allowance
from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.plan.values import Launch
from gemstead.spec.autoscale import AutoscaleSpec
from gemstead.spec.rollout import RolloutSpec
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.replica import Replica, Sight
from gemstead.wiring.addresses import reserve
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.head import Head
from gemstead.wiring.wanted import Seat, Wanted

ENGINE = """
import asyncio, sys
from gemstead.testing import FakeEngine, Script, words
async def main():
    async with FakeEngine(Script(pieces=words(20), pace_s=0.01), model=sys.argv[2], port=int(sys.argv[1])):
        await asyncio.sleep(3600)
asyncio.run(main())
"""
QUICK = Allowance(start_s=20, hang_s=30, backoff_s=0.05, backoff_most_s=0.4, drain_s=5, grace_s=0.5)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class HealthProbe:
    def __init__(self, launch: Launch) -> None:
        self.url = f"http://{launch.host}:{launch.port}"

    async def healthy(self) -> str:
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=2) as http:
                return "" if (await http.get(f"{self.url}/health")).status_code == 200 else "not well"
        except httpx2.HTTPError as error:
            return repr(error)

    async def listening(self) -> bool:
        return not await self.healthy()

    async def answers(self, within_s: float) -> str:
        return await self.healthy()

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
        return Sight()


class Service:
    """A head, and what a test does to it."""

    def __init__(self, tmp_path, *, workers=1, replicas=2, autoscale=None):
        self.tmp_path, self.troubles, self.shown = tmp_path, [], []
        self.held = reserve("127.0.0.1", 0)
        self.settings = GatewaySettings(
            host="127.0.0.1",
            port=self.held[0].getsockname()[1],
            workers=workers,
            pools=(Pool(name="m"),),
            keys_required=False,
        )
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.rollout, self.full = RolloutSpec(settle_s=0), ""
        self.autoscale = {"m": autoscale} if autoscale else {}
        self.next = self.wanted(replicas=replicas)
        self.gateway = GatewayWorkers(self.settings, self.log, lambda sentence: self.head.trouble(sentence))
        self.head = Head(self.next, self.gateway, self.reread, rescale=self.rescaled)
        self.task = asyncio.create_task(self.head.run())

    async def reread(self) -> Wanted:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    async def rescaled(self, model, count) -> Wanted:
        return self.wanted(replicas=count)

    def wanted(self, *, replicas=2, version="1", code=ENGINE, **settings) -> Wanted:
        from msgspec.structs import replace

        seats = tuple(self.seat(f"m-{number}", version, code) for number in range(replicas))
        settings = replace(self.settings, **settings)
        return Wanted(settings, seats, rollouts={"m": self.rollout}, autoscale=self.autoscale)

    def seat(self, name, version, code) -> Seat:
        def start(own_name):
            port = free_port()
            argv = (sys.executable, "-c", code, str(port), "m")
            launch = Launch(own_name, "m", "other", argv, "127.0.0.1", port, version=version)
            return Replica(
                lambda _: launch,
                QUICK,
                HealthProbe,
                log=lambda seen: self.log(own_name, seen),
                changed=self.changed,
                in_flight=self.gateway.in_flight,
            )

        return Seat(name, (version, code), start, "m", lambda: self.full)

    def changed(self):
        self.head.changed()

    def log(self, name, seen=None):
        return RotatedLog(self.tmp_path / f"{name}.log", most_bytes=1_000_000, files=1, seen=seen)

    def pids(self):
        return {one["name"]: one["pid"] for one in self.head.status()["endpoints"]}

    async def ready(self, count):
        await until(lambda: sum(one["ready"] for one in self.head.status()["endpoints"]) == count)

    async def ask(self, http) -> str:
        """One whole streamed answer's status and end."""
        async with http.stream("POST", f"{self.url}/v1/chat/completions", json=ASK) as response:
            lines = [line async for line in response.aiter_lines() if line]
        return f"{response.status_code} {lines[-1]}"


async def until(holds, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def service(tmp_path, **more):
    made = Service(tmp_path, **more)
    try:
        await until(lambda: made.gateway.listening.is_set())
        yield made
    finally:
        made.head.stop(now=True)
        await asyncio.wait_for(made.task, 15)
        for sock in made.held:
            sock.close()


@pytest.fixture
async def http():
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


async def test_a_killed_engine_is_routed_around_and_comes_back(tmp_path, http):
    async with service(tmp_path) as s:
        await s.ready(2)
        os.kill(s.pids()["m-0"], signal.SIGKILL)
        answers = [await s.ask(http) for _ in range(10)]
        assert set(answers) == {"200 data: [DONE]"}
        await s.ready(2)
        assert [one["restarts"] for one in s.head.status()["endpoints"]] == [1, 0]
        assert 'replica_restarts_total{replica="m-0"} 1\n' in await s.head.metrics()


async def test_a_killed_worker_is_replaced_and_no_counter_goes_back(tmp_path, http):
    async with service(tmp_path, replicas=1) as s:
        await s.ready(1)
        for _ in range(3):
            await s.ask(http)
        await until(lambda: s.gateway.seats["gateway-0"].figures is not None)
        before = requests_in(await s.head.metrics())
        assert before == 3
        engine = s.pids()
        s.gateway.listening.clear()
        os.kill(s.gateway.describe()[0]["pid"], signal.SIGKILL)
        await until(lambda: s.gateway.restarts == 1 and s.gateway.listening.is_set())
        assert requests_in(await s.head.metrics()) == 3
        assert await s.ask(http) == "200 data: [DONE]"
        assert requests_in(await s.head.metrics()) == 4
        assert s.pids() == engine, "the engine stayed warm"
        assert "\ngemstead_worker_restarts_total 1\n" in await s.head.metrics()


async def test_workers_share_the_port_and_their_figures_add_up(tmp_path):
    async with service(tmp_path, workers=2, replicas=1) as s:
        await s.ready(1)
        await until(lambda: all(one["listening"] for one in s.gateway.describe()))
        for _ in range(12):
            async with httpx2.AsyncClient(trust_env=False, timeout=20) as fresh:  # a connection each
                assert await s.ask(fresh) == "200 data: [DONE]"
        assert requests_in(await s.head.metrics()) == 12


async def test_a_reload_replaces_engines_without_dropping_a_call(tmp_path, http):
    async with service(tmp_path) as s:
        await s.ready(2)
        answers, stop = [], asyncio.Event()

        async def calling():
            while not stop.is_set():
                answers.append(await s.ask(http))

        callers = [asyncio.create_task(calling()) for _ in range(4)]
        s.next = s.wanted(version="2", retries=1)
        done = await s.head.reload()
        assert done["replacing"] == ["m-0", "m-1"]
        assert done["settings_changed"]
        await until(lambda: set(s.pids()) == {"m-0~2", "m-1~2"})
        stop.set()
        await asyncio.gather(*callers)
        assert set(answers) == {"200 data: [DONE]"}
        assert {one["version"] for one in s.head.status()["endpoints"]} == {"2"}


async def test_a_bad_file_is_refused_and_a_bad_engine_does_not_replace_a_good_one(tmp_path, http):
    async with service(tmp_path, replicas=1) as s:
        await s.ready(1)
        before = s.pids()
        s.next = ValueError("gemstead.yaml:3 models: wrong")
        assert await s.head.reload() == {"refused": ["gemstead.yaml:3 models: wrong"]}
        s.next = s.wanted(replicas=1, code="raise SystemExit('no such model')")
        assert (await s.head.reload())["replacing"] == ["m-0"]
        await until(lambda: any("the old one stays" in sentence for sentence in s.head.troubles))
        assert s.pids() == before
        assert await s.ask(http) == "200 data: [DONE]"
        s.next = s.wanted(replicas=2)
        assert (await s.head.reload())["added"] == ["m-1"]


async def test_a_watch_that_breaks_does_not_cost_the_endpoint(tmp_path, http):
    async with service(tmp_path, replicas=1) as s:
        await s.ready(1)
        watched = s.head.fleet.lives[0].watched
        watched._nudged = None  # a mistake of ours, in the middle of the watch
        await until(lambda: any("started afresh" in sentence for sentence in s.head.troubles))
        await s.ready(1)
        assert set(s.pids()) == {"m-0~2"}
        assert await s.ask(http) == "200 data: [DONE]"


async def test_callers_who_wait_bring_a_replica_and_it_goes_when_they_are_gone(tmp_path, http):
    """The pretend engine takes one call at once; 4 callers want 5 of it, and may have 2."""
    spec = AutoscaleSpec(most=2, up_after_s=0, down_after_s=1)
    async with service(tmp_path, replicas=1, autoscale=spec) as s:
        await s.ready(1)
        answers, stop = [], asyncio.Event()

        async def calling():
            while not stop.is_set():
                answers.append(await s.ask(http))

        callers = [asyncio.create_task(calling()) for _ in range(4)]
        await s.ready(2)
        assert 'gemstead_desired_replicas{model="m"} 2\n' in await s.head.metrics()
        stop.set()
        await asyncio.gather(*callers)
        await until(lambda: len(s.head.fleet.lives) == 1 and set(s.pids()) == {"m-0"})
        assert set(answers) == {"200 data: [DONE]"}
        assert s.head.autoscaler.desired == {"m": 1} and not s.head.troubles


async def test_a_model_without_calls_sleeps_and_the_next_caller_wakes_it(tmp_path, http):
    async with service(tmp_path, replicas=1, autoscale=AutoscaleSpec(least=0, most=1, idle_s=1)) as s:
        await s.ready(1)
        await until(lambda: s.head.fleet.pools["m"].asleep and not any(s.head.ready().values()))
        assert "gemstead_desired_replicas{" not in await s.head.metrics()
        assert await s.ask(http) == "200 data: [DONE]"
        assert not s.head.fleet.pools["m"].asleep and not s.head.troubles


async def test_stopping_finishes_what_runs_and_leaves_nothing(tmp_path, http):
    s = Service(tmp_path, replicas=1)
    await until(lambda: s.gateway.listening.is_set())
    await s.ready(1)
    call = asyncio.create_task(s.ask(http))
    await until(lambda: s.gateway.in_flight("m-0") or call.done())
    pids = [*s.pids().values(), s.gateway.describe()[0]["pid"]]
    s.head.stop(now=False)
    await asyncio.wait_for(s.task, 15)
    assert await call == "200 data: [DONE]"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def requests_in(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("gemstead_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_status_is_json(tmp_path):
    async def main():
        async with service(tmp_path, replicas=1) as s:
            return json.dumps(s.head.status())

    assert '"endpoints"' in asyncio.run(main())
