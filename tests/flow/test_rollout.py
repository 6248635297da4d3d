"""Releases changed under load, with real processes: no call fails, and a bad release goes back by itself.

The engines are `gemstead.testing.FakeEngine`s in processes of their own. A release is what such a process is told to
be: good, or bad in one of the ways that have been seen in production. Every request of every caller is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from msgspec.structs import replace

from gemstead.engines import llamacpp
from gemstead.engines.lifecycle import Allowance
from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.plan.values import Launch
from gemstead.spec.rollout import RolloutSpec
from gemstead.supervise.ask import probe_of
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.replica import Care, Replica
from gemstead.wiring.addresses import reserve
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.head import Head
from gemstead.wiring.wanted import Seat, Wanted

WITHIN_S = 10.0  # of a bad release serving its first calls, it is on its way out
CHECKED = 5  # requests that an engine gets before callers do: one answer, one to warm it, three questions
ENGINE = f"""
import asyncio, sys
from gemstead.testing import FakeEngine, Script, words
HOW = {{
    "good": Script(pieces=words(12), pace_s=0.005),
    "gibberish": Script(pieces=("\\ufffd\\ufffd ",) * 12),
    "errors": Script(status=500),
    "slow": Script(pieces=words(12), first_token_s=0.6, pace_s=0.02),
    "crash": Script(pieces=words(12), pace_s=0.005),
}}
async def main(port, how):
    async with FakeEngine(HOW[how], model="m", port=port) as engine:
        engine.then(*([HOW["gibberish" if how == "gibberish" else "good"]] * {CHECKED}))
        if how == "crash":
            await engine.until(lambda: engine.served >= {CHECKED} + 3, 3600)
            sys.exit(9)
        if how == "memory":
            print("failed to allocate", file=sys.stderr)
        await asyncio.sleep(3600)
if sys.argv[2] == "memory":
    print("llama_model_load: failed to allocate buffer", file=sys.stderr)
    sys.exit(1)
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""
QUICK = Allowance(
    start_s=20, hang_s=30, backoff_s=0.05, backoff_most_s=0.4, drain_s=5, grace_s=0.5, check=True
)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Service:
    """A head before pretend engines, and callers who never stop."""

    def __init__(self, tmp_path, rollout, replicas):
        self.tmp_path, self.rollout, self.replicas, self.full = tmp_path, rollout, replicas, ""
        self.held = reserve("127.0.0.1", 0)
        port = self.held[0].getsockname()[1]
        self.settings = GatewaySettings(
            host="127.0.0.1", port=port, pools=(Pool(name="m"),), keys_required=False
        )
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.next = self.wanted("good")
        self.gateway = GatewayWorkers(self.settings, self.log, lambda sentence: self.head.trouble(sentence))
        self.head = Head(self.next, self.gateway, self.reread)
        self.task = asyncio.create_task(self.head.run())
        self.answers, self.calling = [], []
        self.fewest = 99

    async def reread(self) -> Wanted:
        return self.next

    def wanted(self, how, mark=0) -> Wanted:
        seats = tuple(self.seat(f"m-{number}", how, mark) for number in range(self.replicas))
        return Wanted(replace(self.settings), seats, rollouts={"m": self.rollout})

    def seat(self, name, how, mark) -> Seat:
        def start(own_name):
            port = free_port()
            argv = (sys.executable, "-c", ENGINE, str(port), how)
            launch = Launch(own_name, "m", "llamacpp", argv, "127.0.0.1", port, served_model="m", version=how)
            return Replica(
                lambda _: launch,
                QUICK,
                probe_of,
                log=lambda seen: self.log(own_name, seen),
                changed=self.changed,
                in_flight=self.gateway.in_flight,
                read_log=llamacpp.read_log,
                care=Care(warm_up=True, check="refuse"),
            )

        return Seat(name, (how, mark), start, "m", lambda: self.full)

    def changed(self):
        self.head.changed()

    def log(self, name, seen=None):
        return RotatedLog(self.tmp_path / f"{name}.log", most_bytes=1_000_000, files=1, seen=seen)

    @property
    def endpoints(self):
        return self.head.status()["endpoints"]

    @property
    def release(self):
        return self.head.status()["releases"][0]

    def versions(self):
        return [one["version"] for one in self.endpoints]

    async def ready(self):
        await until(lambda: sum(one["ready"] for one in self.endpoints) == self.replicas)

    def load(self, callers=6):
        self.calling = [asyncio.create_task(self._call()) for _ in range(callers)]

    async def _call(self):
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
            while True:
                self.answers.append(await self.ask(http))
                self.fewest = min(self.fewest, sum(one["ready"] for one in self.endpoints))

    async def ask(self, http) -> str:
        """One whole streamed answer's status and end."""
        async with http.stream("POST", self.url, json=ASK) as response:
            lines = [line async for line in response.aiter_lines() if line]
        assert "\ufffd" not in "".join(lines), "a caller saw gibberish"
        return f"{response.status_code} {lines[-1]}"

    async def change(self, how, mark=0) -> dict:
        self.next = self.wanted(how, mark)
        return await self.head.reload()

    async def ended(self, count=1, seconds=40.0) -> dict:
        """The latest rollout's entry, once it has ended."""
        await until(lambda: len(self.release["history"]) >= count, seconds)
        return self.release["history"][-1]

    async def end_load(self):
        for task in self.calling:
            task.cancel()
        done = await asyncio.gather(*self.calling, return_exceptions=True)
        errors = [one for one in done if not isinstance(one, asyncio.CancelledError)]
        assert not errors, errors
        assert set(self.answers) == {"200 data: [DONE]"}, set(self.answers)


