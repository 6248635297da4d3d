"""What a pretend engine says, in the shapes that real engines use.

Pure functions from a request's fields and a `Script`'s words to bodies and stream events. The shapes follow
llama.cpp's server (build 11549) where the public API leaves room: a finish chunk with an empty delta, and,
when `stream_options.include_usage` is set, one last chunk with no choices that carries the usage. Every event
of a stream is one `bytes`, blank line included, so that a test can say after which event an engine dies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Fields = dict[str, Any]

CREATED = 1_767_225_600  # 2026-01-01; answers do not depend on a clock
DEFAULT_PIECES = ("The", " capital", " of", " Peru", " is", " Lima", ".")


def words(count: int) -> tuple[str, ...]:
    """`count` stream pieces, each one word: " w0", " w1", ..."""
    return tuple(f" w{number}" for number in range(count))


def prompt_text(fields: Fields) -> str:
    """All text that a request holds, whichever API it is written for."""
    parts = [
        fields.get(name) for name in ("system", "instructions", "prompt", "input", "content", "messages")
    ]
    return " ".join(piece for part in parts for piece in _texts(part))


def count_tokens(text: str) -> int:
    """Pretend tokens: one for each word."""
    return len(text.split())


def usage(prompt_tokens: int, output_tokens: int) -> Fields:
    """Usage as the chat and completions APIs write it."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def error(status: int, message: str, kind: str = "") -> bytes:
    """An error body as llama.cpp writes it."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 503: "unavailable_error"}
    return encode({"error": {"code": status, "message": message, "type": kind or kinds.get(status, "error")}})


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(value: object, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def chat(model: str, pieces: Sequence[str], tokens: int, tool_call: tuple[str, str] | None = None) -> Fields:
    """A whole chat completion; `tool_call` is a function's name and its arguments as JSON text."""
    message: Fields = {"role": "assistant", "content": "".join(pieces)}
    if tool_call:
        message = {"role": "assistant", "content": None, "tool_calls": [_call(tool_call)]}
    finish = "tool_calls" if tool_call else "stop"
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage(tokens, len(pieces)),
    }


def chat_stream(
    model: str,
    pieces: Sequence[str],
    tokens: int,
    *,
    with_usage: bool,
    tool_call: tuple[str, str] | None = None,
) -> list[bytes]:
    """The same as a stream: role, one event a piece, finish, usage when asked for, `[DONE]`."""

    def chunk(delta: Fields, finish: str | None = None) -> Fields:
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    events = [event(chunk({"role": "assistant", "content": None}))]
    if tool_call:
        events.append(event(chunk({"tool_calls": [{"index": 0, **_call(tool_call)}]})))
    else:
        events += [event(chunk({"content": piece})) for piece in pieces]
    events.append(event(chunk({}, "tool_calls" if tool_call else "stop")))
    if with_usage:
        events.append(event({**chunk({}), "choices": [], "usage": usage(tokens, len(pieces))}))
    return [*events, DONE]


def completion(model: str, pieces: Sequence[str], tokens: int) -> Fields:
    """A whole legacy completion."""
    return {
        "id": "cmpl-fake",
        "object": "text_completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "text": "".join(pieces), "logprobs": None, "finish_reason": "stop"}],
        "usage": usage(tokens, len(pieces)),
    }


def completion_stream(model: str, pieces: Sequence[str], tokens: int, *, with_usage: bool) -> list[bytes]:
    def chunk(text: str, finish: str | None) -> Fields:
        return {
            "id": "cmpl-fake",
            "object": "text_completion",
            "created": CREATED,
            "model": model,
            "choices": [{"index": 0, "text": text, "finish_reason": finish}],
        }

    events = [event(chunk(piece, None)) for piece in pieces] + [event(chunk("", "stop"))]
    if with_usage:
        events.append(event({**chunk("", None), "choices": [], "usage": usage(tokens, len(pieces))}))
    return [*events, DONE]


def response(model: str, pieces: Sequence[str], tokens: int, status: str = "completed") -> Fields:
    """A whole answer of the Responses API."""
    content = [{"type": "output_text", "text": "".join(pieces), "annotations": [], "logprobs": []}]
    item = {"type": "message", "id": "msg_fake", "role": "assistant", "status": status, "content": content}
    return {
        "id": "resp_fake",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": model,
        "output": [item] if status == "completed" else [],
        "usage": {
            "input_tokens": tokens,
            "output_tokens": len(pieces),
            "total_tokens": tokens + len(pieces),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def response_stream(model: str, pieces: Sequence[str], tokens: int) -> list[bytes]:
    """Events of the Responses API. The last one carries the usage; there is no `[DONE]`."""
    at = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    begun = response(model, (), tokens, "in_progress")
    bodies: list[Fields] = [{"type": "response.created", "response": begun}]
    bodies += [{"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces]
    bodies.append({"type": "response.output_text.done", **at, "text": "".join(pieces)})
    bodies.append({"type": "response.completed", "response": response(model, pieces, tokens)})
    return [event({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies)]


def message(model: str, pieces: Sequence[str], tokens: int) -> Fields:
    """A whole answer of the Anthropic Messages API."""
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "".join(pieces)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": tokens, "output_tokens": len(pieces)},
    }


def message_stream(model: str, pieces: Sequence[str], tokens: int) -> list[bytes]:
    """Events of the Messages API: input tokens in the first, output tokens in the last but one."""
    begun = {**message(model, (), tokens), "content": [], "stop_reason": None}
    bodies: list[Fields] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    bodies += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    bodies += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": len(pieces)},
        },
        {"type": "message_stop"},
    ]
    return [event(body, body["type"]) for body in bodies]


def embeddings(model: str, inputs: object, tokens: int) -> Fields:
    """One small vector for each input."""
    count = len(inputs) if isinstance(inputs, list) else 1
    data = [{"object": "embedding", "index": number, "embedding": [0.6, 0.8]} for number in range(count)]
    return {
        "object": "list",
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _call(tool_call: tuple[str, str]) -> Fields:
    name, arguments = tool_call
    return {"id": "call_fake", "type": "function", "function": {"name": name, "arguments": arguments}}


def _texts(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    if isinstance(part, list):
        return [text for item in part for text in _texts(item)]
    if isinstance(part, dict):
        return [text for name in ("text", "content") for text in _texts(part.get(name))]
    return []
