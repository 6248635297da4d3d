"""Evening out: what callers see is the same whatever engine answers, and however its bytes are cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.engines import ENGINES
from gemstead.openai.dialect import PLAIN, Dialect
from gemstead.openai.evening import Stream, needed, request_for, whole
from gemstead.openai.requests import parse

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}


def need(dialect: Dialect, path: str = CHAT, thinks: bool = False, is_set: bool = True, **fields):
    body = json.dumps({**ASK, "input": "hi", **fields}).encode()
    return needed(dialect, path, parse(path, body), thinks, is_set), body


def asked(dialect: Dialect, thinks: bool = False, is_set: bool = True, **fields) -> dict:
    found, body = need(dialect, thinks=thinks, is_set=is_set, **fields)
    return json.loads(body if found is None else request_for(body, found))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


def passed(found, pieces: list[bytes]) -> bytes:
    stream = Stream(found)
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.close()])


@pytest.mark.parametrize(
    "engine", ["vllm", "sglang", "llamacpp", "embedded", "external", "tgi", "tensorrt_llm"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_does_not_think_passes_untouched(engine, stream):
    """The fast path: nothing to be done for a call, so its bytes go as they are."""
    assert need(ENGINES[engine].DIALECT, stream=stream)[0] is None
    if engine not in ("llamacpp", "embedded"):
        assert need(ENGINES[engine].DIALECT, RESPONSES, stream=stream)[0] is None


def test_an_engine_without_departures_needs_nothing_but_an_effort_told():
    assert need(PLAIN, **THINK)[0] is None
    assert asked(PLAIN, reasoning_effort="high") == {**ASK, "input": "hi", **THINK}
    assert asked(PLAIN, reasoning_effort="none")["chat_template_kwargs"] == {"enable_thinking": False}


def test_what_a_template_is_told_besides_stays():
    told = asked(PLAIN, reasoning_effort="low", chat_template_kwargs={"tone": "dry"})
    assert told["chat_template_kwargs"] == {"tone": "dry", "enable_thinking": True}
    assert "reasoning_effort" not in told


OLLAMA = ENGINES["ollama"].DIALECT


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, "none"),  # it would think
        (THINK, "medium"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "high", **THINK}, "high"),
    ],
)
def test_ollama_is_told_by_effort_and_always(fields, effort):
    told = asked(OLLAMA, is_set=False, **fields)
    assert told["reasoning_effort"] == effort and "chat_template_kwargs" not in told


def test_a_default_is_told_to_an_engine_that_was_not_started_so():
    llamacpp = ENGINES["llamacpp"].DIALECT
    assert asked(llamacpp, is_set=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in asked(llamacpp, is_set=True)
    assert asked(ENGINES["vllm"].DIALECT, True, False)["chat_template_kwargs"] == {"enable_thinking": True}


def test_thoughts_of_earlier_turns_are_named_as_the_engine_reads_them():
    turns = [
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
        {"role": "user", "content": "c"},
    ]
    told = asked(ENGINES["vllm"].DIALECT, messages=turns)
    assert told["messages"][0] == {"role": "assistant", "content": "a", "reasoning": "b"}
    back = asked(ENGINES["llamacpp"].DIALECT, messages=told["messages"])
    assert back["messages"] == turns


def test_a_word_is_no_key():
    """What looks like a key inside words is escaped there, and stays."""
    words = 'He said: "reasoning": "x"'
    found, _ = need(ENGINES["vllm"].DIALECT, stream=True, **THINK)
    event = b"data: " + json.dumps({"choices": [{"delta": {"content": words}}]}).encode() + b"\n\n"
    assert passed(found, [event]) == event


CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    *({"choices": [{"index": 0, "delta": {"reasoning": word}}]} for word in ("The", ' "user" asks', " é\n")),
    {"choices": [{"index": 0, "delta": {"content": 'a "reasoning": b'}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"completion_tokens_details": {"reasoning_tokens": 3}}},
]


@given(st.lists(st.integers(0, 900)), st.booleans())
def test_thoughts_in_a_stream_have_one_name_however_it_is_cut(places, spaced):
    separators = (", ", ": ") if spaced else (",", ":")
    data = b"".join(b"data: %s\n\n" % json.dumps(c, separators=separators).encode() for c in CHUNKS)
    data += b"data: [DONE]\n\n"
    found, _ = need(ENGINES["vllm"].DIALECT, stream=True, **THINK)
    out = passed(found, cut(data, places))
    told = [json.loads(line[6:]) for line in out.decode().split("\n\n") if line.startswith("data: {")]
    assert [list(c["choices"][0]["delta"]) for c in told[1:4]] == [["reasoning_content"]] * 3
    assert json.dumps(told).replace("reasoning_content", "reasoning") == json.dumps(CHUNKS)
    assert out.endswith(b"data: [DONE]\n\n")


# As llama.cpp (build 11549) sent them on 2026-11-21, shortened.
RESPONSE_EVENTS = [
    {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
    {"type": "response.output_item.added", "item": {"id": "rs_1", "type": "reasoning"}},
    {"type": "response.reasoning_text.delta", "delta": "The", "item_id": "rs_1"},
    {"type": "response.output_item.added", "item": {"id": "msg_1", "type": "message"}},
    {"type": "response.content_part.added", "item_id": "msg_1", "part": {"type": "output_text", "text": ""}},
    {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "pong"},
    {"type": "response.output_item.done", "item": {"id": "rs_1", "type": "reasoning"}},
    {"type": "response.output_text.done", "item_id": "msg_1", "text": "pong"},
    {"type": "response.completed", "response": {"id": "r", "status": "completed"}},
]


@given(st.lists(st.integers(0, 1200)))
def test_responses_events_have_their_indexes_however_they_are_cut(places):
    data = b"".join(
        b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in RESPONSE_EVENTS
    )
    found, _ = need(ENGINES["llamacpp"].DIALECT, RESPONSES, stream=True)
    out = passed(found, cut(data, places)).decode().removesuffix("\n\n").split("\n\n")
    told = [json.loads(event.partition("\ndata: ")[2]) for event in out]
    assert [event.partition("\n")[0] for event in out] == [f"event: {e['type']}" for e in RESPONSE_EVENTS]
    assert [e["sequence_number"] for e in told] == list(range(len(told)))
    assert [e.get("output_index") for e in told] == [None, 0, 0, 1, 1, 1, 0, 1, None]
    assert [e.get("content_index") for e in told] == [None, None, 0, None, 0, 0, None, 0, None]
    for before, after in zip(RESPONSE_EVENTS, told, strict=True):
        assert after.items() >= before.items()


def message(content: str, finish: str = "length", **more) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **more},
        "finish_reason": finish,
    }
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 2}}).encode()


@pytest.mark.parametrize(
    ("content", "finish", "left", "thought"),
    [
        ("<|channel>", "length", "", None),
        ("<|channel>th", "length", "", None),
        ("<|channel>thought", "length", "", None),
        ("<|channel>thought\nThe user", "length", "", "The user"),
        ("<|channel>thought\nThe user<channel|>Lima.", "stop", "Lima.", "The user"),
        ("<|channel>thought\n<channel|>Lima.", "stop", "Lima.", None),
        ("<|channel> is a mark of Gemma", "stop", "<|channel> is a mark of Gemma", None),
        ("A mark: <|channel>th", "length", "A mark: <|channel>th", None),
    ],
)
def test_a_thought_that_was_cut_stays_outside_the_answer(content, finish, left, thought):
    found, _ = need(ENGINES["llamacpp"].DIALECT, **THINK)
    told = json.loads(whole(message(content, finish), found))["choices"][0]["message"]
    assert told["content"] == left and told.get("reasoning_content") == thought


@pytest.mark.parametrize(
    "body", [b"", b"<|channel>", b"[]", b'{"choices":[null],"x":"<|channel>"}', b'{"choices":7}']
)
def test_an_answer_that_is_none_stays_as_it_is(body):
    found, _ = need(ENGINES["external"].DIALECT, **THINK)
    assert whole(body, found) == body


def test_a_whole_answer_names_its_thoughts_once():
    found, _ = need(ENGINES["vllm"].DIALECT, **THINK)
    body = message("Lima.", "stop", reasoning="b").replace(b" ", b"")
    assert b'"reasoning_content":"b"' in whole(body, found)
    both = message("Lima.", "stop", reasoning="b", reasoning_content="b")
    assert whole(both, found) == both  # vLLM 0.11 and 0.12 sent both
