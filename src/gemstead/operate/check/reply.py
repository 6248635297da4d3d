"""An HTTP answer as a value, and how a stream of events is read from its bytes.

Nothing here raises on bad bytes: what is wrong is kept, because finding it is what a check is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, whole. `cut` says that the connection ended before the answer did."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    seconds: float = 0.0
    cut: bool = False

    @property
    def fields(self) -> Fields:
        """The JSON object in the body; empty when there is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def error(self) -> Fields:
        """The error object as OpenAI writes it; empty when there is none."""
        value = self.fields.get("error")
        return value if isinstance(value, dict) else {}

    @property
    def says(self) -> str:
        """The error message, or the beginning of the body: for sentences."""
        said = self.error.get("message") or self.body[:200].decode("utf-8", "replace")
        return " ".join(str(said).split())[:200] or "nothing"


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model said in one answer, whole or put together from a stream."""

    text: str = ""
    thought: str = ""
    calls: tuple[Fields, ...] = ()  # as in `message.tool_calls`
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """A chat stream as read. `faults` are breaches of the event format, in words."""

    chunks: tuple[Fields, ...]
    faults: tuple[str, ...]


def message_of(reply: Reply) -> Turn:
    """The first choice of a whole chat answer; empty when it has none."""
    choice = _first(reply.fields.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict):
        return Turn()
    calls = tuple(call for call in message.get("tool_calls") or () if isinstance(call, dict))
    return Turn(_text(message.get("content")), _thought(message), calls, _text(choice.get("finish_reason")))


def usage_of(fields: Fields) -> Fields:
    usage = fields.get("usage")
    return usage if isinstance(usage, dict) else {}


def read_stream(reply: Reply) -> Stream:
    """The events of a chat stream, and everything about their form that a strict client would trip over."""
    faults = [] if not reply.cut else ["the connection ended in the middle of the stream"]
    kind = reply.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        faults.append(f"the content type is {kind or 'missing'}, not text/event-stream")
    chunks: list[Fields] = []
    done = False
    for block in reply.body.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:"))
        if not data:
            continue  # a comment, such as keep-alive
        if done:
            faults.append("there are events after [DONE]")
        if data == "[DONE]":
            done = True
            continue
        chunk = Reply(200, data.encode()).fields
        if chunk:
            chunks.append(chunk)
        else:
            faults.append(f"an event is not a JSON object: {data[:80]}")
    if not done:
        faults.append("it does not end with [DONE]")
    faults += [f"it holds an error: {chunk['error']}" for chunk in chunks if chunk.get("error")]
    return Stream(tuple(chunks), tuple(faults))


def turn_of(stream: Stream) -> Turn:
    """What the model said, put together from a stream as clients do it."""
    text, thought, finish = "", "", ""
    calls: dict[int, Fields] = {}
    for chunk in stream.chunks:
        choice = _first(chunk.get("choices"))
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        text += _text(delta.get("content"))
        thought += _thought(delta)
        finish = _text(choice.get("finish_reason")) or finish
        for piece in delta.get("tool_calls") or ():
            _join_call(calls, piece)
    return Turn(text, thought, tuple(calls[index] for index in sorted(calls)), finish)


def _join_call(calls: dict[int, Fields], piece: Fields) -> None:
    call = calls.setdefault(
        int(piece.get("index") or 0), {"id": "", "function": {"name": "", "arguments": ""}}
    )
    call["id"] = piece.get("id") or call["id"]
    function = piece.get("function") or {}
    call["function"]["name"] += _text(function.get("name"))
    call["function"]["arguments"] += _text(function.get("arguments"))


def _thought(message: Fields) -> str:
    """llama.cpp and SGLang write `reasoning_content`, vLLM writes `reasoning`."""
    return _text(message.get("reasoning_content")) or _text(message.get("reasoning"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first(choices: object) -> Fields:
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}
