"""Judges of `gemstead check`: replies in, verdicts out. The bad samples are shapes seen in public trackers."""

from __future__ import annotations

import json

import pytest

from gemstead.operate.check import judge_answer, judge_door, judge_tools, questions
from gemstead.operate.check.reply import Reply, message_of, read_stream, turn_of

ANSWER = "The capital of Peru is Lima."
SSE = {"content-type": "text/event-stream"}


def whole(text: str | None = ANSWER, *, finish="stop", usage=(17, 7, 24), status=200, **message) -> Reply:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    fields = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
            }
        ],
        "usage": dict(zip(names, usage, strict=True)) if usage else None,
    }
    return Reply(status, json.dumps(fields).encode())


def chunk(delta=None, finish=None, **more) -> bytes:
    fields = {"id": "c1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def usage_chunk(prompt=17, output=7, choices=()) -> bytes:
    told = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return chunk(usage=told).replace(
        b'"choices": [{"index": 0, "delta": {}, "finish_reason": null}]',
        f'"choices": {json.dumps(list(choices))}'.encode(),
    )


DONE = b"data: [DONE]\n\n"


def stream(*texts: str, tail: bytes = DONE, finish="stop", before: bytes = b"", **more) -> Reply:
    body = b"".join(chunk({"content": text}) for text in texts or ("The capital of ", "Peru is Lima."))
    return Reply(200, before + body + chunk(finish=finish) + tail, more.pop("headers", SSE), **more)


def call(name="get_weather", arguments='{"location":"Lima"}', id="c1") -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_stream(*calls: dict, finish="tool_calls") -> Reply:
    deltas = b"".join(chunk({"tool_calls": [{"index": n, **one}]}) for n, one in enumerate(calls))
    return Reply(200, deltas + chunk(finish=finish) + DONE, SSE)


def refusal(status: int, message: str, **more) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, **more}}).encode())


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (whole(), "pass"),
        (whole("The capital is **Lima**."), "pass"),
        (whole(""), "fail"),
        (whole(None), "fail"),
        (whole("<|channel>thought\nThe user asks.<channel|>Lima"), "fail"),
        (whole("<think>hm</think> Lima"), "fail"),
        (whole("Lima<turn|>"), "fail"),
        (whole("Lima<end_of_turn>"), "fail"),
        (whole("The capital of Peru is Bogota."), "fail"),
        (whole(finish=None), "fail"),
        (whole(finish="length"), "fail"),
        (Reply(200, b"<html>"), "fail"),
        (Reply(200, b""), "fail"),
        (Reply(200, whole().body, cut=True), "fail"),
        (refusal(503, "Loading model"), "fail"),
        (refusal(401, "No key"), "fail"),
        (Reply(500, b"oops"), "fail"),
    ],
)
def test_a_plain_answer(reply, outcome):
    verdict = judge_answer.plain(reply)
    assert verdict.outcome == outcome
    assert bool(verdict.remedy) == (outcome == "fail"), "a failure says what to do"


@pytest.mark.parametrize(
    ("reply", "outcome", "says"),
    [
        (stream(), "pass", "the same text"),
        (stream(before=b": keep-alive\n\n"), "pass", "the same text"),
        (stream("The capital is Lima."), "fail", "lost text"),
        (stream("Lima is the capital."), "pass", "otherwise"),
        (stream("Hello there, friend of mine."), "fail", "Hello"),
        (stream(tail=b""), "fail", "[DONE]"),
        (stream(tail=DONE + chunk({"content": "more"})), "fail", "after [DONE]"),
        (stream(tail=b"data: {nonsense\n\n" + DONE), "fail", "not a JSON object"),
        (stream(tail=b'data: {"error":{"message":"died"}}\n\n' + DONE), "fail", "died"),
        (stream(finish=None), "fail", "finish_reason"),
        (stream(headers={"content-type": "application/json"}), "fail", "content type"),
        (stream(cut=True), "fail", "before the answer did"),
        (stream("<|channel>thought\n", ANSWER), "fail", "<|channel>"),
    ],
)
def test_a_streamed_answer(reply, outcome, says):
    verdict = judge_answer.streamed(reply, whole())
    assert (verdict.outcome, says in verdict.sentence) == (outcome, True), verdict


