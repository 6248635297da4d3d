"""A call on its way through the gateway to an engine whose dialect is another one."""

from __future__ import annotations

import json

import msgspec
import pytest

from gemstead.gateway.settings import Pool
from gemstead.testing import FakeEngine, Script
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
EVENTS = tuple(
    b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
    for delta in ({"reasoning": "The user"}, {"reasoning": " asks"}, {"content": "Lima."})
)


def as_engine(engine: FakeEngine, kind: str, **facts):
    return (msgspec.structs.replace(engine.facts("x", pool="m"), engine=kind, **facts),)


@pytest.mark.parametrize("split", [0, 7])
async def test_thoughts_in_a_stream_have_our_name_and_the_rest_is_as_it_came(tmp_path, split):
    async with (
        FakeEngine(Script(events=EVENTS, split_bytes=split)) as engine,
        start_stack(folder=tmp_path, endpoints=as_engine(engine, "vllm")) as stack,
        await stack.peer() as peer,
    ):
        for asked, name in ((THINK, b"reasoning_content"), ({}, b"reasoning")):
            await peer.send(post(ASK | asked | {"stream": True}))
            got = events((await peer.answer()).body)
            assert got[-1] == b"data: [DONE]"
            assert b"".join(got[:-1]) == b"".join(EVENTS).replace(b"\n\n", b"").replace(b"reasoning", name)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_thought_that_was_cut_leaves_a_whole_answer(tmp_path, framing):
    message = {"role": "assistant", "content": "<|channel>th"}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}).encode()
    async with (
        FakeEngine(Script(body=body, framing=framing)) as engine,
        start_stack(folder=tmp_path, endpoints=as_engine(engine, "llamacpp", thinking_set=True)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK | THINK))
        assert json.loads((await peer.answer()).body)["choices"][0]["message"]["content"] == ""
        await peer.send(post(ASK))
        assert (await peer.answer()).body == body


async def test_a_busy_engine_says_when_to_come_again(tmp_path):
    async with (
        FakeEngine(Script(status=503, body=b'{"error":{"message":"busy"}}')) as engine,
        start_stack(folder=tmp_path, endpoints=as_engine(engine, "vllm")) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        answer = await peer.answer()
        assert (answer.status, answer.headers.get("retry-after")) == (503, "1")


async def test_an_adapter_is_named_to_the_engine_as_the_file_writes_it(tmp_path):
    pools = (Pool(name="m", adapters=("Support-Bot",)),)
    async with (
        FakeEngine() as engine,
        start_stack(
            folder=tmp_path, endpoints=as_engine(engine, "vllm", served_model="base"), pools=pools
        ) as stack,
        await stack.peer() as peer,
    ):
        for name, sent in (("support-bot", "Support-Bot"), ("m", "base")):
            await peer.send(post(ASK | {"model": name}))
            assert (await peer.answer()).status == 200
            assert json.loads(engine.seen[-1].body)["model"] == sent
