"""The pretend engine that batches: it takes as long as the simulated one, and says the same."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import httpx2

from gemstead.testing.batching import SMALL, BatchingEngine


def ask(words: int = 10, tokens: int = 5, stream: bool = False) -> dict[str, object]:
    content = " ".join(f"w{n}" for n in range(words))
    return {
        "model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": tokens, "stream": stream,
    }  # fmt: skip


async def post(url: str, body: dict[str, object]) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=url, timeout=20.0, trust_env=False) as http:
        return await http.post("/v1/chat/completions", json=body)


async def test_answers_are_as_long_as_asked_for_and_say_so():
    async with BatchingEngine() as engine:
        whole = (await post(engine.url, ask(tokens=7))).json()
        assert whole["usage"]["completion_tokens"] == 7
        events = (await post(engine.url, ask(words=12, tokens=4, stream=True))).text.split("\n\n")
        assert events[-2] == "data: [DONE]"
        assert json.loads(events[-3].removeprefix("data: "))["usage"]["prompt_tokens"] == 12


async def test_it_takes_as_long_as_its_steps():
    slow = replace(SMALL, base_s=0.02, each_s=0.0)
    async with BatchingEngine(slow) as engine:
        began = time.monotonic()
        await post(engine.url, ask(tokens=21))
        assert time.monotonic() - began >= 0.4  # twenty steps and the one that reads


async def test_what_has_no_place_waits_for_one():
    async with BatchingEngine(replace(SMALL, most_running=1)) as engine:
        both = [asyncio.create_task(post(engine.url, ask(tokens=30))) for _ in range(2)]
        async with asyncio.timeout(10):
            while not engine.replica.waiting:
                await asyncio.sleep(0.002)
        assert len(engine.replica.running) == 1
        assert [answer.status_code for answer in await asyncio.gather(*both)] == [200, 200]
        assert not engine.replica.running


async def test_a_beginning_that_was_read_before_is_found_again():
    async with BatchingEngine() as engine:
        await post(engine.url, ask(words=640))
        read = engine.replica.prompt_done
        await post(engine.url, ask(words=700))
        assert engine.replica.prompt_done - read < 200
