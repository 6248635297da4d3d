"""Everything at once: random calls, random faults, random clients. Afterwards the books must be closed.

Seeded, so that a failure can be seen again; each seed is another mixture.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from gemstead.gateway.settings import Deadlines
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import Answer, Peer, events, post
from gemstead.testing.stack import Stack, start_stack

DEADLINES = Deadlines(
    first_token_s=0.5,
    between_tokens_s=0.5,
    total_s=3.0,
    keep_alive_comment_s=0.1,
    client_header_s=1.0,
    client_body_s=1.0,
    client_write_s=0.5,
)
FAULTS = [
    Script(die_before_headers=True),
    Script(die_before_headers=True, die_how="reset"),
    Script(die_after=3),
    Script(die_after=3, die_how="reset", framing="length"),
    Script(status=500),
    Script(status=503),
    Script(status=400),
    Script(garbage=b"\0\0\0\0"),
    Script(garbage=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
    Script(never=True),
    Script(first_token_s=0.3),
    Script(pieces=words(5), pace_s=0.15),
    Script(framing="close", close=True),
    Script(split_bytes=3),
    Script(close=True),
]
ENDS = {
    "served", "cut", "client_left", "deadline", "upstream_failed", "upstream_refused", "slow_client",
    "bad_request", "unknown_model", "no_endpoint",
}  # fmt: skip


def random_script(rng: random.Random) -> Script:
    if rng.random() < 0.4:
        return rng.choice(FAULTS)
    return Script(pieces=words(rng.randint(1, 20)), pace_s=rng.choice([0, 0.001, 0.01]))


def random_request(rng: random.Random) -> bytes:
    path = rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
    model = "m" if rng.random() < 0.95 else "other"
    fields: dict[str, object] = {"model": model, "stream": rng.random() < 0.6, "max_tokens": 9}
    if path in ("/v1/chat/completions", "/v1/messages"):
        fields["messages"] = [{"role": "user", "content": "x " * rng.choice([1, 100, 20_000])}]
    else:
        fields["prompt" if path == "/v1/completions" else "input"] = "hello"
    return post(fields, path)


async def one_client(stack: Stack, rng: random.Random, answered: dict[str, int]) -> int:
    """One connection that behaves in some way; returns how many requests it sent, at most.

    Notes the id and the status of each whole answer in `answered`.
    """
    data = [random_request(rng) for _ in range(rng.randint(1, 4))]

    async def read(peer: Peer) -> int:
        answer = await peer.answer()
        check(answer)
        answered[answer.headers["x-request-id"]] = answer.status
        return answer.status

    try:
        async with await stack.peer(within_s=10.0) as peer:
            match rng.choice(
                ["good", "good", "good", "pipelined", "leaves", "resets", "leaves early", "spoils"]
            ):
                case "good":
                    for request in data:
                        await peer.send(request)
                        await read(peer)
                case "pipelined":
                    await peer.send(b"".join(data))
                    for _ in data:
                        await read(peer)
                case "leaves":
                    await peer.send(data[0])
                    await asyncio.sleep(rng.random() * 0.2)
                case "resets":
                    await peer.send(data[0])
                    await asyncio.sleep(rng.random() * 0.05)
                    peer.reset()
                case "leaves early":
                    await peer.send(data[0][:-3])
                    await asyncio.sleep(0.05)
                case _:
                    await peer.send(data[0] + b"\0nonsense\r\n\r\n")
                    await read(peer)
                    assert await read(peer) == 400
                    return 2
    except (EOFError, ConnectionError):
        pass  # a whole answer that broke off ends the connection, too
    return len(data)


def check(answer: Answer) -> None:
    """An answer that is one: a stream ends in an end or an error, and a whole answer is JSON."""
    if "event-stream" in answer.headers["content-type"]:
        last = events(answer.body)[-1]
        ends = (b"[DONE]", b"message_stop", b"response.completed", b'"error"')
        assert any(end in last for end in ends), last
    else:
        assert answer.fields


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_mixture_nothing_is_left_over(tmp_path, seed):
    rng = random.Random(seed)
    async with FakeEngine() as one, FakeEngine() as two, FakeEngine() as three:
        for engine in (one, two, three):
            engine.then(*[random_script(rng) for _ in range(200)])
        async with start_stack(one, two, three, folder=tmp_path, deadlines=DEADLINES) as stack:
            answered: dict[str, int] = {}
            clients = [one_client(stack, random.Random(rng.random()), answered) for _ in range(80)]
            most = sum(await asyncio.gather(*clients))
            await stack.quiet(20.0)
            said = (await stack.figures()).snapshot["gemstead_requests_total"]
            count = int(sum(figures[0] for figures in said.values()))
            assert len(answered) <= count <= most
            records = await stack.records(count)
            status = {record.call_id: record.status for record in records}
            assert len(status) == count, "no call has two records"
            assert answered.items() <= status.items(), "each answer has its record"
            for engine in (one, two, three):
                asked = {seen.header("x-request-id") for seen in engine.seen}
                assert asked <= status.keys(), "so has each call that an engine saw"
                ids = [seen.header("x-request-id") for seen in engine.seen]
                assert all(ids.count(one_id) <= 2 for one_id in asked), "twice only over a stale connection"
            assert {record.outcome for record in records} <= ENDS
            assert len({record.outcome for record in records}) >= 5
            for engine in (one, two, three):
                await engine.until(lambda engine=engine: engine.running == 0)
                assert engine.malformed == []
            for record in records:
                if record.outcome in ("served", "cut"):
                    assert record.endpoint
                    assert record.status == 200
                if record.outcome == "upstream_failed":
                    assert record.reason
            assert "Traceback" not in stack.log()
            assert stack.process.returncode is None


async def test_a_hundred_streams_each_get_their_own_words(tmp_path):
    """No two answers are ever mixed up, whatever they share on the way."""
    async with (
        FakeEngine(Script(pieces=words(20), pace_s=0.005)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
    ):

        async def own(number: int) -> None:
            prompt = " ".join(["w"] * (number + 1))
            fields = {
                "model": "m",
                "messages": [{"role": "user", "content": prompt}],
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            async with await stack.peer(within_s=20.0) as peer:
                await peer.send(post(fields))
                body = (await peer.answer()).body
            assert b'"prompt_tokens":%d,' % (number + 1) in body
            assert body.count(b'"content":" w') == 20

        await asyncio.gather(*map(own, range(100)))
        records = await stack.records(100)
        assert sorted(record.prompt_tokens for record in records) == list(range(1, 101))
        assert {record.output_tokens for record in records} == {20}
        assert {record.tokens_from for record in records} == {"engine"}