@pytest.mark.parametrize(
    ("told", "asked", "unasked", "outcome"),
    [
        (whole(), stream(tail=usage_chunk() + DONE), stream(), "pass"),
        (whole(usage=None), stream(tail=usage_chunk() + DONE), stream(), "fail"),
        (whole(usage=(0, 0, 0)), stream(tail=usage_chunk() + DONE), stream(), "fail"),
        (whole(usage=(17, 7, 30)), stream(tail=usage_chunk() + DONE), stream(), "fail"),
        (whole(usage=(17, 700, 717)), stream(tail=usage_chunk() + DONE), stream(), "fail"),
        (whole(), stream(), stream(), "fail"),
        (whole(), stream(tail=usage_chunk(prompt=9) + DONE), stream(), "fail"),
        (whole(), stream(tail=usage_chunk(choices=[{"index": 0}]) + DONE), stream(), "fail"),
        (whole(), stream(tail=usage_chunk() + DONE), stream(tail=usage_chunk() + DONE), "fail"),
    ],
)
def test_usage(told, asked, unasked, outcome):
    assert judge_answer.usage(told, asked, unasked).outcome == outcome


def test_thinking_off_leaves_no_thought():
    assert judge_answer.thinking_off(whole()).outcome == "pass"
    assert judge_answer.thinking_off(whole(reasoning_content="The user asks")).outcome == "fail"
    assert judge_answer.thinking_off(whole(reasoning="The user asks")).outcome == "fail"
    assert judge_answer.thinking_off(whole("thought\nThe user asks.Lima")).outcome == "fail"
    assert judge_answer.thinking_off(whole("<|channel>th", finish="length")).outcome == "fail"


def thought_stream(name="reasoning_content", text=ANSWER) -> Reply:
    return stream(text, before=chunk({name: "The user "}) + chunk({name: "asks."}))


@pytest.mark.parametrize(
    ("told", "streamed", "outcome"),
    [
        (whole(reasoning_content="The user asks."), thought_stream(), "pass"),
        (whole(reasoning="The user asks."), thought_stream("reasoning"), "pass"),
        (whole(), stream(), "skipped"),
        (whole(finish="length", reasoning_content="Hm"), thought_stream(), "skipped"),
        (whole("<|channel>thought\nx<channel|>Lima"), thought_stream(), "fail"),
        (whole("", reasoning_content="The user asks. Lima."), thought_stream(), "fail"),
        (whole("The user asks. Lima.", reasoning_content="The user asks."), thought_stream(), "fail"),
        (whole(reasoning_content="The user asks."), thought_stream(text="<channel|>Lima"), "fail"),
        (whole("thought\nI think Lima"), thought_stream(), "fail"),
    ],
)
def test_thinking_on_keeps_the_thought_apart(told, streamed, outcome):
    assert judge_answer.thinking_on(told, streamed).outcome == outcome


def called(**more: object) -> Reply:
    return whole(None, finish="tool_calls", tool_calls=[call(**more)])


@pytest.mark.parametrize(
    ("told", "streamed", "outcome"),
    [
        (called(), tool_stream(call()), "pass"),
        (
            whole('<|tool_call>call:get_weather{location:<|"|>Lima<|"|>}<tool_call|>'),
            tool_stream(call()),
            "fail",
        ),
        (whole("It is sunny."), tool_stream(call()), "fail"),
        (whole(None, finish="stop", tool_calls=[call()]), tool_stream(call()), "fail"),
        (called(arguments="{location: Lima}"), tool_stream(call()), "fail"),
        (called(arguments='"Lima"'), tool_stream(call()), "fail"),
        (called(arguments={"location": "Lima"}), tool_stream(call()), "fail"),
        (called(arguments='{"location":"Oslo"}'), tool_stream(call()), "fail"),
        (called(name="weather"), tool_stream(call()), "fail"),
        (called(id=""), tool_stream(call()), "fail"),
        (whole(None, finish="tool_calls", tool_calls=[{"id": "x"}]), tool_stream(call()), "fail"),
        (called(), tool_stream(call(), finish="stop"), "fail"),
        (called(), stream("get_weather"), "fail"),
    ],
)
def test_a_tool_call(told, streamed, outcome):
    assert judge_tools.one_call(told, streamed).outcome == outcome


