"""HTTP/1.1 as the public h1spec list expects it (https://github.com/uNetworking/h1spec), case by case.

The list names 33 requests and which statuses are right for each. Names and bytes are restated here; where
the list wants a body echoed, the engine behind the gateway must have received exactly that body.
"""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from gemstead.testing import FakeEngine
from gemstead.testing.stack import Stack, start_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n"
ASK = b'{"model":"m","messages":[]}'
WAITS, OK, NO, NO_OR_CANNOT = None, range(200, 300), range(400, 500), range(400, 600)
FRAGMENTS = {
    "method": b"G",
    "target 1": b"GET ",
    "target 2": b"GET /models",
    "target 3": b"GET /models ",
    "version": b"GET /models HTTP",
    "request line": b"GET /models HTTP/1.1",
    "request line's end 1": b"GET /models HTTP/1.1\r",
    "request line's end 2": b"GET /models HTTP/1.1\r\n",
    "field name": b"GET /models HTTP/1.1\r\nHos",
    "field value 1": b"GET /models HTTP/1.1\r\nHost:",
    "field value 2": b"GET /models HTTP/1.1\r\nHost: ",
    "field value 3": b"GET /models HTTP/1.1\r\nHost: gateway.test",
    "field value 4": b"GET /models HTTP/1.1\r\nHost: gateway.test\r",
    "head": b"GET /models HTTP/1.1\r\nHost: gateway.test\r\n",
    "head's end": b"GET /models HTTP/1.1\r\nHost: gateway.test\r\n\r",
}
WHOLE = {
    "no version": (b"GET / \r\n\r\n", NO_OR_CANNOT),
    "expect": (HEAD + b"Expect: 100-continue\r\n\r\n", OK),
    "valid": (HEAD + b"\r\n", OK),
    "valid, odd": (b"GET / HTTP/1.1\r\nhoSt:\tgateway.test\r\nnothing:\r\n\r\n", OK),
    "bad characters in a name": (HEAD + b"X-Bad[]: one\r\n\r\n", NO),
    "no host": (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", NO),
    "two hosts": (HEAD + b"Host: another.test\r\n\r\n", NO),
    "negative length, huge": (HEAD + b"Content-Length: -987654321987654321987654321\r\n\r\n", NO),
    "negative length": (HEAD + b"Content-Length: -4321\r\n\r\n", NO),
    "length of letters": (HEAD + b"Content-Length: xyz\r\n\r\n", NO),
    "empty value": (HEAD + b"X-Nothing: \r\n\r\n", OK),
    "control character in a value": (HEAD + b"X-Bell: one\x07\r\n\r\n", NO),
    "version 9.9": (b"GET / HTTP/9.9\r\nHost: gateway.test\r\n\r\n", NO_OR_CANNOT),
    "words before the method": (b"More wordsGET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n", NO_OR_CANNOT),
    "lone return": (HEAD + b"\rX-Header: one\r\n\r\n", NO),
}
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
ECHO = {
    "length": (CHAT + b"Content-Length: %d\r\n\r\n%s" % (len(ASK), ASK), OK),
    "chunked": (CHAT + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(ASK), ASK), OK),
    "length and chunked": (
        CHAT + b"content-LengtH: 5\r\nTransFer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(ASK), ASK),
        NO,
    ),
}  # fmt: skip


assert len(FRAGMENTS) + len(WHOLE) + len(ECHO) == 33, "all cases of the list are here"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path_factory.mktemp("spec")) as running,
    ):
        yield running, engine


async def test_a_fragment_is_waited_for(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack

    async def silent(data: bytes) -> bool:
        async with await gateway.peer(within_s=0.5) as peer:
            await peer.send(data)
            try:
                await peer.rest()
            except TimeoutError:
                return True
            return False

    said = await asyncio.gather(*map(silent, FRAGMENTS.values()))
    assert dict(zip(FRAGMENTS, said, strict=True)) == dict.fromkeys(FRAGMENTS, True)
    assert engine.seen == []


@pytest.mark.parametrize("name", WHOLE)
async def test_a_request_without_a_body(stack: tuple[Stack, FakeEngine], name: str):
    gateway, engine = stack
    data, right = WHOLE[name]
    async with await gateway.peer() as peer:
        await peer.send(data)
        answer = await peer.answer()
        assert answer.status in right
        if answer.status >= 400:
            assert answer.headers["connection"] == "close"
            peer.shut()
            assert await peer.closed()
    assert engine.seen == []


@pytest.mark.parametrize("name", ECHO)
async def test_a_body_reaches_the_engine_as_it_was_meant(stack: tuple[Stack, FakeEngine], name: str):
    gateway, engine = stack
    data, right = ECHO[name]
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(data)
        assert (await peer.answer()).status in right
    assert [seen.body for seen in engine.seen] == ([ASK] if right is OK else [])


async def test_an_expectation_is_met_before_the_body(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(CHAT + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(ASK))
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert engine.seen == []
        await peer.send(ASK)
        assert (await peer.answer()).status == 200
    assert [seen.body for seen in engine.seen] == [ASK]
