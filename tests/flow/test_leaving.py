"""Clients that leave: noticed at any moment, the engine told at once, and the books closed."""

from __future__ import annotations

import asyncio
import time

import pytest

from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack
from gemstead.traffic.endpoint import EndpointFacts

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = ASK | {"stream": True}
SILENT = Script(never=True)
PREFILL = Script(first_token_s=30)
SLOW = Script(pieces=words(1000), pace_s=0.05)


async def until_asked(engine: FakeEngine, count: int = 1) -> None:
    await engine.until(lambda: len(engine.seen) == count)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("script", "fields"),
    [(SILENT, ASK), (SILENT, STREAM), (PREFILL, STREAM), (SLOW, STREAM)],
    ids=["silent whole", "silent stream", "prefill", "mid-stream"],
)
async def test_the_engine_is_told_at_once(tmp_path, script, fields, how):
    """The engine hears of it within a second on a busy machine; docs/benchmarks.md has what it is on an idle one."""
    async with FakeEngine(script) as engine, start_stack(engine, folder=tmp_path) as stack:
        peer = await stack.peer()
        await peer.send(post(fields))
        await until_asked(engine)
        if script is SLOW:
            await peer.head()
            for _ in range(3):  # the first says only whose turn it is
                await peer.chunk()
        left = asyncio.get_running_loop().time()
        getattr(peer, how)()
        await engine.until(lambda: engine.aborted == 1, 1.0)
        assert engine.left[0].left_at - left < 1.0
        await stack.quiet()
        [record] = await stack.records(1)
        assert (record.outcome, record.endpoint) == ("client_left", "a")
        assert (record.output_tokens > 0) == (script is SLOW)
        await stack.sockets_fall_to(stack.sockets_at_start)


async def test_twenty_leave_at_once(tmp_path):
    async with FakeEngine(SILENT) as engine, start_stack(engine, folder=tmp_path) as stack:
        peers = [await stack.peer() for _ in range(20)]
        for peer in peers:
            await peer.send(post(STREAM))
        await until_asked(engine, 20)
        left = asyncio.get_running_loop().time()
        for number, peer in enumerate(peers):
            peer.reset() if number % 2 else peer.close()
        await engine.until(lambda: engine.aborted == 20, 1.0)
        assert max(seen.left_at - left for seen in engine.left) < 1.0
        await stack.quiet()
        assert {record.outcome for record in await stack.records(20)} == {"client_left"}


async def test_a_client_that_leaves_while_we_connect(tmp_path):
    """To an address that drops packets: a backlog that is full, so that connecting hangs."""
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        facts = EndpointFacts(name="a", pool="m", host="127.0.0.1", port=full.getsockname()[1])
        async with start_stack(folder=tmp_path, endpoints=(facts,)) as stack:
            peer = await stack.peer()
            await peer.send(post(ASK))
            await asyncio.sleep(0.2)
            peer.close()
            [record] = await stack.records(1)
            assert (record.outcome, record.attempts) == ("client_left", 1)
            await stack.quiet()
            await stack.sockets_fall_to(stack.sockets_at_start)
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("fields", [ASK, STREAM], ids=["whole", "stream"])
async def test_a_client_that_only_shut_its_sending_side_gets_its_answer(tmp_path, fields):
    async with (
        FakeEngine(Script(delay_s=0.5, pieces=words(5), pace_s=0.05)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(fields))
        peer.shut()
        answer = await peer.answer()
        assert answer.status == 200
        if fields is STREAM:
            assert events(answer.body)[-1] == b"data: [DONE]"
        assert await peer.closed()
        [record] = await stack.records(1)
        assert record.outcome == "served"
        await stack.sockets_fall_to(stack.sockets_at_start + 1)


async def test_a_client_that_shuts_its_side_and_then_dies_is_noticed(tmp_path):
    async with FakeEngine(SILENT) as engine, start_stack(engine, folder=tmp_path) as stack:
        peer = await stack.peer()
        await peer.send(post(STREAM))
        await until_asked(engine)
        peer.shut()
        await asyncio.sleep(0.3)
        assert engine.aborted == 0
        peer.reset()
        await engine.until(lambda: engine.aborted == 1, 3.0)
        await stack.records(1)


async def test_who_waits_behind_another_request_leaves_a_record_too(tmp_path):
    async with FakeEngine(SILENT) as engine, start_stack(engine, folder=tmp_path) as stack:
        peer = await stack.peer()
        await peer.send(post(STREAM) * 5 + post(STREAM)[:-5])
        await until_asked(engine)
        peer.close()
        records = await stack.records(6)
        assert {record.outcome for record in records} == {"client_left"}
        assert len(engine.seen) == 1


async def test_leaving_in_the_middle_of_a_body(tmp_path):
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path) as stack:
        peer = await stack.peer()
        await peer.send(post(STREAM)[:-5])
        peer.close()
        [record] = await stack.records(1)
        assert (record.outcome, record.route) == ("client_left", "/v1/chat/completions")
        assert engine.seen == []


async def test_a_leaver_pays_for_what_was_generated(tmp_path):
    async with (
        FakeEngine(Script(pieces=words(1000), pace_s=0.01)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
    ):
        peer = await stack.peer()
        await peer.send(post(STREAM))
        await peer.head()
        for _ in range(11):  # the role comes first
            await peer.chunk()
        peer.close()
        began = time.monotonic()
        await engine.until(lambda: engine.aborted == 1, 1.0)
        assert time.monotonic() - began < 1.0
        [record] = await stack.records(1)
        assert record.output_tokens >= 10
        assert record.prompt_tokens > 0
        assert record.first_token_s is not None
        assert record.first_token_s <= record.seconds