def test_pieces_of_a_streamed_call_are_joined():
    first = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "get_weather", "arguments": ""}}]}
    rest = [
        {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"loc', 'ation":1}')
    ]
    reply = Reply(200, b"".join(map(chunk, [first, *rest])) + chunk(finish="tool_calls") + DONE, SSE)
    assert turn_of(read_stream(reply)).calls == (
        {"id": "c1", "function": {"name": "get_weather", "arguments": '{"location":1}'}},
    )


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (whole(None, finish="tool_calls", tool_calls=[call(), call("get_time", id="c2")]), "pass"),
        (whole(None, finish="tool_calls", tool_calls=[call()]), "skipped"),
        (whole("I would rather not."), "skipped"),
        (whole(None, finish="length", tool_calls=[call(arguments='{"loc')]), "skipped"),
        (whole(None, finish="tool_calls", tool_calls=[call(), call("get_time")]), "fail"),
        (whole(None, finish="tool_calls", tool_calls=[call(), call("other", id="c2")]), "fail"),
        (whole("<|tool_call>call:get_time{}<tool_call|>"), "fail"),
    ],
)
def test_two_tools_at_once(reply, outcome):
    assert judge_tools.two_calls(reply).outcome == outcome


def test_the_turn_after_a_tool():
    assert judge_tools.tool_result(whole("It is sunny in Lima.")).outcome == "pass"
    assert judge_tools.tool_result(whole("I do not know.")).outcome == "fail"
    assert judge_tools.tool_result(whole(None, tool_calls=[call()])).outcome == "fail"
    assert judge_tools.tool_result(refusal(500, "Jinja: roles must alternate")).outcome == "fail"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"city":"Lima","country":"Peru","is_capital":true}', "pass"),
        ('{"city":"Lima","country":"Peru"}', "fail"),
        ('{"city":"Lima","country":"Peru","is_capital":"yes"}', "fail"),
        ('{"city":"Oslo","country":"Peru","is_capital":true}', "fail"),
        ('{"city":"Lima","country":"Peru","is_capital":true,"more":1}', "fail"),
        ('```json\n{"city":"Lima","country":"Peru","is_capital":true}\n```', "fail"),
        (ANSWER, "fail"),
        ("[]", "fail"),
    ],
)
def test_structured_output(text, outcome):
    assert judge_answer.structured(whole(text)).outcome == outcome


def test_the_list_of_models():
    listed = Reply(200, b'{"data":[{"id":"a"},{"id":"b"}]}')
    assert judge_door.models(listed).sentence == "a, b"
    assert judge_door.models(Reply(200, b'{"data":[]}')).outcome == "fail"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (refusal(404, "There is no model 'x'. Models: gemma-4-e2b."), "pass"),
        (refusal(404, "The model does not exist."), "fail"),
        (whole(), "fail"),
        (refusal(400, "no such model: gemma-4-e2b"), "fail"),
        (Reply(404, b"404 page not found gemma-4-e2b"), "fail"),
    ],
)
def test_an_unknown_model(reply, outcome):
    assert judge_door.unknown_model(reply, ["gemma-4-e2b"]).outcome == outcome


