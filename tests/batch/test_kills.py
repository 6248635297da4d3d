"""Killed at random moments, again and again: every line is answered exactly once.

The bound on lines that run twice is the theory of `ledger/resultlog.py`: those on their way at a kill, and those whose
answer was not synced yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from batch_house import house, lines

import openai
from gemstead.testing.engine import FakeEngine
from gemstead.testing.script import Script

CONCURRENCY = 16


def check(answers: list[dict], executed: Counter, count: int, kills: int) -> None:
    """Every line is answered once, and none ran more often than kills allow."""
    assert [answer["custom_id"] for answer in answers] == [f"c{number}" for number in range(1, count + 1)]
    assert len({answer["id"] for answer in answers}) == count
    assert all(answer["response"]["status_code"] == 200 for answer in answers)
    assert set(executed) == {f"question {number}" for number in range(1, count + 1)}
    again = sum(executed.values()) - count
    # At a kill: at most CONCURRENCY on their way, and as many answers as come in during one gathering and its sync.
    assert again <= kills * CONCURRENCY * 3, f"{again} ran again after {kills} kills"


async def test_500_lines_and_5_kills(tmp_path):
    chance = random.Random(4)
    async with house(tmp_path, Script(delay_s=0.01), concurrency=CONCURRENCY) as home:
        batch = await home.order(lines(500))
        for _ in range(5):
            seen = len(home.engine.seen) + chance.randrange(20, 80)
            await home.engine.until(lambda seen=seen: len(home.engine.seen) >= seen, within_s=20.0)
            await home.kill()
            await home.start()
        done = await home.ended(batch.id)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == (
            "completed",
            500,
            0,
        )
        assert done.usage.output_tokens == 500 * 7, "what ran twice is counted once"
        check(await home.answers(done.output_file_id), home.executed(), 500, 5)


async def test_kills_before_and_after_the_lines(tmp_path):
    """In validation, at the end, and when nothing is left to do."""
    async with house(tmp_path, concurrency=CONCURRENCY) as home:
        batch = await home.order(lines(200))
        for pause_s in (0.0, 0.01, 0.05, 0.1, 0.2, 0.0):
            await asyncio.sleep(pause_s)
            await home.kill()
            await home.start()
        done = await home.ended(batch.id)
        check(await home.answers(done.output_file_id), home.executed(), 200, 6)
        await home.kill()
        await home.start()
        assert (await home.client().batches.retrieve(batch.id)).output_file_id == done.output_file_id
        assert list((tmp_path / "batch" / "results").iterdir()) == []


class Service:
    """`gemstead serve` before a pretend engine, killed and started as a machine would."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.folder, self.said = folder, folder / "serve.out"
        self.key = ""
        (folder / "gemstead.yaml").write_text(
            f"models: [{{name: m, endpoints: [{{url: '{engine.url}'}}]}}]\n"
            f"state_dir: {folder}/state\ngateway: {{listen: '127.0.0.1:0'}}\n"
            f"admin: {{listen: '127.0.0.1:0'}}\nbatch: {{concurrency: {CONCURRENCY}}}\n"
        )

    async def start(self) -> None:
        with self.said.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gemstead", "serve"), cwd=self.folder, stdout=out, stderr=out
            )
        deadline = time.monotonic() + 60
        while "Ready after" not in self.said.read_text():
            assert time.monotonic() < deadline and self.process.returncode is None, self.said.read_text()
            await asyncio.sleep(0.05)
        text = self.said.read_text()
        self.url = re.search(r"gateway on (http://\S+?),", text)[1]
        self.key = self.key or re.search(r"gms_\w+", text)[0]

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=5, timeout=30)

    async def kill(self, what: str) -> None:
        if what == "service":
            self.process.kill()
            await self.process.wait()
            await self.start()
            return
        command = [sys.executable, "-m", "gemstead", "ps", "--json"]
        said = await asyncio.to_thread(subprocess.run, command, cwd=self.folder, capture_output=True)
        status = json.loads(said.stdout)
        pid = status["batch"]["pid"] if what == "batch" else status["workers"][0]["pid"]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 60)


async def lines_and_kills(
    folder: Path, count: int, kills: list[str], between: tuple[int, int], delay_s: float = 0.005
) -> None:
    """`delay_s`: of each line; with lines that are too fast all are answered before the last kill."""
    chance = random.Random(len(kills))
    async with FakeEngine(Script(delay_s=delay_s)) as engine:
        service = Service(folder, engine)
        await service.start()
        try:
            file = await service.client().files.create(file=("in", lines(count)), purpose="batch")
            batch = await service.client().batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            for what in kills:
                seen = len(engine.seen) + chance.randrange(*between)
                await engine.until(lambda seen=seen: len(engine.seen) >= seen, within_s=60.0)
                await service.kill(what)
            deadline = time.monotonic() + 120
            while batch.status != "completed":
                assert time.monotonic() < deadline, batch
                await asyncio.sleep(0.1)
                with suppress(openai.APIError):
                    batch = await service.client().batches.retrieve(batch.id)
            content = (await service.client().files.content(batch.output_file_id)).text
            executed = Counter(json.loads(seen.body)["messages"][0]["content"] for seen in engine.seen)
            check([json.loads(line) for line in content.splitlines()], executed, count, len(kills))
            assert batch.request_counts.completed == count
        finally:
            await service.stop()


async def test_a_killed_service_goes_on_where_it_was(tmp_path):
    await lines_and_kills(tmp_path, 300, ["service", "service"], (40, 90))


@pytest.mark.slow
async def test_10_000_lines_and_20_kills(tmp_path):
    chance = random.Random(20)
    kills = [chance.choice(["batch", "batch", "service", "gateway"]) for _ in range(20)]
    await lines_and_kills(tmp_path, 10_000, kills, (100, 450), delay_s=0.1)
