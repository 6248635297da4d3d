"""A pretend engine that takes as long as a real one would: steps, batching, prefill that holds up those who write.

`FakeEngine` answers each call by itself, however many there are. This one has an engine of the simulator inside
(`simulate/replica.py`: continuous batching, chunked prefill, a prefix cache, places, preemption) and plays it in real
time: the first token comes when the simulated engine has it, the rest when it has ended. Its answers have as many
tokens as `max_tokens` says; a prompt has one for each word, and prompts share what they begin with alike.

A client that leaves does not end its request inside, as it would in a real engine.

    async with BatchingEngine(SMALL) as engine: ...
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from gemstead.simulate.engine import Engine
from gemstead.simulate.replica import Replica, Sequence
from gemstead.testing import answers
from gemstead.testing.engine import FakeEngine
from gemstead.testing.script import Script
from gemstead.testing.wire import Connection, Seen

BLOCK_TOKENS = 64
# A step of 8 ms and 0.4 ms for each request, 25,000 prompt tokens a second: so quick that seconds show much.
SMALL = Engine(
    base_s=0.008, each_s=0.0004, context_s=0.0, window_s=0.0, window=0, prefill_s=4e-5, deeper_s=0.0,
    deeper_window_s=0.0, step_tokens=2048, most_running=16, kv_tokens=200_000,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class _Asked:
    """One request inside."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class BatchingEngine(FakeEngine):
    """One pretend engine with the pace of `engine`."""

    def __init__(self, engine: Engine = SMALL, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.replica = Replica(engine, BLOCK_TOKENS)
        self._asked: dict[int, _Asked] = {}
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    def _metrics(self) -> str:
        """Its counts under llama.cpp's names."""
        return (
            f"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing {len(self.replica.running)}\n"
            f"# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred {len(self.replica.waiting)}\n"
        )

    async def _play(self, connection: Connection, seen: Seen, path: str, script: Script) -> bool:
        if path != "/v1/chat/completions":
            return await super()._play(connection, seen, path, script)
        fields = json.loads(seen.body)
        words = answers.prompt_text(fields).split()
        output = max(int(fields.get("max_tokens") or 16), 1)
        asked = self._enter(words, output)
        if not fields.get("stream"):
            await asked.ended.wait()
            body = answers.encode(answers.chat(self.model, answers.words(output), len(words)))
            return await self._send_whole(connection, script, body, "application/json")
        events = answers.chat_stream(self.model, answers.words(output), len(words), with_usage=True)
        await self._send_head(connection, script, "text/event-stream", "chunked", 0)
        await asked.first.wait()
        await connection.send(_chunk(events[0] + events[1]))
        await asked.ended.wait()
        await connection.send(_chunk(b"".join(events[2:])) + b"0\r\n\r\n")
        return not script.close

    def _enter(self, words: list[str], output: int) -> _Asked:
        self._numbers += 1
        self._asked[self._numbers] = asked = _Asked()
        now = asyncio.get_running_loop().time()
        inside = Sequence(self._numbers, len(words), output, _blocks(words), now)
        if (until := self.replica.add(inside, now)) is not None:
            self._expect(until)
        return asked

    def _expect(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._until = until
        self._timer = asyncio.get_running_loop().call_at(until, self._step)

    def _step(self) -> None:
        """A step has ended. Its own clock goes on from when it should have, so a late timer slows nothing."""
        self._timer = None
        until = self.replica.step(self._until)
        for inside in self.replica.first:
            self._asked[inside.number].first.set()
        for inside in self.replica.ended:
            asked = self._asked.pop(inside.number)
            asked.first.set()
            asked.ended.set()
        if until is not None:
            self._expect(until)


def _blocks(words: list[str]) -> tuple[int, ...]:
    """A number for each full block of the prompt, which says all that came before it."""
    blocks, so_far = [], 0
    for end in range(BLOCK_TOKENS, len(words) + 1, BLOCK_TOKENS):
        so_far = hash((so_far, *words[end - BLOCK_TOKENS : end]))
        blocks.append(so_far)
    return tuple(blocks)


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
