"""Clients that are slow on purpose or by accident cost a bounded time and a bounded buffer."""

from __future__ import annotations

import asyncio

from gemstead.gateway.settings import Bounds, Deadlines
from gemstead.testing import FakeEngine, Script, make_key
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack

ASK = {"model": "m", "messages": [], "stream": True}
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
PATIENT = Deadlines(client_header_s=30, client_body_s=30, client_idle_s=30)


async def drip(peer, data: bytes, pause_s: float) -> None:
    """Send byte by byte, until the other side has enough."""
    try:
        for place in range(len(data)):
            await peer.send(data[place : place + 1])
            await asyncio.sleep(pause_s)
    except ConnectionError:
        pass


async def test_slow_headers_are_answered_with_408_at_the_deadline(tmp_path):
    deadlines = Deadlines(client_header_s=0.4)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        dripping = asyncio.create_task(drip(peer, post(ASK), 0.02))
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await peer.closed()
        await dripping
        [record] = await stack.records(1)
        assert (record.outcome, record.status) == ("slow_client", 408)
        await stack.sockets_fall_to(stack.sockets_at_start)


async def test_slow_headers_behind_running_requests_have_the_same_deadline(tmp_path):
    deadlines = Deadlines(client_header_s=0.3)
    async with (
        FakeEngine(Script(delay_s=0.2)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK) + post(ASK) + b"GET / HT")
        assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 408]
        assert await peer.closed()


async def test_a_client_that_sends_more_than_we_read_is_not_called_slow(tmp_path):
    """Twenty requests wait behind a slow one, and the last arrives in pieces because we stopped reading."""
    deadlines = Deadlines(client_header_s=0.3, client_body_s=0.3)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        engine.then(Script(delay_s=1.0))
        await peer.send(post(ASK) * 17 + post(ASK)[:30])
        await asyncio.sleep(0.05)
        await peer.send(post(ASK)[30:] + post(ASK))
        assert [(await peer.answer()).status for _ in range(19)] == [200] * 19


async def test_a_pause_in_a_body_is_bounded(tmp_path):
    deadlines = Deadlines(client_body_s=0.3)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(CHAT + b"Content-Length: 100\r\n\r\n12345")
        assert (await peer.answer()).status == 408
        assert await peer.closed()
        assert engine.seen == []
        [record] = await stack.records(1)
        assert (record.outcome, record.route) == ("slow_client", "/v1/chat/completions")


async def test_a_body_that_drips_is_bounded_too(tmp_path):
    """Each pause is short, and all of them together are not."""
    deadlines = Deadlines(client_body_s=0.05)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(CHAT + b"Content-Length: 10000\r\n\r\n")
        dripping = asyncio.create_task(drip(peer, b"x" * 10_000, 0.01))
        assert (await peer.answer()).status == 408
        dripping.cancel()


async def test_an_idle_connection_is_closed_without_a_word(tmp_path):
    deadlines = Deadlines(client_idle_s=0.3)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as fresh,
        await stack.peer() as used,
    ):
        await used.send(post(ASK))
        assert (await used.answer()).status == 200
        assert await used.closed()
        assert await fresh.closed()
        await stack.records(1)


async def test_a_long_answer_is_not_an_idle_connection(tmp_path):
    deadlines = Deadlines(client_idle_s=0.1, client_header_s=0.1, client_body_s=0.1, client_write_s=0.1)
    script = Script(delay_s=0.4, pace_s=0.1)
    async with (
        FakeEngine(script) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        assert events((await peer.answer()).body)[-1] == b"data: [DONE]"


FLOOD = tuple(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % (b"x" * 8000) for _ in range(4000))


async def test_a_client_that_never_reads_costs_a_bounded_buffer(tmp_path):
    """32 MB for a client that takes nothing: the engine is held back, and the client given up."""
    deadlines = Deadlines(client_write_s=1.5)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
    ):
        async with await stack.peer() as peer:  # so that what is loaded at a first call is not counted
            await peer.send(post(ASK))
            await peer.answer()
        before = stack.resident_bytes()
        engine.then(Script(events=FLOOD))
        peer = await stack.peer(receive_bytes=4096)
        peer.writer.transport.pause_reading()
        await peer.send(post(ASK))
        most = 0
        while not engine.aborted:
            most = max(most, stack.resident_bytes())
            await asyncio.sleep(0.02)
        assert most - before < 2 << 20
        _, record = await stack.records(2)
        assert record.outcome == "slow_client"
        assert 0 < record.bytes_out < 20_000_000
        assert 0 < record.output_tokens < len(FLOOD)
        await stack.quiet()
        peer.close()
        await stack.sockets_fall_to(stack.sockets_at_start + 1)


async def test_a_slow_reader_gets_everything(tmp_path):
    async with (
        FakeEngine(Script(events=FLOOD[:400])) as engine,
        start_stack(engine, folder=tmp_path, deadlines=Deadlines(client_write_s=0.5)) as stack,
        await stack.peer(receive_bytes=4096) as peer,
    ):
        await peer.send(post(ASK))
        await peer.head()
        got = 0
        while chunk := await peer.chunk():
            got += len(chunk)
            if got % 10 == 0:
                await asyncio.sleep(0.01)
        assert got >= sum(map(len, FLOOD[:400]))
        assert engine.served == 1


async def test_pipelined_requests_of_a_client_that_never_reads_wait(tmp_path):
    """Their answers would fill memory: they are not even begun."""
    deadlines = Deadlines(client_write_s=0.5)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
    ):
        before = stack.resident_bytes()
        peer = await stack.peer(receive_bytes=4096, within_s=0.5)
        peer.writer.transport.pause_reading()
        line = b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
        most = 0
        try:
            for _ in range(1000):
                await peer.send(line * 1000)
                most = max(most, stack.resident_bytes() - before)
        except (TimeoutError, ConnectionError):
            pass
        else:
            raise AssertionError("the gateway took a million requests of a client that reads no answer")
        assert most < 40 << 20
        peer.close()
        await stack.sockets_fall_to(stack.sockets_at_start)


async def test_more_connections_than_allowed_are_told_so(tmp_path):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, bounds=Bounds(connections=5), deadlines=PATIENT) as stack,
    ):
        held = [await stack.peer() for _ in range(5)]
        for peer in held:
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
        async with await stack.peer() as sixth:
            answer = await sixth.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            sixth.shut()
            assert await sixth.closed()
        held.pop().close()
        await stack.sockets_fall_to(stack.sockets_at_start + 5)
        async with await stack.peer() as again:
            await again.send(post(ASK))
            assert (await again.answer()).status == 200
        for peer in held:
            peer.close()
        records = await stack.records(7)
        assert [record.outcome for record in records].count("shed") == 1


async def test_what_nobody_identified_has_sent_is_not_kept(tmp_path):
    """30 MB without a key cost their bytes on the wire, and no memory."""
    key = make_key(tmp_path)
    async with (
        FakeEngine() as engine,
        start_stack(
            engine, folder=tmp_path, keys_required=True, keys_path=key.keys_path, pepper=key.pepper
        ) as stack,
    ):
        before = stack.resident_bytes()
        peers = [await stack.peer() for _ in range(8)]
        head = b"POST %s HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 30000000\r\n\r\n"

        async def pour(peer, path: bytes) -> None:
            try:
                await peer.send(head % path, *[b"x" * 100_000] * 30)
            except ConnectionError:
                pass

        paths = [b"/v1/chat/completions", b"/", b"/nothing", b"/healthz"] * 2
        await asyncio.gather(*map(pour, peers, paths))
        assert stack.resident_bytes() - before < 4 << 20
        for peer in peers:
            peer.close()
