"""Reload, drain and the head's death, with calls running: nothing accepted is lost or cut without a word."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from msgspec.structs import replace

from gemstead.gateway.control import Drain, Drained, Fleet, Trouble
from gemstead.gateway.settings import Deadlines, Pool
from gemstead.testing import FakeEngine, Script, make_key, words
from gemstead.testing.peer import Answer, events, post
from gemstead.testing.stack import Stack, start_stack
from gemstead.traffic.caller import RateLimit

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = ASK | {"stream": True}
SLOW = Script(pieces=words(20), pace_s=0.02)


async def ask(stack: Stack, fields: object, count: int = 1) -> list[Answer]:
    """Answers to `count` requests on one connection."""
    async with await stack.peer(within_s=20.0) as peer:
        answers = []
        for _ in range(count):
            await peer.send(post(fields))
            answers.append(await peer.answer())
        return answers


async def test_a_reload_under_load_fails_no_request(tmp_path):
    async with (
        FakeEngine(Script(pieces=words(5), pace_s=0.01)) as one,
        FakeEngine(Script(pieces=words(5), pace_s=0.01)) as two,
        start_stack(one, two, folder=tmp_path) as stack,
    ):
        load = [asyncio.create_task(ask(stack, STREAM if n % 2 else ASK, 5)) for n in range(40)]
        for number in range(20):
            await asyncio.sleep(0.02)
            pools = (Pool(name="m", aliases=(f"alias-{number}",)),)
            stack.configure(pools=pools, deadlines=Deadlines(first_token_s=100.0 + number))
        answers = [answer for group in await asyncio.gather(*load) for answer in group]
        assert [answer.status for answer in answers] == [200] * 200
        [renamed] = await ask(stack, ASK | {"model": "alias-19"})
        [gone] = await ask(stack, ASK | {"model": "alias-18"})
        assert (renamed.status, gone.status) == (200, 404)
        assert {record.outcome for record in await stack.records(202)} == {"served", "unknown_model"}
        await stack.quiet()
        assert "Traceback" not in stack.log()


async def test_endpoints_come_and_go_under_load(tmp_path):
    script = Script(pieces=words(5), pace_s=0.01)
    async with (
        FakeEngine(script) as one,
        FakeEngine(script) as two,
        FakeEngine(script) as three,
        start_stack(one, two, folder=tmp_path) as stack,
    ):
        a, b, c = (
            engine.facts(name, pool="m") for engine, name in zip((one, two, three), "abc", strict=True)
        )
        load = [asyncio.create_task(ask(stack, STREAM, 5)) for _ in range(40)]
        for fleet in [(a, b, c), (b, c), (c,), (a, c), (a,), (a, b), (b,), (a, b, c)] * 3:
            await asyncio.sleep(0.02)
            stack.say(Fleet(endpoints=fleet))
        answers = [answer for group in await asyncio.gather(*load) for answer in group]
        assert [answer.status for answer in answers] == [200] * 200
        assert all(events(answer.body)[-1] == b"data: [DONE]" for answer in answers)
        assert {record.outcome for record in await stack.records(200)} == {"served"}
        assert one.served and two.served and three.served
        assert one.aborted + two.aborted + three.aborted == 0
        await stack.quiet()


async def test_an_engine_that_is_removed_while_it_fails_is_still_replaced(tmp_path):
    """The endpoint that a call was sent to has gone from the fleet when it dies."""
    async with (
        FakeEngine(Script(never=True)) as one,
        FakeEngine() as two,
        start_stack(one, folder=tmp_path) as stack,
    ):
        [warm] = [asyncio.create_task(ask(stack, ASK))]
        await one.until(lambda: len(one.seen) == 1)
        stack.say(Fleet(endpoints=(two.facts("b", pool="m"),)))
        await stack.figures()
        await one.kill()
        [answer] = await warm
        assert answer.status == 200
        [record] = await stack.records(1)
        assert (record.endpoint, record.attempts, record.outcome) == ("b", 2, "served")
        await stack.quiet()


async def test_a_model_that_is_removed_while_its_engine_fails_is_one_clear_error(tmp_path):
    async with FakeEngine(Script(never=True)) as one, start_stack(one, folder=tmp_path) as stack:
        asking = asyncio.create_task(ask(stack, ASK))
        await one.until(lambda: len(one.seen) == 1)
        stack.configure(pools=(Pool(name="other"),), endpoints=())
        await stack.figures()
        await one.kill()
        [answer] = await asking
        assert answer.status == 502
        assert "Traceback" not in stack.log()


async def test_a_draining_endpoint_gets_no_new_calls_and_finishes_its_own(tmp_path):
    async with (
        FakeEngine(SLOW) as one,
        FakeEngine() as two,
        start_stack(one, folder=tmp_path) as stack,
    ):
        running = asyncio.create_task(ask(stack, STREAM))
        await one.until(lambda: len(one.seen) == 1)
        stack.say(
            Fleet(endpoints=(replace(one.facts("a", pool="m"), draining=True), two.facts("b", pool="m")))
        )
        for answer in await ask(stack, ASK, 10):
            assert answer.status == 200
        assert len(one.seen) == 1
        [answer] = await running
        assert events(answer.body)[-1] == b"data: [DONE]"


async def test_words_that_cannot_be_followed_change_nothing(tmp_path):
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path) as stack:
        stack.configure(hash_key="no hexadecimal")
        stack._writer.write(b"this is no word\n")
        for _ in range(2):  # what troubles a worker is told a moment later
            await stack.figures()
        assert sum(isinstance(word, Trouble) for word in stack.heard) == 2
        [answer] = await ask(stack, ASK)
        assert answer.status == 200


async def test_keys_that_become_required_lock_the_gateway_at_once(tmp_path):
    key = make_key(tmp_path)
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path) as stack:
        assert (await ask(stack, ASK))[0].status == 200
        stack.configure(keys_required=True, keys_path=key.keys_path, pepper=key.pepper)
        await stack.figures()
        assert (await ask(stack, ASK))[0].status == 401


async def test_limits_change_with_a_reload(tmp_path):
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path) as stack:
        stack.configure(limit=RateLimit(requests_per_minute=1))
        await stack.figures()
        assert [answer.status for answer in await ask(stack, ASK, 2)] == [200, 429]
        stack.configure(limit=RateLimit())
        await stack.figures()
        assert [answer.status for answer in await ask(stack, ASK, 2)] == [200, 200]


@pytest.mark.parametrize("by", ["signal", "word"])
async def test_a_drain_finishes_what_runs(tmp_path, by):
    async with FakeEngine(SLOW) as engine, start_stack(engine, folder=tmp_path) as stack:
        idle = await stack.peer()
        await idle.send(post(STREAM | {"model": "none"}))
        await idle.answer()
        running = [asyncio.create_task(ask(stack, STREAM)) for _ in range(10)]
        uploading = await stack.peer()
        await uploading.send(post(ASK)[:-5])
        await engine.until(lambda: len(engine.seen) == 10)
        if by == "signal":
            stack.process.send_signal(signal.SIGTERM)
        else:
            stack.say(Drain())
        assert await idle.closed()
        with pytest.raises(OSError):
            await stack.peer()
        await uploading.send(post(ASK)[-5:])
        late = await uploading.answer()
        assert (late.status, late.headers["connection"]) == (200, "close")
        for [answer] in await asyncio.gather(*running):
            assert events(answer.body)[-1] == b"data: [DONE]"
        assert await asyncio.wait_for(stack.process.wait(), 5) == 0
        outcomes = [record.outcome for record in await stack.records(12)]
        assert sorted(outcomes) == ["served"] * 11 + ["unknown_model"]
        assert Drained(unfinished=0) in stack.heard
        assert "Traceback" not in stack.log()


async def test_a_drain_is_bounded_and_says_so(tmp_path):
    deadlines = Deadlines(drain_s=0.5)
    async with (
        FakeEngine(Script(pieces=words(1000), pace_s=0.02)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
    ):
        streaming, whole = asyncio.create_task(ask(stack, STREAM)), await stack.peer()
        await engine.until(lambda: len(engine.seen) == 1)
        engine.script = Script(never=True)
        await whole.send(post(ASK) + post(ASK))
        await engine.until(lambda: len(engine.seen) == 2)
        began = time.monotonic()
        stack.process.send_signal(signal.SIGTERM)
        [answer] = await streaming
        told = events(answer.body)
        assert b"is stopping" in told[-2]
        assert len(told) > 5
        refused = await whole.answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert await whole.closed()
        assert await asyncio.wait_for(stack.process.wait(), 5) == 0
        assert time.monotonic() - began < 4
        records = await stack.records(3)
        assert {record.outcome for record in records} == {"draining"}
        assert engine.aborted == 2
        assert Drained(unfinished=2) in stack.heard


async def test_a_worker_whose_head_dies_ends_at_once_and_keeps_its_records(tmp_path):
    async with (
        FakeEngine(Script(pieces=words(1000), pace_s=0.02)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
    ):
        for _ in range(50):
            await ask(stack, ASK)
        peers = [await stack.peer() for _ in range(5)]
        for peer in peers:
            await peer.send(post(STREAM))
        await engine.until(lambda: len(engine.seen) == 55)
        stack.behead()
        assert await asyncio.wait_for(stack.process.wait(), 3) == 1
        outcomes = [record.outcome for record in await stack.records(55)]
        assert outcomes.count("served") == 50
        assert outcomes.count("draining") == 5
        await engine.until(lambda: engine.open_connections == 0)
        for peer in peers:
            peer.close()


async def test_a_worker_refuses_to_let_everybody_in_for_want_of_keys(tmp_path):
    with pytest.raises(RuntimeError, match="does not listen"):
        async with start_stack(folder=tmp_path, keys_required=True, keys_path=""):
            pass
