"""Many at once through one worker: none is lost, each costs little memory, and who may be shed is shed first."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from gemstead.ledger.keys import Grant
from gemstead.testing import FakeEngine, Script, make_key, words
from gemstead.testing.peer import Peer, events, post
from gemstead.testing.stack import start_stack

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
MIB, KIB = 1 << 20, 1 << 10


@pytest.mark.slow
async def test_a_thousand_streams_at_once(tmp_path):
    """Bound of issue 2: 60 MiB and 20 KiB for each stream."""
    count = 1000
    async with (
        FakeEngine(Script(pieces=words(12), pace_s=1.0)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
    ):
        peers = [await stack.peer(within_s=60.0) for _ in range(count)]
        most = 0

        async def stream(peer: Peer) -> bytes:
            await peer.send(post(STREAM))
            return (await peer.answer()).body

        streams = [asyncio.create_task(stream(peer)) for peer in peers]
        await engine.until(lambda: len(engine.seen) == count, 30.0)
        said = await stack.figures()
        assert said.in_flight == {"a": count}
        for _ in range(20):
            most = max(most, stack.resident_bytes())
            await asyncio.sleep(0.1)
        for body in await asyncio.gather(*streams):
            told = events(body)
            assert len(told) == 12 + 3  # whose turn it is, the end, and [DONE]
            assert told[-1] == b"data: [DONE]"
        assert most <= 60 * MIB + count * 20 * KIB
        records = await stack.records(count)
        assert {(record.outcome, record.output_tokens) for record in records} == {("served", 12)}
        await stack.quiet()
        for peer in peers:
            peer.close()
        await stack.sockets_fall_to(stack.sockets_at_start + 256)


async def test_who_may_be_shed_is_shed_when_the_model_is_full(tmp_path):
    vip, batch = make_key(tmp_path, Grant(app="chat")), make_key(tmp_path, Grant(app="batch", priority=-1))
    async with FakeEngine(Script(never=True)) as engine:
        facts = replace(engine.facts("a", pool="m"), slots=2)  # full with two running and as many waiting
        async with start_stack(
            folder=tmp_path, endpoints=(facts,), keys_required=True, keys_path=vip.keys_path, pepper=vip.pepper
        ) as stack:  # fmt: skip
            held = []
            for number in range(6):
                key = batch if number < 4 else vip
                peer = await stack.peer()
                await peer.send(post(STREAM, headers=(f"Authorization: Bearer {key.secret}",)))
                await engine.until(lambda number=number: len(engine.seen) == number + 1)
                held.append(peer)
            async with await stack.peer() as peer:
                await peer.send(post(STREAM, headers=(f"Authorization: Bearer {batch.secret}",)))
                answer = await peer.answer()
                assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            [record] = await stack.records(1)
            assert (record.outcome, record.app, record.attempts) == ("shed", "batch", 0)
            for peer in held:
                peer.close()
            await stack.quiet()
