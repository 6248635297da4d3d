"""The pretend engine keeps the promises that gateway tests build on."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from gemstead.testing import FakeEngine, Script, words

ASK = {"model": "fake", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}


async def raw(engine: FakeEngine, data: bytes) -> bytes:
    """All bytes that the engine answers until it closes."""
    reader, writer = await asyncio.open_connection(engine.host, engine.port)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


async def post(engine: FakeEngine, path: str = "/v1/chat/completions", **fields: object) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.post(engine.url + path, json={**ASK, **fields})


def request(body: bytes = b"{}", *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("path", "text_of"),
    [
        ("/v1/chat/completions", lambda answer: answer["choices"][0]["message"]["content"]),
        ("/v1/completions", lambda answer: answer["choices"][0]["text"]),
        ("/v1/responses", lambda answer: answer["output"][0]["content"][0]["text"]),
        ("/v1/messages", lambda answer: answer["content"][0]["text"]),
    ],
)
async def test_each_api_is_answered_in_its_own_shape(path, text_of):
    async with FakeEngine() as engine:
        answer = (await post(engine, path)).json()
        assert text_of(answer) == "The capital of Peru is Lima."
        streamed = (await post(engine, path, stream=True)).text
        assert "capital" in streamed
        assert engine.served == 2


async def test_a_stream_ends_with_usage_when_asked_and_done():
    async with FakeEngine() as engine:
        lines = (await post(engine, stream=True, stream_options={"include_usage": True})).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        last = json.loads(lines[-3].removeprefix("data: "))
        assert (last["choices"], last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (
            [],
            6,
            7,
        )


async def test_the_exact_bytes_of_a_request_are_kept():
    body = b'{ "messages" : [],\n "temperature":1.00 }'
    async with FakeEngine() as engine:
        engine.script = Script(close=True)
        await raw(engine, request(body, "X-Odd:  two ", "x-Case: Kept"))
        assert engine.seen[0].body == body
        assert ("x-Case", "Kept") in engine.seen[0].headers
        assert engine.seen[0].header("X-ODD") == "two"


async def test_requests_in_one_packet_are_answered_in_order_and_chunked_bodies_are_joined():
    chunked = (
        b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{ \r\n1\r\n}\r\n0\r\nT: 1\r\n\r\n"
    )
    async with FakeEngine() as engine:
        engine.then(Script(body=b'"one"'), Script(body=b'"two"', close=True))
        answered = await raw(engine, chunked + request())
        assert answered.index(b'"one"') < answered.index(b'"two"')
        assert [seen.body for seen in engine.seen] == [b"{ }", b"{}"]
        assert engine.connections == 1


@pytest.mark.parametrize(
    "bad",
    [b"nonsense\r\n\r\n", request(b"{}", "Transfer-Encoding: chunked"), request(b"{}", "Content-Length: 3")],
)
async def test_ambiguous_or_broken_requests_are_refused_and_counted(bad):
    async with FakeEngine() as engine:
        assert (await raw(engine, bad)).startswith(b"HTTP/1.1 400")
        assert len(engine.malformed) == 1
        assert not engine.seen


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_it_dies_after_the_event_it_was_told(how):
    async with FakeEngine(Script(pieces=words(9), die_after=3, die_how=how)) as engine:
        received = b""
        reader, writer = await asyncio.open_connection(engine.host, engine.port)
        writer.write(request(b'{"stream":true}'))
        try:
            while data := await reader.read(65_536):
                received += data
        except ConnectionResetError:
            assert how == "reset"
        writer.close()
        assert received.count(b"data: ") == 3
        assert not received.endswith(b"0\r\n\r\n")
        assert (engine.served, engine.died) == (0, 1)


async def test_a_client_that_leaves_is_noticed_before_the_first_byte_and_mid_stream():
    async with FakeEngine() as engine:
        engine.then(Script(never=True), Script(pieces=words(1000), pace_s=0.01))
        for number in (1, 2):
            reader, writer = await asyncio.open_connection(engine.host, engine.port)
            writer.write(request(b'{"stream":true}'))
            if number == 1:
                await engine.until(lambda: engine.running == 1)
            else:
                await reader.readuntil(b"w2")
            writer.close()
            await engine.until(lambda count=number: engine.aborted == count)
        assert all(seen.left_at > seen.at for seen in engine.left)
        assert (engine.served, len(engine.left)) == (0, 2)


async def test_silence_garbage_and_early_death():
    async with FakeEngine() as engine:
        engine.then(Script(garbage=b"\x00\x01 not http"), Script(die_before_headers=True))
        assert await raw(engine, request()) == b"\x00\x01 not http"
        assert await raw(engine, request()) == b""


async def test_slow_headers_and_split_bytes_say_the_same():
    async with FakeEngine() as engine:
        plain = (await post(engine, stream=True)).text
        engine.script = Script(header_pace_s=0.0001, split_bytes=1)
        assert (await post(engine, stream=True)).text == plain
        engine.script = Script(glue=True, framing="close")
        assert (await post(engine, stream=True)).text == plain


async def test_idle_connections_are_closed_when_told():
    async with FakeEngine(idle_close_s=0.05) as engine:
        reader, writer = await asyncio.open_connection(engine.host, engine.port)
        writer.write(request())
        assert b"HTTP/1.1 200" in await reader.read()  # to the end: the engine closed an idle connection
        writer.close()
        assert engine.served == 1


async def test_a_killed_engine_refuses_and_comes_back_on_its_port():
    async with FakeEngine() as engine:
        port = engine.port
        await engine.kill()
        with pytest.raises(httpx2.ConnectError):
            await post(engine)
        await engine.start()
        assert engine.port == port
        assert (await post(engine)).status_code == 200


async def test_probes_are_answered_and_kept_apart():
    async with FakeEngine(status=503) as engine, httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(engine.url + "/health")).status_code == 200
        engine.healthy = False
        assert (await client.get(engine.url + "/health")).status_code == 503
        assert "llamacpp:requests_processing 0" in (await client.get(engine.url + "/metrics")).text
        assert (await client.get(engine.url + "/v1/models")).json()["data"][0]["id"] == "fake"
        assert (await post(engine)).status_code == 503
        assert (engine.served, len(engine.probes)) == (1, 4)


async def test_a_prompt_beyond_the_context_is_refused_as_llama_cpp_does():
    async with FakeEngine(context_tokens=6) as engine:
        assert (await post(engine)).status_code == 200
        refused = await post(
            engine, messages=[{"role": "user", "content": "one two three four five six seven"}]
        )
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "exceed_context_size_error"
