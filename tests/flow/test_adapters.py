"""Adapters that are loaded when calls name them: who waits, who is told, and that nothing is asked for twice."""

from __future__ import annotations

import asyncio
import json

from msgspec.structs import replace

from gemstead.gateway.control import AdapterFailed, Fleet, NeedAdapter
from gemstead.gateway.settings import Pool
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack
from gemstead.traffic.queue import QueueBounds

POOLS = (Pool(name="m", adapters=("Ahoy", "legal")),)


async def ask(stack, model):
    async with await stack.peer() as peer:
        await peer.send(post({"model": model, "messages": [{"role": "user", "content": "hi"}]}))
        return await peer.answer()


def needed(stack):
    return [word for word in stack.heard if isinstance(word, NeedAdapter)]


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def having(engine, name, *adapters):
    return replace(engine.facts(name, pool="m"), adapters=adapters)


async def test_calls_wait_for_an_adapter_and_go_where_it_is(tmp_path):
    async with FakeEngine(Script(pieces=words(3))) as a, FakeEngine(Script(pieces=words(3))) as b:
        endpoints = (having(a, "a"), having(b, "b"))
        async with start_stack(folder=tmp_path, endpoints=endpoints, pools=POOLS) as stack:
            assert (await ask(stack, "m")).status == 200  # the model itself needs nothing
            before = len(a.seen) + len(b.seen)
            calls = [asyncio.create_task(ask(stack, name)) for name in ("Ahoy", "ahoy", "AHOY")]
            await until(lambda: needed(stack))
            await asyncio.sleep(0.2)
            assert needed(stack) == [NeedAdapter(pool="m", adapter="Ahoy")]
            assert len(a.seen) + len(b.seen) == before
            stack.say(Fleet(endpoints=(having(a, "a"), having(b, "b", "Ahoy"))))
            assert [(await call).status for call in calls] == [200] * 3
            assert [json.loads(seen.body)["model"] for seen in b.seen[-3:]] == ["Ahoy"] * 3
            for _ in range(4):
                assert (await ask(stack, "ahoy")).status == 200
            assert sum(json.loads(seen.body)["model"] == "Ahoy" for seen in b.seen) == 7
            assert (await stack.figures()).adapters in ({"b": ["Ahoy"]}, {})


async def test_one_engine_alone_is_asked_as_well(tmp_path):
    async with FakeEngine(Script(pieces=words(3))) as a:  # noqa: SIM117 -- the worker ends first
        async with start_stack(folder=tmp_path, endpoints=(having(a, "a"),), pools=POOLS) as stack:
            call = asyncio.create_task(ask(stack, "legal"))
            await until(lambda: needed(stack))
            stack.say(Fleet(endpoints=(having(a, "a", "legal"),)))
            assert (await call).status == 200


async def test_an_adapter_that_cannot_be_loaded_is_told_to_all_who_wait_and_to_the_operator(tmp_path):
    async with FakeEngine(Script(pieces=words(3))) as a:  # noqa: SIM117 -- the worker ends first
        async with start_stack(folder=tmp_path, endpoints=(having(a, "a"),), pools=POOLS) as stack:
            calls = [asyncio.create_task(ask(stack, "legal")) for _ in range(3)]
            await until(lambda: needed(stack))
            await asyncio.sleep(0.1)
            stack.say(AdapterFailed(pool="m", adapter="legal", why="404: no such folder"))
            answers = [await call for call in calls]
            assert {answer.status for answer in answers} == {502}
            assert "The adapter legal could not be loaded" in json.loads(answers[0].body)["error"]["message"]
            records = await stack.records(3)
            assert {record.reason for record in records} == {"legal: 404: no such folder"}
            assert not a.seen
            await stack.quiet()


async def test_nobody_waits_for_ever_and_who_leaves_is_forgotten(tmp_path):
    bounds = QueueBounds(starting_wait_s=1.0, wait_s=0.5, requests=2)
    async with FakeEngine(Script(pieces=words(3))) as a:  # noqa: SIM117 -- the worker ends first
        async with start_stack(
            folder=tmp_path, endpoints=(having(a, "a"),), pools=POOLS, queue=bounds
        ) as stack:
            gone = await stack.peer()
            await gone.send(post({"model": "legal", "messages": [{"role": "user", "content": "hi"}]}))
            await until(lambda: needed(stack))
            gone.close()
            late = asyncio.create_task(ask(stack, "legal"))
            answer = await late
            assert answer.status == 429 and "retry-after" in answer.headers
            outcomes = sorted(record.outcome for record in await stack.records(2))
            assert outcomes == ["client_left", "overloaded"]
            many = [asyncio.create_task(ask(stack, "legal")) for _ in range(4)]
            assert [(await call).status for call in many] == [429] * 4
            await stack.quiet()


async def test_where_those_that_have_it_are_busy_another_is_asked_to_load_it(tmp_path):
    slow = Script(pieces=words(3), delay_s=1.0)
    async with FakeEngine(slow) as a, FakeEngine(slow) as b:
        endpoints = (replace(having(a, "a", "Ahoy"), slots=1), replace(having(b, "b"), slots=1))
        async with start_stack(folder=tmp_path, endpoints=endpoints, pools=POOLS) as stack:
            first = asyncio.create_task(ask(stack, "ahoy"))
            await a.until(lambda: len(a.seen) == 1)
            second = asyncio.create_task(ask(stack, "ahoy"))
            await until(lambda: needed(stack))
            stack.say(Fleet(endpoints=(endpoints[0], replace(having(b, "b", "Ahoy"), slots=1))))
            assert [(await call).status for call in (first, second)] == [200, 200]
