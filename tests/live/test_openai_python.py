"""The official `openai` package for Python against the running service."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import openai
from gemstead.operate.check.questions import red_square

CAPITAL: Any = [{"role": "user", "content": "What is the capital of Peru?"}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Lima?"}]
ANSWER = "The capital of Peru is Lima."
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=service.v1, api_key=service.key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def ask(service):
    return {"model": service.model, "temperature": 0, "max_tokens": 64}


def test_a_whole_answer(client, ask):
    answer = client.chat.completions.create(messages=CAPITAL, **ask)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 8


def test_a_streamed_answer_with_usage(client, ask):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(messages=CAPITAL, stream=True, stream_options=options, **ask)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 3


def test_a_tool_call_and_the_turn_after(client, ask):
    called = client.chat.completions.create(messages=WEATHER, tools=[TOOL], **ask).choices[0]
    assert called.finish_reason == "tool_calls"
    call = called.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"location": "Lima"})
    turn = [
        *WEATHER,
        called.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    answer = client.chat.completions.create(messages=turn, tools=[TOOL], **ask)
    assert answer.choices[0].message.content == "The weather in Lima is sunny."


def test_a_streamed_tool_call(client, ask):
    with client.chat.completions.stream(messages=WEATHER, tools=[TOOL], **ask) as stream:
        for _ in stream:
            pass
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"location": "Lima"}


class City(BaseModel):
    city: Literal["Lima", "Paris", "Rome"]
    country: Literal["Peru", "France", "Italy"]
    is_capital: bool


def test_structured_output(client, ask):
    ask["max_tokens"] = 256
    answer = client.chat.completions.parse(messages=CAPITAL, response_format=City, **ask)
    assert isinstance(answer.choices[0].message.parsed, City)


def test_thinking_stays_outside_the_answer(client, ask):
    ask["max_tokens"] = 512
    body = {"chat_template_kwargs": {"enable_thinking": True}}
    message = client.chat.completions.create(messages=CAPITAL, extra_body=body, **ask).choices[0].message
    assert message.content == ANSWER
    assert "capital of Peru" in message.model_extra["reasoning_content"]


def test_a_thought_cut_short_stays_outside_the_answer(client, ask):
    ask["max_tokens"] = 2
    body = {"chat_template_kwargs": {"enable_thinking": True}}
    message = client.chat.completions.create(messages=CAPITAL, extra_body=body, **ask).choices[0].message
    assert "channel" not in (message.content or "")


def test_a_picture_in_the_prompt(client, ask):
    picture = "data:image/png;base64," + base64.b64encode(red_square()).decode()
    parts: Any = [
        {"type": "text", "text": "Is it red?"},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    answer = client.chat.completions.create(messages=[{"role": "user", "content": parts}], **ask)
    alone = client.chat.completions.create(messages=[{"role": "user", "content": parts[:1]}], **ask)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > alone.usage.prompt_tokens + 16


def test_an_offline_batch(client, service):
    body = {"model": service.model, "messages": CAPITAL, "temperature": 0}
    line = {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while batch.status in ("validating", "in_progress", "finalizing") and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 1)
    [answer] = client.files.content(batch.output_file_id).text.splitlines()
    assert json.loads(answer)["response"]["body"]["choices"][0]["message"]["content"] == ANSWER


def test_logprobs(client, ask):
    answer = client.chat.completions.create(messages=CAPITAL, logprobs=True, top_logprobs=2, **ask)
    first = answer.choices[0].logprobs.content[0]
    assert first.logprob <= 0
    assert len(first.top_logprobs) == 2


def test_the_responses_api_whole_and_streamed(client, service):
    asked: Any = {"model": service.model, "input": "What is the capital of Peru?", "temperature": 0}
    answer = client.responses.create(**asked)
    assert answer.output_text == ANSWER
    assert answer.status == "completed"
    events = list(client.responses.create(stream=True, **asked))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == events[-1].response.output_text == ANSWER


def test_the_responses_stream_helper(client, service):
    with client.responses.stream(model=service.model, input="ping") as stream:
        assert stream.get_final_response().output_text == "pong"


def test_continuing_a_response_is_refused(client, service):
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model=service.model, input="ping", previous_response_id="resp_1")


def test_legacy_completions(client, service):
    answer = client.completions.create(
        model=service.model, prompt="The capital of", max_tokens=4, temperature=0
    )
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 4


def test_embeddings(client, service):
    answer = client.embeddings.create(model=service.model, input=["ping", "a quiet river"])
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 8


def test_the_list_of_models(client, service):
    assert service.model in [model.id for model in client.models.list()]


def test_every_answer_has_a_request_id(client, ask):
    raw = client.chat.completions.with_raw_response.create(messages=CAPITAL, **ask)
    assert raw.request_id
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(messages=CAPITAL, **{**ask, "model": "no-such-model"})
    assert refused.value.request_id


def test_a_wrong_key_is_an_authentication_error(service, ask):
    client = openai.OpenAI(base_url=service.v1, api_key="gms_never_made", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(messages=CAPITAL, **ask)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found_and_says_what_there_is(client, service, ask, stream):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(messages=CAPITAL, stream=stream, **{**ask, "model": "gemma-4-9b"})
    assert refused.value.code == "model_not_found"
    assert service.model in str(refused.value)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_says_so_in_the_code_that_clients_know(client, ask, stream):
    words: Any = [{"role": "user", "content": "The secret is 4711.\n" + "river " * 300_000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(messages=words, stream=stream, **ask)
    assert refused.value.code == "context_length_exceeded"


def test_a_wrong_type_names_the_field(client, ask):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**ask, "messages": "not a list"})
    assert refused.value.param == "messages"


async def test_the_async_client_takes_many_streams_at_once(service, ask):
    import asyncio

    async with openai.AsyncOpenAI(base_url=service.v1, api_key=service.key, timeout=60) as client:

        async def one() -> str:
            stream = await client.chat.completions.create(messages=CAPITAL, stream=True, **ask)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        assert set(await asyncio.gather(*(one() for _ in range(12)))) == {ANSWER}
