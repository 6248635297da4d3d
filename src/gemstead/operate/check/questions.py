"""The requests that `gemstead check` sends.

Each must be answerable by the smallest Gemma 4 and by the demonstration model alike, so they ask for what both
know: the capital of Peru, the weather in Lima through a tool. Temperature 0, so that one answer can be compared
with another.
"""

from __future__ import annotations

import base64
import struct
import zlib

from gemstead.operate.check.reply import Fields

CAPITAL = "What is the capital of Peru?"
EXPECTED = "Lima"
WEATHER = "What is the weather in Lima?"
COUNT = "Count to 30"  # long enough for a draft model to show what it is worth
SECRET = "TAMARIND-4711"  # noqa: S105 - stands in the first line of a prompt that is too long

CITY_SCHEMA: Fields = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Lima", "Paris", "Rome"]},
        "country": {"type": "string", "enum": ["Peru", "France", "Italy"]},
        "is_capital": {"type": "boolean"},
    },
    "required": ["city", "country", "is_capital"],
    "additionalProperties": False,
}


def tool(name: str, description: str) -> Fields:
    """A function that takes a location."""
    parameters = {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


GET_WEATHER = tool("get_weather", "Get the weather of a city")
GET_TIME = tool("get_time", "Get the local time of a city")


def ask(model: str, text: str, *, most: int = 64, **more: object) -> Fields:
    """One user message; `most` is the most tokens of the answer. Thinking is off unless `more` says otherwise."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": most,
        "chat_template_kwargs": {"enable_thinking": False},
        **more,
    }


def thinking(model: str) -> Fields:
    return ask(model, CAPITAL, most=1024, chat_template_kwargs={"enable_thinking": True})


def both_tools(model: str) -> Fields:
    """A question that two calls answer best."""
    text = "What is the weather in Lima and what time is it in Lima? Call both tools."
    return ask(model, text, most=128, tools=[GET_WEATHER, GET_TIME], parallel_tool_calls=True)


def tool_result(model: str) -> Fields:
    """The turn after a tool call, with the tool's answer."""
    function = {"name": "get_weather", "arguments": '{"location":"Lima"}'}
    messages = [
        {"role": "user", "content": WEATHER},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    return {**ask(model, ""), "messages": messages, "tools": [GET_WEATHER]}


def structured(model: str) -> Fields:
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY_SCHEMA}}
    return ask(model, CAPITAL, most=256, response_format=form)


def image(model: str) -> Fields:
    """A question about a small red picture."""
    url = "data:image/png;base64," + base64.b64encode(red_square()).decode()
    parts = [
        {"type": "text", "text": "Which colour is this picture?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {**ask(model, "", most=32), "messages": [{"role": "user", "content": parts}]}


def red_square(side: int = 64) -> bytes:
    """A PNG of `side` by `side` red pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * side) * side
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def filled(words: int, word: str = "river") -> str:
    """A prompt of so many words, each alike."""
    return " ".join([word] * words)


def with_secret(words: int, word: str = "river") -> str:
    """A prompt whose first line holds a secret and whose last line asks for it: cut at the front, it is lost."""
    return f"The secret word is {SECRET}.\n{filled(words, word)}\nWhat is the secret word?"
