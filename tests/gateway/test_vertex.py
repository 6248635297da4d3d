"""Vertex AI's request form, through a real worker to an engine: `/predict` in its three forms, and `/health`."""

from __future__ import annotations

import json

import pytest

from gemstead.openai.vertex import answered, asked
from gemstead.refused import Refused
from gemstead.testing import FakeEngine, Script
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack

ROUTES = ("/predict", "/health")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = {
    "id": "1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Lima."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}
EVENTS = (b'data: {"choices":[{"index":0,"delta":{"content":"Lima."}}]}\n\n',)


async def test_a_wrapped_chat_is_answered_as_predictions_and_counted(tmp_path):
    async with (
        FakeEngine(Script(body=json.dumps(ANSWER).encode())) as engine,
        start_stack(folder=tmp_path, endpoints=(engine.facts("x", pool="m"),), vertex=ROUTES) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post({"instances": [CHAT], "parameters": {"maxOutputTokens": 5}}, path="/predict"))
        answer = await peer.answer()
        assert answer.status == 200
        assert json.loads(answer.body) == {"predictions": [ANSWER]}
        await peer.send(post({"instances": [{"@requestFormat": "chatCompletions", **CHAT}]}, path="/predict"))
        assert json.loads((await peer.answer()).body) == {"predictions": ANSWER}
        await peer.send(post(CHAT, path="/predict"))
        assert json.loads((await peer.answer()).body) == ANSWER
        sent = json.loads(engine.seen[0].body)
        assert engine.seen[0].path == "/v1/chat/completions"
        assert sent == {"model": "m", "max_tokens": 5, **CHAT}


async def test_a_raw_stream_is_a_stream(tmp_path):
    async with (
        FakeEngine(Script(events=EVENTS)) as engine,
        start_stack(folder=tmp_path, endpoints=(engine.facts("x", pool="m"),), vertex=ROUTES) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post({**CHAT, "stream": True}, path="/predict"))
        got = events((await peer.answer()).body)
        assert got[0] + b"\n\n" == EVENTS[0]
        assert got[-1] == b"data: [DONE]"


async def test_health_is_whether_the_model_answers_and_what_is_wrong_is_said(tmp_path):
    async with (
        FakeEngine() as engine,
        start_stack(folder=tmp_path, endpoints=(engine.facts("x", pool="m"),), vertex=ROUTES) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await peer.answer()).status == 200
        await peer.send(post({"instances": []}, path="/predict"))
        answer = await peer.answer()
        assert answer.status == 400
        assert "instances" in json.loads(answer.body)["error"]["message"]


async def test_the_routes_are_there_only_for_vertex(tmp_path):
    async with (
        FakeEngine() as engine,
        start_stack(folder=tmp_path, endpoints=(engine.facts("x", pool="m"),)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(CHAT, path="/predict"))
        assert (await peer.answer()).status == 404


def form(said: object) -> tuple[str, object, str]:
    found = asked(json.dumps(said).encode(), "m")
    return found.path, json.loads(found.body), found.form


def test_prompts_of_one_request_are_one_call_and_their_answers_keep_their_order():
    path, body, kind = form({"instances": [{"prompt": "a"}, {"prompt": "b"}], "parameters": {"topK": 3}})
    assert (path, kind) == ("/v1/completions", "list")
    assert body == {"prompt": ["a", "b"], "top_k": 3, "model": "m"}
    raw = json.dumps({"choices": [{"index": 1, "text": "B"}, {"index": 0, "text": "A"}]}).encode()
    assert json.loads(answered(raw, kind)) == {"predictions": ["A", "B"]}
    assert form({"instances": ["a"]})[:2] == ("/v1/completions", {"prompt": ["a"], "model": "m"})


def test_embeddings_come_back_one_for_each_instance():
    path, body, kind = form({"instances": [{"content": "a"}, {"content": "b"}]})
    assert (path, body) == ("/v1/embeddings", {"input": ["a", "b"], "model": "m"})
    raw = json.dumps({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}).encode()
    assert json.loads(answered(raw, kind)) == {"predictions": [{"embedding": [1.0]}, {"embedding": [2.0]}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "valid JSON"),
        (b"[]", "JSON object"),
        (b'{"instances": {}}', "list"),
        (b'{"instances": [{"messages": []}, {"messages": []}]}', "One chat"),
        (b'{"instances": [{"prompt": "a", "top_p": 1}, {"prompt": "b"}]}', "same parameters"),
        (b'{"instances": [{"prompt": "a"}], "parameters": []}', "object"),
        (b"{}", "messages"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(body, says):
    with pytest.raises(Refused, match=says):
        asked(body, "m")
