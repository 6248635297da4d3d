"""Two real gateways before the same two engines, and a real Redis between them that is killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from gemstead.gateway.settings import Sharing
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger" / "counters"))

from servers import redis_server

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
SECRET = "s" * 32


async def ask(stack, text, stream=False):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    async with await stack.peer(within_s=60.0) as peer:
        await peer.send(post(body))
        return await peer.answer()


async def shown(stack, name, holds, within_s=10.0):
    """Wait until a figure of a worker is as it should be."""
    until = time.monotonic() + within_s
    while not holds(value := (await stack.figures()).snapshot.get(f"gemstead_{name}", {})):
        assert time.monotonic() < until, (name, value, stack.log())
        await asyncio.sleep(0.05)


def first(value):
    return [numbers[0] for numbers in value.values()]


def who(engine, text):
    return sum(text in json.loads(seen.body)["messages"][0]["content"] for seen in engine.seen)


@contextlib.asynccontextmanager
async def two_gateways(a, b, tmp_path, url):
    sharing = Sharing(store=url, secret=SECRET)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    async with (
        start_stack(a, b, folder=tmp_path / "1", sharing=sharing) as one,
        start_stack(a, b, folder=tmp_path / "2", sharing=sharing) as two,
    ):
        for stack in (one, two):
            await shown(stack, "sharing_others", lambda value: first(value) == [1.0])
        yield one, two


async def test_one_goes_where_the_other_warmed_and_not_where_it_is_busy(tmp_path):
    """And when Redis dies, each goes on alone; when it is back, they share again."""
    async with FakeEngine(Script(pieces=words(3))) as a, FakeEngine(Script(pieces=words(3))) as b:
        with redis_server() as server:
            async with two_gateways(a, b, tmp_path, server.url) as (one, two):
                prompts = [f"{n}: " + f"story {n} " * 2500 for n in range(6)]
                for prompt in prompts:
                    assert (await ask(one, prompt)).status == 200
                where = {prompt: a if who(a, prompt[:30]) else b for prompt in prompts}
                taken = lambda value: 6.0 in first(value)  # noqa: E731
                await shown(two, "sharing_heads_total", taken)
                for prompt in prompts:
                    await ask(two, prompt + " more")
                    assert who(where[prompt], prompt[:30]) == 2

                # Gateway 1 has long calls at one engine; gateway 2 has none, and keeps away from it.
                slow = Script(pieces=words(3), first_token_s=60.0)
                a.script = slow
                busy = [
                    asyncio.create_task(ask(one, prompts[0][:6] + f"{n}" * 20_000, True)) for n in range(4)
                ]
                await a.until(lambda: a.running >= 1)
                before = who(b, "new")
                await shown(two, "endpoint_others", lambda value: any(first(value)))
                for n in range(5):
                    assert (await ask(two, f"new {n}")).status == 200
                assert who(b, "new") == before + 5

                server.kill()
                await shown(two, "sharing_healthy", lambda value: first(value) == [0.0])
                await shown(two, "endpoint_others", lambda value: not any(first(value)))
                a.script = Script(pieces=words(3))
                assert [(await ask(two, f"alone {n}")).status for n in range(4)] == [200] * 4
                assert two.log().count("nothing is shared") == 1
                server.start()
                await shown(two, "sharing_healthy", lambda value: first(value) == [1.0])
                await shown(two, "endpoint_others", lambda value: any(first(value)))
                for task in busy:
                    task.cancel()
                await asyncio.gather(*busy, return_exceptions=True)


async def test_a_gateway_that_is_killed_expires(tmp_path):
    slow = Script(pieces=words(3), first_token_s=60.0)
    async with FakeEngine(slow) as a, FakeEngine(slow) as b:
        with redis_server() as server:
            async with two_gateways(a, b, tmp_path, server.url) as (one, two):
                busy = asyncio.create_task(ask(one, "a long story", True))
                await shown(two, "endpoint_others", lambda value: sum(first(value)) == 1.0)
                one.process.kill()
                await shown(two, "endpoint_others", lambda value: sum(first(value)) == 0.0)
                await shown(two, "sharing_others", lambda value: first(value) == [0.0])
                busy.cancel()
                await asyncio.gather(busy, return_exceptions=True)


async def test_a_store_that_was_never_there_costs_nothing_but_a_word(tmp_path):
    async with FakeEngine(Script(pieces=words(3))) as a, FakeEngine(Script(pieces=words(3))) as b:
        sharing = Sharing(store="redis://127.0.0.1:9/0", secret=SECRET)
        async with start_stack(a, b, folder=tmp_path, sharing=sharing) as stack:
            await shown(stack, "sharing_healthy", lambda value: first(value) == [0.0])
            assert (await ask(stack, "hello")).status == 200
            assert "served without" in stack.log()