def test_keys():
    no = refusal(401, "A key is needed.")
    assert judge_door.keys(no, no, loopback=False).outcome == "pass"
    assert judge_door.keys(no, whole(), loopback=False).outcome == "fail"
    assert judge_door.keys(no, refusal(403, "No."), loopback=False).outcome == "fail"
    assert judge_door.keys(no, Reply(401, b""), loopback=False).outcome == "fail"
    assert judge_door.keys(whole(), whole(), loopback=True).outcome == "skipped"
    assert judge_door.keys(whole(), whole(), loopback=False).outcome == "fail"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (refusal(400, "too long", code="context_length_exceeded"), "pass"),
        (refusal(413, "too long"), "pass"),
        (refusal(500, "too long"), "fail"),
        (refusal(503, "No space in KV cache"), "fail"),
        (Reply(400, b"bad"), "fail"),
        (whole("I cannot know the secret word.", usage=(2047, 7, 2054)), "fail"),
        (whole("Not a word of it.", usage=(4096, 7, 4103)), "fail"),  # Ollama's default context
        (whole("I have read it all.", usage=(8049, 7, 8056)), "fail"),
        (whole(f"It is {questions.SECRET}.", usage=(2047, 7, 2054)), "fail"),
        (whole(f"It is {questions.SECRET}.", usage=(8049, 7, 8056)), "fail"),
    ],
)
def test_a_prompt_beyond_the_context_must_be_refused(reply, outcome):
    assert judge_door.too_long(reply, 8049, 2048).outcome == outcome


def test_a_context_that_is_not_known_may_be_larger_than_the_prompt():
    assert (
        judge_door.too_long(whole(questions.SECRET, usage=(8049, 7, 8056)), 8049, None).outcome == "skipped"
    )
    assert judge_door.too_long(whole("Hm.", usage=(4096, 7, 4103)), 8049, None).outcome == "fail"


def read(tokens: int) -> Reply:
    return whole("x", finish="length", usage=(tokens, 1, tokens + 1))


NO = refusal(400, "exceeds the available context size (2048 tokens)")


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ((read(2047), NO, NO), "pass"),
        ((read(2047), read(2048), NO), "pass"),
        ((NO, NO, NO), "fail"),  # the context was divided among slots
        ((read(2046), NO, NO), "fail"),  # one token was cut
        ((read(2047), read(2047), NO), "fail"),
        ((read(2047), NO, read(2047)), "fail"),
        ((read(2047), NO, refusal(500, "boom")), "fail"),
    ],
)
def test_the_edge_of_the_context(replies, outcome):
    assert judge_door.edge(2048, dict(zip((2047, 2048, 2049), replies, strict=True))).outcome == outcome


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("request (8049 tokens) exceeds the available context size (2048 tokens), try increasing it", 2048),
        (
            "This model's maximum context length is 131,072 tokens. However, you requested 140000 tokens",
            131072,
        ),
        ("Something else", None),
    ],
)
def test_the_limit_is_read_from_a_refusal(message, limit):
    assert judge_door.limit_in_error(refusal(400, message)) == limit


def test_the_limit_is_read_from_the_list_of_models():
    listed = {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "meta": {"n_ctx": 2048}}, {"id": "c"}]}
    reply = Reply(200, json.dumps(listed).encode())
    assert [judge_door.limit_in_models(reply, name) for name in "abcd"] == [4096, 2048, None, None]


def test_an_image():
    assert judge_answer.image(whole("Red.", usage=(113, 2, 115)), 17).outcome == "pass"
    assert judge_answer.image(whole("I see nothing.", usage=(20, 4, 24)), 17).outcome == "fail"
    assert (
        judge_answer.image(refusal(500, "image input is not supported: provide the mmproj"), 17).outcome
        == "skipped"
    )
    assert judge_answer.image(refusal(400, "At most 0 image(s) may be provided"), 17).outcome == "skipped"
    assert judge_answer.image(refusal(500, "boom"), 17).outcome == "fail"
    assert questions.red_square().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("drafted", "accepted", "outcome"),
    [(None, None, "skipped"), (0, 0, "skipped"), (100, 52, "pass"), (1000, 2, "fail")],
)
def test_a_draft_model(drafted, accepted, outcome):
    assert judge_answer.drafting(drafted, accepted).outcome == outcome


def test_a_message_of_odd_shape_is_empty_and_not_an_error():
    for body in (b"null", b"[]", b'{"choices":null}', b'{"choices":[null]}', b'{"choices":[{"message":7}]}'):
        assert message_of(Reply(200, body)).text == ""
        assert judge_answer.plain(Reply(200, body)).outcome == "fail"
