"""The official `anthropic` package for Python against the running service."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

CAPITAL: Any = [{"role": "user", "content": "What is the capital of Peru?"}]
ANSWER = "The capital of Peru is Lima."
TOOL: Any = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}


@pytest.fixture
def client(service):
    with anthropic.Anthropic(base_url=service.url, api_key=service.key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def ask(service):
    # temperature is sent as a plain field: newer clients warn about it for models that they do not know
    return {"model": service.model, "max_tokens": 64, "extra_body": {"temperature": 0}}


def test_a_whole_message(client, ask):
    answer = client.messages.create(messages=CAPITAL, **ask)
    assert (answer.content[0].text, answer.stop_reason) == (ANSWER, "end_turn")
    assert answer.usage.output_tokens > 3


def test_a_streamed_message(client, ask):
    with client.messages.stream(messages=CAPITAL, **ask) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 3


def test_a_tool_is_used(client, ask):
    weather: Any = [{"role": "user", "content": "What is the weather in Lima?"}]
    answer = client.messages.create(messages=weather, tools=[TOOL], **ask)
    used = next(block for block in answer.content if block.type == "tool_use")
    assert (used.name, used.input, answer.stop_reason) == ("get_weather", {"location": "Lima"}, "tool_use")


def test_tokens_are_counted(client, service):
    assert client.messages.count_tokens(model=service.model, messages=CAPITAL).input_tokens > 8


def test_a_wrong_key_is_an_authentication_error(service, ask):
    client = anthropic.Anthropic(base_url=service.url, api_key="gms_never_made", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as refused:
        client.messages.create(messages=CAPITAL, **ask)
    assert refused.value.body["type"] == "error"


def test_an_unknown_model_is_not_found(client, ask):
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(messages=CAPITAL, **{**ask, "model": "gemma-4-9b"})
    assert refused.value.body["error"]["type"] == "not_found_error"


def test_a_prompt_beyond_the_context_is_a_bad_request(client, ask):
    words: Any = [{"role": "user", "content": "river " * 300_000}]
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(messages=words, **ask)
