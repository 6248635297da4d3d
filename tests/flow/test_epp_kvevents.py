"""A picker behind Envoy that hears KV events over ZeroMQ: calls are named to the engine, and placed by what it says."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("grpc", reason="needs gemstead[epp] and its tests' client")
pytest.importorskip("envoy.service.ext_proc.v3", reason="needs gemstead[epp]")

import grpc
import zmq
import zmq.asyncio
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gemstead.spec.epp import parse
from gemstead.testing.engine import FakeEngine
from gemstead.wiring.epp import Picking
from gemstead.wiring.epp_sources import FileSource

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
LOCAL = 'listen: "127.0.0.1:0"\nhealth: "127.0.0.1:0"\nmetrics: "127.0.0.1:0"\ntls: off\nscrape_s: 0.1\n'
BLOCK, TOKENS = 16, 1280


def stored(names: list[int], session: str) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": None,
        "token_ids": [1] * BLOCK * len(names),
        "block_size": BLOCK,
        "medium": "GPU",
        "group_idx": 2,
        "kv_cache_spec_kind": "full_attention",
        "session_id": session,
    }


async def answered(port: int, text: str) -> dict[str, str]:
    """A whole call; the headers that the picker has set for the engine."""
    messages = [ext_proc.ProcessingRequest() for _ in range(4)]
    head, body, answer_head, answer = messages
    for part, values in (
        (
            head.request_headers,
            {":method": "POST", ":path": "/v1/chat/completions", "x-session-id": "theirs"},
        ),
        (answer_head.response_headers, {":status": "200", "content-type": "application/json"}),
    ):
        for name, value in values.items():
            header = part.headers.headers.add()
            header.key, header.raw_value = name, value.encode()
    asked = {"model": "m", "messages": [{"role": "user", "content": text}]}
    body.request_body.body, body.request_body.end_of_stream = json.dumps(asked).encode(), True
    usage = {"prompt_tokens": TOKENS, "completion_tokens": 5, "total_tokens": TOKENS + 5}
    answer.response_body.body, answer.response_body.end_of_stream = (
        json.dumps({"usage": usage}).encode(),
        True,
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD)()
        for message in messages[:2]:
            await call.write(message.SerializeToString())
        said = ext_proc.ProcessingResponse.FromString(await call.read())
        await call.read()
        for message in messages[2:]:
            await call.write(message.SerializeToString())
            await call.read()
        assert await call.read() is grpc.aio.EOF
    options = said.request_headers.response.header_mutation.set_headers
    return {option.header.key: option.header.raw_value.decode() for option in options}


async def test_a_call_is_named_to_the_engine_and_forgotten_when_the_engine_drops_it(tmp_path: Path):
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.PUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    number = 0

    async def say(*events: Any) -> None:
        nonlocal number
        payload = msgspec.msgpack.encode([time.time(), list(events), 0])
        await publisher.send_multipart((b"", number.to_bytes(8, "big"), payload))
        number += 1

    async def until(figure: str, value: float) -> None:
        async with asyncio.timeout(15):
            while f"gemstead_{figure} {value:g}" not in picking.metrics().replace('{endpoint="e"}', ""):
                await asyncio.sleep(0.02)

    async with FakeEngine() as engine:
        file = tmp_path / "endpoints.yaml"
        file.write_text(
            f'{LOCAL}kv_events_port: {port}\nendpoints: [{{address: "127.0.0.1:{engine.port}", name: e}}, '
            f'{{address: "127.0.0.2:{engine.port}", name: other, kv_events_port: 9}}]\n'
        )
        spec = parse(file.read_text(), "endpoints.yaml")
        picking = Picking(spec, FileSource(spec, file, lambda: spec))
        ports = await picking.start()
        try:
            await until("kv_events_live", 1)
            async with asyncio.timeout(15):  # ZeroMQ says nothing to whoever has not joined yet
                while not picking.desk.named["e"].exact.counts["messages"]:  # type: ignore[union-attr]
                    await say(stored([1], "nobody"))
                    await asyncio.sleep(0.05)
            sessions = []
            while len(sessions) < 40:
                headers = await answered(ports.grpc, f"once upon {len(sessions)} times " * 320)
                sessions.append(headers["x-session-id"])
                if headers["x-gateway-destination-endpoint"].startswith("127.0.0.1:"):
                    break
            assert "theirs" not in sessions and len(set(sessions)) == len(sessions)
            blocks = list(range(100, 100 + TOKENS // BLOCK))
            await say(stored(blocks, sessions[-1]))
            await until("kv_prompts", 1)
            await say({"type": "BlockRemoved", "block_hashes": blocks[::-1], "medium": "GPU", "group_idx": 2})
            await until("kv_prompts", 0)
        finally:
            await picking.kill()
            publisher.close(0)
            context.destroy(0)


@pytest.mark.parametrize(
    ("words", "says"), [("kv_events_port: 0", "kv_events_port"), ("kv_event_port: 5", "did you mean")]
)
def test_a_port_that_is_none_is_refused(words: str, says: str):
    with pytest.raises(Exception, match=says):
        parse(words, "epp.yaml")
