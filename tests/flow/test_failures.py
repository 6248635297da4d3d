"""Engines that fail: before the first word another takes over, after it the client is told; nobody is left waiting."""

from __future__ import annotations

import asyncio
import json

import anthropic
import pytest

import openai
from gemstead.gateway.settings import Deadlines
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack
from gemstead.traffic.endpoint import EndpointFacts

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
STREAM = ASK | {"stream": True}
INPUT = {"model": "m", "input": "hi", "stream": True}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"}
LONG = words(50)


def asked(dialect: str) -> bytes:
    return post(INPUT if dialect == "responses" else STREAM, PATHS[dialect])


BAD = {
    "dies before its headers": Script(die_before_headers=True),
    "resets before its headers": Script(die_before_headers=True, die_how="reset"),
    "dies behind its headers": Script(die_after=0),
    "says 500": Script(status=500),
    "says 502": Script(status=502),
    "says 503": Script(status=503),
    "says 504": Script(status=504),
    "speaks no HTTP": Script(garbage=b"\x00\x01\x02 go away\r\n\r\n"),
    "answers with half a head": Script(garbage=b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "answers with two lengths": Script(
        garbage=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", BAD)
async def test_another_endpoint_takes_over_and_the_client_sees_nothing(tmp_path, how, stream):
    async with (
        FakeEngine(BAD[how]) as bad,
        FakeEngine() as good,
        start_stack(bad, good, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        count = 0
        while count < 4 or not bad.seen:  # who is asked first is chance
            count += 1
            assert count < 100
            await peer.send(post(ASK | {"stream": stream}))
            answer = await peer.answer()
            assert answer.status == 200
            if stream:
                assert events(answer.body)[-1] == b"data: [DONE]"
            else:
                assert answer.fields["choices"][0]["message"]["content"] == "The capital of Peru is Lima."
        assert good.served == count
        await stack.quiet()
        records = await stack.records(count)
        assert {record.outcome for record in records} == {"served"}
        tried = [record for record in records if record.attempts > 1]
        assert len(tried) == len(bad.seen)
        assert all(record.endpoint == "b" and record.reason.startswith("a: ") for record in tried)


async def test_an_endpoint_that_cannot_be_reached_is_passed_over(tmp_path):
    async with FakeEngine() as gone:
        nobody = EndpointFacts(name="z", pool="m", host="127.0.0.1", port=gone.port)
    async with (
        FakeEngine() as good,
        start_stack(good, folder=tmp_path, endpoints=(nobody,)) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(6):
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
        await stack.records(6)


@pytest.mark.parametrize("dialect", PATHS)
async def test_when_all_fail_the_engine_is_quoted_in_the_callers_dialect(tmp_path, dialect):
    async with (
        FakeEngine(Script(status=500)) as one,
        FakeEngine(Script(status=503)) as two,
        FakeEngine(Script(status=500)) as three,
        start_stack(one, two, three, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(asked(dialect))
        answer = await peer.answer()
        assert answer.status in (500, 503)
        assert "The engine was told to say this." in answer.fields["error"]["message"]
        assert (answer.fields.get("type") == "error") == (dialect == "anthropic")
        assert answer.fields.get("request_id") == answer.headers["x-request-id"]
        assert [len(engine.seen) for engine in (one, two, three)] == [1, 1, 1], "each was asked once"
        await stack.quiet()
        [record] = await stack.records(1)
        assert (record.outcome, record.attempts, record.status) == ("upstream_failed", 3, answer.status)
        assert sorted(part[0] for part in record.reason.split("; ")) == ["a", "b", "c"]


@pytest.mark.parametrize("dialect", PATHS)
async def test_when_all_die_the_caller_gets_a_plain_sentence(tmp_path, dialect):
    """With the request's id, and without our hosts, ports or error numbers."""
    dead = Script(die_before_headers=True)
    async with (
        FakeEngine(dead) as one,
        FakeEngine(dead) as two,
        start_stack(one, two, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(asked(dialect))
        answer = await peer.answer()
        message = answer.fields["error"]["message"]
        assert answer.status == 502
        assert answer.headers["x-request-id"] in message
        for secret in (b"127.0.0.1", str(one.port).encode(), str(two.port).encode(), b"Errno", b"connection"):
            assert secret not in answer.body
        assert [len(engine.seen) for engine in (one, two)] == [1, 1]
        [record] = await stack.records(1)
        assert (
            record.reason == "a: the engine closed the connection; b: the engine closed the connection"
            or (record.reason == "b: the engine closed the connection; a: the engine closed the connection")
        )


async def test_an_endpoint_that_keeps_failing_is_avoided_and_shown(tmp_path):
    async with (
        FakeEngine(Script(status=500)) as bad,
        FakeEngine() as good,
        start_stack(bad, good, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(60):
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
        assert 5 <= len(bad.seen) < 15, "five failures open the breaker; now and then one call looks again"
        shown = (await stack.figures()).snapshot["gemstead_breaker_open"]
        assert sorted(figures[0] for figures in shown.values()) == [0.0, 1.0]


BLAMES = {
    "schema": b'{"error":{"code":500,"message":"JSON schema error at #: unrecognized type x","type":"server_error"}}',
    "template": json.dumps(
        {
            "error": {
                "code": 500,
                "message": "\n------------\nWhile executing FilterExpression at line 3, column 9 in source:\n..."
                "\nError: Conversation roles must alternate",
                "type": "server_error",
            }
        }
    ).encode(),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", BLAMES)
async def test_a_500_about_the_request_is_the_callers_and_says_nothing_of_the_engine(tmp_path, what, stream):
    """llama.cpp says 500 of schemas, tools and messages that it cannot read; callers try those again and again."""
    refuses = Script(status=500, body=BLAMES[what])
    async with (
        FakeEngine(refuses) as one,
        FakeEngine(refuses) as two,
        start_stack(one, two, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(12):
            await peer.send(post(ASK | {"stream": stream}))
            answer = await peer.answer()
            assert answer.status == 400
            assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
        assert len(one.seen) + len(two.seen) == 12, "none was tried elsewhere"
        shown = (await stack.figures()).snapshot["gemstead_breaker_open"]
        assert [figures[0] for figures in shown.values()] == [0.0, 0.0]
        records = await stack.records(12)
        assert {record.outcome for record in records} == {"upstream_refused"}
        assert all(record.reason.endswith(": status 500") for record in records)


async def test_a_refusal_is_not_tried_elsewhere(tmp_path):
    async with (
        FakeEngine(Script(status=400)) as one,
        FakeEngine(Script(status=400)) as two,
        start_stack(one, two, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 400
        assert len(one.seen) + len(two.seen) == 1
        [record] = await stack.records(1)
        assert (record.outcome, record.attempts) == ("upstream_refused", 1)


async def test_an_engine_that_refuses_the_gateways_key_is_the_operators_matter(tmp_path):
    """A caller who reads 401 would look for a fault in a key that is right."""
    async with (
        FakeEngine(Script(status=401)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 502
        [record] = await stack.records(1)
        assert (record.outcome, record.reason) == ("upstream_failed", "a: status 401")


async def test_an_engines_retry_after_is_handed_on(tmp_path):
    script = Script(status=429, headers=(("Retry-After", "7"),))
    async with (
        FakeEngine(script) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        answer = await peer.answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("dialect", PATHS)
async def test_death_in_mid_stream_ends_in_an_error_event(tmp_path, dialect, framing, how):
    dying = Script(pieces=LONG, pace_s=0.005, die_after=9, die_how=how, framing=framing)
    async with (
        FakeEngine(dying) as engine,
        FakeEngine() as spare,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(asked(dialect))
        answer = await peer.answer()
        assert answer.status == 200
        told = events(answer.body)
        assert len(told) >= 9
        last = told[-2] if dialect == "openai" else told[-1]
        data = json.loads(last[last.index(b"data: ") + 6 :])
        assert "failed" in data["error"]["message"]
        assert (told[-1] == b"data: [DONE]") == (dialect == "openai")
        assert spare.seen == []
        await peer.send(asked(dialect))  # and the connection is as good as before
        assert (await peer.answer()).status == 200
        await stack.quiet()
        first, _ = await stack.records(2)
        assert (first.outcome, first.attempts, first.status) == ("cut", 1, 200)
        assert first.output_tokens > 0
        assert first.tokens_from == "counted"


async def test_a_whole_answer_that_breaks_off_is_not_passed_for_whole(tmp_path):
    async with (
        FakeEngine(Script(die_after=40)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        with pytest.raises(EOFError):
            await peer.answer()
        [record] = await stack.records(1)
        assert record.outcome == "cut"


@pytest.mark.parametrize("die_after", [0, 9])
async def test_the_openai_client_raises(tmp_path, die_after):
    dying = Script(pieces=LONG, die_after=die_after)
    async with FakeEngine(dying) as engine, start_stack(engine, folder=tmp_path) as stack:
        client = openai.AsyncOpenAI(base_url=stack.url + "/v1", api_key="x", max_retries=0, timeout=10)
        with pytest.raises(openai.APIError, match="engine failed"):
            async for _ in await client.chat.completions.create(**STREAM):
                pass
        with pytest.raises(openai.APIError, match="engine failed"):
            async for _ in await client.responses.create(**INPUT):
                pass
        engine.script = Script(die_after=40)
        with pytest.raises(openai.APIError):
            await client.chat.completions.create(**ASK)
        await client.close()


@pytest.mark.parametrize("die_after", [0, 9])
async def test_the_anthropic_client_raises(tmp_path, die_after):
    dying = Script(pieces=LONG, die_after=die_after)
    async with FakeEngine(dying) as engine, start_stack(engine, folder=tmp_path) as stack:
        client = anthropic.AsyncAnthropic(base_url=stack.url, api_key="x", max_retries=0, timeout=10)
        with pytest.raises(anthropic.APIError, match="engine failed"):
            async for _ in await client.messages.create(**STREAM):
                pass
        await client.close()


# -- deadlines -------------------------------------------------------------------------------------------


async def test_no_first_token_moves_the_call_to_another_endpoint(tmp_path):
    deadlines = Deadlines(first_token_s=1.0)
    async with (
        FakeEngine(Script(never=True)) as silent,
        FakeEngine() as good,
        start_stack(silent, good, folder=tmp_path, deadlines=deadlines) as stack,
    ):
        count = 0
        while not silent.seen:  # who is asked first is chance, where each is answered before the next comes
            count += 6
            assert count < 100
            peers = [await stack.peer() for _ in range(6)]
            for peer in peers:
                await peer.send(post(STREAM))
            for peer in peers:
                assert events((await peer.answer()).body)[-1] == b"data: [DONE]"
                peer.close()
        await silent.until(lambda: silent.aborted == len(silent.seen))
        await stack.quiet()
        records = await stack.records(count)
        assert any("no answer within 1 s" in record.reason for record in records)


async def test_no_first_token_anywhere(tmp_path):
    deadlines = Deadlines(first_token_s=0.2)
    async with (
        FakeEngine(Script(first_token_s=30)) as silent,
        start_stack(silent, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        assert (await peer.answer()).status == 502
        await silent.until(lambda: silent.aborted == 1, 1.0)


async def test_silence_between_tokens_ends_in_an_error_event(tmp_path):
    deadlines = Deadlines(between_tokens_s=0.3)
    async with (
        FakeEngine(Script(pieces=LONG, pace_s=5.0)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        told = events((await peer.answer()).body)
        assert b"stopped for 0.3 s" in told[-2]
        await engine.until(lambda: engine.aborted == 1, 1.0)
        await stack.quiet()
        [record] = await stack.records(1)
        assert (record.outcome, record.attempts) == ("deadline", 1)


async def test_a_call_that_takes_too_long_as_a_whole(tmp_path):
    deadlines = Deadlines(total_s=0.5)
    async with (
        FakeEngine(Script(pieces=words(1000), pace_s=0.02)) as engine,
        FakeEngine(Script(pieces=words(1000), pace_s=0.02)) as other,
        start_stack(engine, other, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        told = events((await peer.answer()).body)
        assert b"longer than 0.5 s" in told[-2]
        assert len(told) > 5
        [record] = await stack.records(1)
        assert (record.outcome, record.attempts) == ("deadline", 1)


async def test_a_whole_answer_that_takes_too_long(tmp_path):
    async with (
        FakeEngine(Script(never=True)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=Deadlines(total_s=0.3)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 504


# -- keep-alive comments ---------------------------------------------------------------------------------


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path):
    deadlines = Deadlines(keep_alive_comment_s=0.15)
    async with (
        FakeEngine(Script(delay_s=0.7, pieces=words(3), pace_s=0.4)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        answer = await peer.answer()
        assert answer.body.startswith(b": keep-alive\n\n")
        assert answer.body.count(b": keep-alive\n\n") >= 4
        assert len(events(answer.body)) >= 5
        for event in events(answer.body)[:-1]:
            json.loads(event.removeprefix(b"data: "))


async def test_a_comment_is_never_put_inside_an_event(tmp_path):
    event = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
    deadlines = Deadlines(keep_alive_comment_s=0.1)
    script = Script(events=(event[:20], event[20:-1], event[-1:], b"data: [DONE]\n\n"), pace_s=0.4)
    async with (
        FakeEngine(script) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        body = (await peer.answer()).body
        assert event in body
        assert b": keep-alive" in body.split(event)[1]


@pytest.mark.parametrize("dialect", PATHS)
async def test_an_engines_refusal_after_a_comment_becomes_an_event(tmp_path, dialect):
    deadlines = Deadlines(keep_alive_comment_s=0.1)
    async with (
        FakeEngine(Script(delay_s=0.5, status=400)) as engine,
        start_stack(engine, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(asked(dialect))
        answer = await peer.answer()
        assert answer.status == 200
        assert b"The engine was told to say this." in answer.body
        assert b"error" in events(answer.body)[0]
        await peer.send(asked(dialect))
        assert (await peer.answer()).status == 200


async def test_another_endpoint_takes_over_behind_comments(tmp_path):
    deadlines = Deadlines(keep_alive_comment_s=0.1, first_token_s=0.4)
    async with (
        FakeEngine(Script(never=True)) as one,
        FakeEngine(Script(never=True)) as two,
        start_stack(one, two, folder=tmp_path, deadlines=deadlines) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        await asyncio.sleep(0.2)
        good = Script(pieces=words(3))
        one.script = two.script = good
        answer = await peer.answer()
        assert answer.body.startswith(b": keep-alive\n\n")
        assert events(answer.body)[-1] == b"data: [DONE]"
        [record] = await stack.records(1)
        assert (record.outcome, record.attempts) == ("served", 2)


async def test_an_engine_that_says_in_its_stream_that_it_failed_was_not_a_success(tmp_path):
    told = (
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"error":{"message":"out of memory","type":"server_error"}}\n\n',
    )
    async with (
        FakeEngine(Script(events=told)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        assert events((await peer.answer()).body)[-1] == b"data: [DONE]"
        [record] = await stack.records(1)
        assert record.outcome == "cut"
        assert record.reason
