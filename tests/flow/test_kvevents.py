"""A real gateway that hears two engines' KV events over ZeroMQ: what they drop is forgotten, gaps are filled."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque

import msgspec
import zmq
import zmq.asyncio

from gemstead.testing import FakeEngine, Script
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack

SIZE = 16


class Publisher:
    """vLLM's: a PUB socket, and a ROUTER that says again what it still has."""

    def __init__(self, context, folder, name, keep=1000):
        self.events, self.replay = f"ipc://{folder}/{name}", f"ipc://{folder}/{name}r"
        self.pub, self.router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self.pub.bind(self.events)
        self.router.bind(self.replay)
        self.said, self.next = deque(maxlen=keep), 0
        self.asked = 0
        self.task = asyncio.create_task(self._again())

    async def say(self, *events, lose=False):
        payload = msgspec.msgpack.encode([time.time(), list(events), 0])
        self.said.append((self.next, payload))
        if not lose:
            await self.pub.send_multipart((b"", self.next.to_bytes(8, "big"), payload))
        self.next += 1

    def restart(self):
        self.said.clear()
        self.next = 0

    async def _again(self):
        while True:
            who, _, start = await self.router.recv_multipart()
            self.asked += 1
            for number, payload in list(self.said):
                if number >= int.from_bytes(start, "big"):
                    await self.router.send_multipart((who, b"", b"", number.to_bytes(8, "big"), payload))
            await self.router.send_multipart((who, b"", b"", b"\xff" * 8, b""))

    def close(self):
        self.task.cancel()
        self.pub.close(0)
        self.router.close(0)


def stored(names, session, parent=None, group=2, **more):
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": [1] * SIZE * len(names),
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "group_idx": group,
        "kv_cache_spec_kind": "full_attention",
        "session_id": session,
        **more,
    }


def removed(*names, group=2):
    return {"type": "BlockRemoved", "block_hashes": list(names), "medium": "GPU", "group_idx": group}


def session_of(seen):
    return dict(seen.headers)["x-session-id"]


async def ask(stack, text, engine=None):
    async with await stack.peer() as peer:
        await peer.send(post({"model": "m", "messages": [{"role": "user", "content": text}]}))
        answer = await peer.answer()
        assert answer.status == 200
        return answer


async def shown(stack, name, holds, within_s=10.0):
    until = time.monotonic() + within_s
    while not holds(value := (await stack.figures()).snapshot.get(f"gemstead_{name}", {})):
        assert time.monotonic() < until, (name, value, stack.log())
        await asyncio.sleep(0.05)


def counted(value, endpoint, what):
    found = [numbers[0] for labels, numbers in value.items() if endpoint in labels and what in labels]
    return found[0] if found else 0.0


def usage(tokens):
    body = {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]}
    body["usage"] = {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}
    return Script(body=json.dumps(body).encode(), delay_s=0.06)  # so that a prompt is worth something


def facts(engine, name, publisher):
    return msgspec.structs.replace(
        engine.facts(name, pool="m"), kv_events=publisher.events, kv_replay=publisher.replay
    )


async def test_what_an_engine_drops_is_forgotten_and_what_was_missed_is_said_again(tmp_path):
    context = zmq.asyncio.Context()
    tokens, count = 1280, 12
    texts = [f"once upon {n} times " * 320 for n in range(10, 10 + count)]  # five blocks of text and a rest
    async with FakeEngine(usage(tokens)) as a, FakeEngine(usage(tokens)) as b:
        pair = {
            "a": (a, Publisher(context, tmp_path, "a")),
            "b": (b, Publisher(context, tmp_path, "b", keep=20)),
        }
        try:
            endpoints = tuple(facts(engine, name, publisher) for name, (engine, publisher) in pair.items())
            async with start_stack(folder=tmp_path, endpoints=endpoints) as stack:

                async def sent(text):
                    before = len(a.seen)
                    await ask(stack, text)
                    return "a" if len(a.seen) > before else "b"

                await shown(
                    stack, "kv_events_live", lambda value: [n[0] for n in value.values()] == [1.0, 1.0]
                )
                went = []
                for number, text in enumerate(texts):
                    went.append(name := await sent(text))
                    engine, publisher = pair[name]
                    blocks = list(range(1000 * number, 1000 * number + tokens // SIZE))
                    await publisher.say(stored(blocks, session_of(engine.seen[-1])))
                await shown(stack, "kv_prompts", lambda value: sum(n[0] for n in value.values()) == count)
                assert [await sent(text) for text in texts] == went  # they go where they are

                # All are dropped, and the messages are lost on the way: the gateway asks for them, and forgets.
                for number, name in enumerate(went):
                    blocks = range(1000 * number, 1000 * number + tokens // SIZE)
                    await pair[name][1].say(removed(*reversed(blocks)), lose=True)
                for _, publisher in pair.values():
                    await publisher.say({"type": "SomethingNew"})
                await shown(stack, "kv_prompts", lambda value: sum(n[0] for n in value.values()) == 0)
                said = (await stack.figures()).snapshot["gemstead_kv_events_total"]
                assert counted(said, "a", "replayed") + counted(said, "b", "replayed") == count
                assert [await sent(text) for text in texts] != went  # by chance the same: one in 4,096
        finally:
            for _, publisher in pair.values():
                publisher.close()
            context.destroy(0)


async def test_an_engine_that_begins_anew_has_nothing_and_a_gap_that_stays_means_the_same(tmp_path):
    context = zmq.asyncio.Context()
    publisher = Publisher(context, tmp_path, "a", keep=2)
    try:
        async with FakeEngine(usage(1280)) as a, FakeEngine(usage(1280)) as b:
            endpoints = (facts(a, "a", publisher), b.facts("b", pool="m"))
            async with start_stack(folder=tmp_path, endpoints=endpoints) as stack:
                await shown(stack, "kv_events_live", lambda value: [n[0] for n in value.values()] == [1.0])
                for n in range(4):
                    await publisher.say(stored([10 * n + 1, 10 * n + 2], f"x{n}"))
                await shown(stack, "kv_events_total", lambda value: counted(value, "a", "messages") == 4)
                for n in range(4):
                    await publisher.say(removed(10 * n + 2), lose=True)
                await publisher.say(removed(1))
                await shown(stack, "kv_events_total", lambda value: counted(value, "a", "gaps") == 1)
                publisher.restart()
                await publisher.say(stored([5, 6], "y"))
                await shown(stack, "kv_events_total", lambda value: counted(value, "a", "restarts") == 1)
                await publisher.say(removed(6))
                await shown(stack, "kv_events_total", lambda value: counted(value, "a", "messages") == 7)
                await ask(stack, "hello")
    finally:
        publisher.close()
        context.destroy(0)
