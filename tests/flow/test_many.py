"""Many at once through one worker: none is lost, and each costs little memory."""

from __future__ import annotations

import asyncio

import pytest

from gemstead.testing import FakeEngine, Script, words
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