async def until(holds, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def service(tmp_path, *, replicas=2, **rollout):
    made = Service(tmp_path, RolloutSpec(**{"settle_s": 0.5, "check_every_s": 1.0, **rollout}), replicas)
    try:
        await until(lambda: made.gateway.listening.is_set())
        await made.ready()
        yield made
    finally:
        for task in made.calling:
            task.cancel()
        made.head.stop(now=True)
        await asyncio.wait_for(made.task, 15)
        for sock in made.held:
            sock.close()


CANARY = {
    "strategy": "canary",
    "shares": (30.0,),
    "watch_s": 1.0,
    "watch_most_s": 30.0,
    "least_calls": 10,
}


async def test_a_rolling_restart_under_load_fails_no_call_and_misses_no_replica(tmp_path):
    async with service(tmp_path) as s:
        s.load()
        pids = {one["pid"] for one in s.endpoints}
        assert "done" in await s.head.ask("restart", "m")
        assert "refused" in await s.head.ask("restart", "m"), "one at a time"
        entry = await s.ended()
        await s.end_load()
        assert entry["stage"] == "done"
        assert len(s.answers) > 20
        assert s.fewest >= 2, "an extra one came before one went"
        await until(lambda: len(s.endpoints) == 2)
        assert not pids & {one["pid"] for one in s.endpoints}


@pytest.mark.slow
async def test_without_room_one_goes_before_one_comes(tmp_path):
    async with service(tmp_path) as s:
        s.full = "the memory is full"
        s.load()
        await s.head.ask("restart", "m")
        most = 0
        while not s.release["history"]:
            most = max(most, sum(one["pid"] is not None for one in s.endpoints))
            await asyncio.sleep(0.02)
        await s.end_load()
        assert most <= 2
        assert s.fewest >= 1


@pytest.mark.slow
async def test_a_lone_engine_is_not_replaced_with_a_gap_unless_that_is_asked_for(tmp_path):
    async with service(tmp_path, replicas=1) as s:
        s.full = "the memory is full"
        refused = await s.head.ask("restart", "m")
        assert "no room" in refused["refused"][0]
        done = await s.change("good", mark=1)
        assert "--gap" in done["held"][0]
        s.load(callers=2)  # they wait while there is no engine
        assert "done" in await s.head.ask("start", "m", gap=True)
        assert (await s.ended())["stage"] == "done"
        await s.end_load()


@pytest.mark.slow
async def test_a_canary_release_that_is_good_arrives(tmp_path):
    async with service(tmp_path, **CANARY) as s:
        s.load()
        done = await s.change("good", mark=1)
        assert done["replacing"] == ["m-0", "m-1"]
        await until(lambda: any(one["weight"] == 0.3 for one in s.endpoints))
        entry = await s.ended()
        await s.end_load()
        assert entry["stage"] == "done", entry
        assert entry["calls"] >= 10
        assert s.release["release"] == "2"


async def bad_release(tmp_path, how, **rollout):
    """A bad release under load: what is remembered of it, and how long it had callers."""
    async with service(tmp_path, **rollout) as s:
        s.load()
        await asyncio.sleep(1.0)  # a baseline, as a service that runs has one
        await s.change(how)
        first = time.monotonic()
        while not s.release["history"]:
            if (
                not any(one["ready"] and one["release"] == "2" for one in s.endpoints)
                and s.release["rollout"]
            ):
                first = first if s.release["rollout"]["stage"] == "back" else time.monotonic()
            await asyncio.sleep(0.02)
        took_s = time.monotonic() - first
        await s.end_load()
        entry = s.release["history"][-1]
        assert entry["stage"] == "undone"
        assert s.release["release"] == "1"
        await until(lambda: s.versions() == ["good", "good"])
        assert any("was sent back, the old one stays" in sentence for sentence in s.head.troubles)
        held = (await s.head.reload())["held"]
        assert "sent back before" in held[0], "the same file does not try it again"
        return entry["why"], took_s


async def test_gibberish_never_meets_a_caller(tmp_path):
    why, took_s = await bad_release(tmp_path, "gibberish", **CANARY)
    assert "its answers are no language: broken characters" in why
    assert took_s < WITHIN_S


async def test_a_release_that_answers_500_goes_back_and_costs_nobody_an_answer(tmp_path):
    why, took_s = await bad_release(tmp_path, "errors", **CANARY)
    assert "calls failed (the old release: 0 of" in why or "500" in why
    assert took_s < WITHIN_S


@pytest.mark.slow
async def test_a_slow_release_goes_back(tmp_path):
    why, took_s = await bad_release(tmp_path, "slow", **CANARY | {"check_every_s": 60.0})
    assert "more than" in why
    assert took_s < WITHIN_S + 5


@pytest.mark.slow
async def test_a_release_that_dies_goes_back(tmp_path):
    why, took_s = await bad_release(tmp_path, "crash", strategy="rolling", settle_s=3.0)
    assert "died after it was ready" in why
    assert took_s < WITHIN_S


@pytest.mark.slow
async def test_a_release_without_enough_memory_goes_back_at_its_first_start(tmp_path):
    async with service(tmp_path, **CANARY) as s:
        s.load()
        await s.change("memory")
        await until(lambda: any(one.get("cause") == "out_of_memory" for one in s.endpoints))
        [sick] = [one for one in s.endpoints if one["cause"]]
        assert "not enough memory" in sick["why"]
        assert sick["remedy"]
        entry = await s.ended()
        await s.end_load()
        assert (entry["stage"], s.release["release"]) == ("undone", "1")


async def test_blue_green_switches_at_once_and_back(tmp_path):
    async with service(tmp_path, strategy="blue_green", keep_s=60.0) as s:
        s.load()
        old = {one["pid"] for one in s.endpoints}
        await s.change("good", mark=1)
        await until(lambda: s.release["rollout"]["stage"] == "keeping")
        assert {one["release"]: one["weight"] for one in s.endpoints} == {"1": 0.0, "2": 0.5}
        assert "done" in await s.head.ask("undo", "m")
        entry = await s.ended()
        assert (entry["stage"], entry["why"]) == ("undone", "asked for")
        await until(lambda: {one["pid"] for one in s.endpoints} == old)
        assert "done" in await s.head.ask("start", "m"), "once more, by somebody's word"
        await until(lambda: s.release["rollout"]["stage"] == "keeping")
        await s.head.ask("promote", "m")
        assert (await s.ended(2))["stage"] == "done"
        await s.end_load()
        assert s.fewest >= 2


@pytest.mark.slow
async def test_a_kill_in_the_middle_of_a_rollout_loses_nothing(tmp_path):
    """`kill -9` of an engine of the old release: the rollout goes on, and callers see nothing."""
    async with service(tmp_path, settle_s=1.0) as s:
        s.load()
        await s.change("good", mark=1)
        await until(lambda: any(one["ready"] and one["release"] == "2" for one in s.endpoints))
        victim = next(one for one in s.endpoints if one["release"] == "1" and one["pid"] and one["ready"])
        os.kill(victim["pid"], signal.SIGKILL)
        entry = await s.ended()
        assert entry["stage"] == "done"
        calls = [answer for answer in s.answers if answer != "200 data: [DONE]"]
        assert len(calls) <= 6, "only what ran on the killed one may have been cut"
        s.answers = [answer for answer in s.answers if answer == "200 data: [DONE]"]
        await s.end_load()


@pytest.mark.slow
async def test_sleep_gives_the_process_back_and_waking_answers(tmp_path):
    async with service(tmp_path) as s:
        assert "started again" in (await s.head.ask("sleep", "m"))["done"]
        await until(lambda: [one["phase"] for one in s.endpoints] == ["sleeping"] * 2)
        assert all(one["pid"] is None for one in s.endpoints)
        assert "sleeps" in (await s.head.ask("restart", "m"))["refused"][0]
        s.load(callers=4)  # the first call wakes it, and all wait for it
        await s.ready()
        await until(lambda: len(s.answers) > 8)
        await s.end_load()
        assert [one["restarts"] for one in s.endpoints] == [0, 0]


async def test_what_cannot_be_done_says_why(tmp_path):
    async with service(tmp_path, replicas=1) as s:
        asked = [("undo", "no earlier release"), ("promote", "no rollout"), ("start", "nothing waits")]
        for verb, words in asked:
            assert words in (await s.head.ask(verb, "m"))["refused"][0]
        assert "there are: m" in (await s.head.ask("restart", "x"))["refused"][0]
