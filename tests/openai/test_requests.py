"""What is read of a request, and how a wrong one is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.openai.requests import ROUTES, Request, parse
from gemstead.refused import Reason, Refused

CHAT = "/v1/chat/completions"
GOOD = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "m", "prompt": "hi"},
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/embeddings": {"model": "m", "input": ["hi", "ho"]},
    "/v1/messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "m", "messages": []},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}


def chat(**fields: object) -> Request:
    return parse(CHAT, json.dumps(GOOD[CHAT] | fields).encode())


def refusal(path: str, body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(path, body)
    assert caught.value.reason is Reason.BAD_REQUEST
    assert caught.value.message.endswith((".", "models."))
    return caught.value


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_reads_a_plain_request(path):
    request = parse(path, json.dumps(GOOD[path]).encode())
    assert request.model == GOOD[path].get("model", "")
    assert json.loads(request.prompt) is not None
    assert not request.stream


def test_a_chat_request_is_read():
    asked = chat(stream=True, max_tokens=7, n=2, stream_options={"include_usage": True}, seed=5)
    prompt = json.dumps(GOOD[CHAT]["messages"]).encode()
    assert asked == Request("m", prompt, stream=True, most_output=7, answers=2, include_usage=True)


def test_what_the_model_reads_before_the_conversation_comes_first():
    body = b'{"messages":[ 1 ],"model":"m","tools":[{"a" : 1}]}'
    assert parse(CHAT, body).prompt == b'[{"a" : 1}][ 1 ]'
    body = b'{"messages":[1],"tools":[2],"system":"s","model":"m"}'
    assert parse("/v1/messages", body).prompt == b'"s"[2][1]'
    body = b'{"input":"i","tools":[2],"instructions":"s","model":"m"}'
    assert parse("/v1/responses", body).prompt == b'"s"[2]"i"'
    body = b'{"input":"i","tools":null,"instructions":"s","model":"m"}'
    assert parse("/v1/responses", body).prompt == b'"s""i"'


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 10.0}, 10),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
    ],
)
def test_the_bound_on_the_answer(fields, most):
    assert chat(**fields).most_output == most


@pytest.mark.parametrize("name", ["stream", "n", "max_tokens", "stream_options", "tools", "temperature", "x"])
def test_null_is_as_good_as_absent(name):
    assert chat(**{name: None}) == chat()


def test_a_field_that_nobody_knows_is_no_error():
    assert chat(chat_template_kwargs={"a": True}, guided_json={"a": [1, {}]}) == chat()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, (None, False)),
        ({"chat_template_kwargs": {"enable_thinking": True}}, (True, False)),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, (False, False)),
        ({"chat_template_kwargs": ["enable_thinking"]}, (None, False)),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, (None, False)),
        ({"reasoning_effort": "none"}, (False, True)),
        ({"reasoning_effort": "medium"}, (True, True)),
        ({"reasoning_effort": None, "chat_template_kwargs": None}, (None, False)),
    ],
)
def test_what_a_request_says_of_thinking(fields, said):
    asked = chat(**fields)
    assert (asked.thinking, asked.by_effort) == said


def test_the_last_of_two_equal_keys_counts_as_in_every_json_reader():
    assert parse(CHAT, b'{"model":"a","messages":[],"model":"b"}').model == "b"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, True),
        ({"type": "input_image"}, True),
        ({"type": "image", "source": {}}, True),
        ({"type": "text", "text": "an image"}, False),
    ],
)
def test_an_image_is_hinted(part, expected):
    assert chat(messages=[{"role": "user", "content": [part]}]).images is expected


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": None}, "model", "must be a string, not null"),
        ({"model": ""}, "model", "empty"),
        ({"model": 5}, "model", "must be a string, not an integer"),
        ({"messages": None}, "messages", "array"),
        ({"messages": "hi"}, "messages", "array"),
        ({"messages": {}}, "messages", "array"),
        ({"stream": "yes"}, "stream", "must be true or false, not a string"),
        ({"stream": 1}, "stream", "true or false"),
        ({"max_tokens": -1}, "max_tokens", "negative"),
        ({"max_tokens": 1.5}, "max_tokens", "whole number"),
        ({"max_tokens": "9"}, "max_tokens", "not a string"),
        ({"max_tokens": 10**30}, "max_tokens", "at most"),
        ({"max_completion_tokens": -5}, "max_completion_tokens", "negative"),
        ({"n": 0}, "n", "1 or more"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage", "true or false"),
        ({"stream_options": []}, "stream_options", "must be an object"),
    ],
)
def test_a_wrong_field_is_named(fields, param, words):
    refused = refusal(CHAT, json.dumps(GOOD[CHAT] | fields).encode())
    assert refused.param == param
    assert f"'{param}'" in refused.message
    assert words in refused.message


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((path, "model") for path in ROUTES if path not in ("/tokenize", "/detokenize")),
        (CHAT, "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
        ("/v1/embeddings", "input"),
        ("/v1/messages", "messages"),
        ("/tokenize", "prompt"),
        ("/detokenize", "tokens"),
    ],
)
def test_a_missing_field_is_named(path, name):
    body = {key: value for key, value in GOOD[path].items() if key != name}
    refused = refusal(path, json.dumps(body).encode())
    assert (refused.param, "missing" in refused.message) == (name, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"model"',
        b'{"model":"m","messages":[]',
        b'{"model":"m","messages":[]} x',
        b'{"model":"m","messages":[],}',
        b'{"model":"m","messages":[],"temperature":NaN}',
        b'{"model":"m","messages":[],"temperature":Infinity}',
        b"{'model':'m','messages':[]}",
        b'{"model":"m","messages":["\xff\xfe"]}',
        b'{"model":"\xff","messages":[]}',
        b'{"model":"m","messages":["a\nb"]}',
        b'\xef\xbb\xbf{"model":"m","messages":[]}',
        b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","messages":[],"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_what_is_not_json_is_refused(body):
    refusal(CHAT, body)


@given(st.sampled_from(sorted(ROUTES)), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(path, body):
    try:
        parse(path, body)
    except Refused as refused:
        assert refused.reason is Reason.BAD_REQUEST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(ROUTES)),
    st.dictionaries(
        st.sampled_from(
            ["model", "messages", "prompt", "input", "tokens", "stream", "max_tokens", "n", "tools"]
        ),
        JSON,
    ),
)
def test_any_json_is_read_or_refused_with_a_known_field(path, fields):
    try:
        request = parse(path, json.dumps(fields).encode("utf-8", "replace"))
    except Refused as refused:
        assert refused.reason is Reason.BAD_REQUEST
    else:
        assert request.model == (fields.get("model") or "")
