"""What one pretend engine does with one request, and the answer that follows from it.

A `Script` is a value: the fault or the pace to play. `answer` is the part that needs no socket: which body or
which events a request gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gemstead.testing import answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How one request is answered. Times in seconds; the default is a prompt and healthy engine."""

    status: int = 200
    body: bytes | None = None  # sent instead of the answer that the request asks for
    content_type: str = ""  # default: what the answer is
    headers: tuple[tuple[str, str], ...] = ()  # further response headers
    pieces: tuple[str, ...] = answers.DEFAULT_PIECES  # the answer's text, one stream event each
    tool_call: tuple[str, str] | None = None  # name and JSON arguments, when the request declares tools
    events: tuple[bytes, ...] | None = None  # raw stream events instead of those made from `pieces`
    delay_s: float = 0.0  # silence before the headers: prefill, as llama.cpp and vLLM do it
    first_token_s: float = 0.0  # silence between the headers and the first event
    pace_s: float = 0.0  # silence before each further event
    header_pace_s: float = 0.0  # before each byte of the headers
    split_bytes: int = 0  # stream bytes are written in pieces of this size; 0: one event at a time
    glue: bool = False  # all events in one write
    framing: Literal["chunked", "length", "close"] | None = None  # default: chunked streams, else a length
    close: bool = False  # `Connection: close` after this answer
    die_before_headers: bool = False
    die_after: int | None = None  # stream events (whole answers: bytes) after which the connection ends
    die_how: Literal["close", "reset"] = "close"
    garbage: bytes | None = None  # raw bytes instead of an HTTP answer, then close
    never: bool = False  # no answer at all, until the client leaves


Answer = list[bytes] | tuple[int, bytes]


def _chat(fields: answers.Fields, model: str, tokens: int, script: Script) -> Answer:
    tool_call = script.tool_call if fields.get("tools") else None
    if fields.get("stream"):
        return answers.chat_stream(
            model, script.pieces, tokens, with_usage=_wants_usage(fields), tool_call=tool_call
        )
    return 200, answers.encode(answers.chat(model, script.pieces, tokens, tool_call))


def _completion(fields: answers.Fields, model: str, tokens: int, script: Script) -> Answer:
    if fields.get("stream"):
        return answers.completion_stream(model, script.pieces, tokens, with_usage=_wants_usage(fields))
    return 200, answers.encode(answers.completion(model, script.pieces, tokens))


def _response(fields: answers.Fields, model: str, tokens: int, script: Script) -> Answer:
    if fields.get("stream"):
        return answers.response_stream(model, script.pieces, tokens)
    return 200, answers.encode(answers.response(model, script.pieces, tokens))


def _message(fields: answers.Fields, model: str, tokens: int, script: Script) -> Answer:
    if fields.get("stream"):
        return answers.message_stream(model, script.pieces, tokens)
    return 200, answers.encode(answers.message(model, script.pieces, tokens))


def _embeddings(fields: answers.Fields, model: str, tokens: int, script: Script) -> Answer:
    return 200, answers.encode(answers.embeddings(model, fields.get("input"), tokens))


ROUTES: dict[str, Callable[[answers.Fields, str, int, Script], Answer]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/messages": _message,
    "/v1/embeddings": _embeddings,
}


def _wants_usage(fields: answers.Fields) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def answer(path: str, body: bytes, model: str, context_tokens: int, script: Script) -> Answer:
    """Stream events, or a status and a whole body; more than `context_tokens` words are refused."""
    try:
        fields = json.loads(body)
    except ValueError:
        return 400, answers.error(400, "The body is not JSON.")
    if not isinstance(fields, dict):
        return 400, answers.error(400, "The body is not a JSON object.")
    if path not in ROUTES:
        return 404, answers.error(404, "File Not Found", "not_found_error")
    tokens = answers.count_tokens(answers.prompt_text(fields))
    if 0 < context_tokens < tokens:
        text = f"request ({tokens} tokens) exceeds the available context size ({context_tokens} tokens)"
        return 400, answers.error(400, text, "exceed_context_size_error")
    return ROUTES[path](fields, model, tokens, script)
