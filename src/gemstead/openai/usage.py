"""What an answer cost, in the engine's own figures: the usage objects of all dialects, read as one.

OpenAI counts cached tokens inside the prompt's, Anthropic beside them; here the prompt is always all of it.
llama.cpp's `timings` stand in where there is no usage.
"""

from __future__ import annotations

import re

import msgspec

_SMALL = 4096  # bytes; an answer up to this is decoded whole


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The usage objects of all dialects, as one."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    total_tokens: int | None = None


class Timings(msgspec.Struct, gc=False):
    """llama.cpp's own figures: `prompt_n` are the prompt tokens that were computed, `cache_n` those that were not."""

    prompt_n: int = 0
    predicted_n: int = 0
    cache_n: int = 0


class _Inner(msgspec.Struct, gc=False):
    usage: Usage | None = None


class Told(msgspec.Struct, gc=False):
    """The figures in one event or one whole answer, wherever its dialect keeps them."""

    usage: Usage | None = None
    timings: Timings | None = None
    response: _Inner | None = None  # Responses
    message: _Inner | None = None  # Anthropic


_event = msgspec.json.Decoder(Told).decode


def usage_of(body: bytes, dialect: str) -> tuple[int, int, int] | None:
    """Prompt, cached and output tokens of a whole answer; None if it tells none.

    A short body is decoded. In a long one (embeddings) the figures are looked for from the end.
    """
    told = decoded(body if len(body) <= _SMALL else _tail(body))
    if told is None:
        return None
    if told.usage is not None and (figures := of_usage(told.usage)) is not None:
        return figures
    return of_timings(told.timings) if told.timings is not None else None


def decoded(body: bytes) -> Told | None:
    """The figures in a JSON object; None if it is not one."""
    try:
        return _event(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _tail(body: bytes) -> bytes:
    """An object of only the usage (or else the timings) of a long body."""
    for name in (b'"usage":', b'"timings":'):
        place = body.rfind(name)
        if place >= 0 and (found := _OBJECT.match(body, place + len(name))):
            return b"{%s%s}" % (name, found[0])
    return b"{}"


# An object with at most one level of objects in it, and no braces in strings: what usage objects are.
_OBJECT = re.compile(rb"\s*\{[^{}]{0,4096}(?:\{[^{}]{0,4096}\}[^{}]{0,4096}){0,16}\}")


def of_usage(usage: Usage) -> tuple[int, int, int] | None:
    """Prompt (cached ones included), cached and output tokens."""
    if usage.prompt_tokens is not None:
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens if details is not None else 0) or 0
        return usage.prompt_tokens, cached, usage.completion_tokens or 0
    if usage.input_tokens is None:
        return None
    if (details := usage.input_tokens_details) is not None:
        return usage.input_tokens, details.cached_tokens or 0, usage.output_tokens or 0
    # Anthropic counts the cached tokens beside the input, the others count them in it.
    cached = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    return usage.input_tokens + cached + written, cached, usage.output_tokens or 0


def of_timings(timings: Timings) -> tuple[int, int, int]:
    """Prompt (cached ones included), cached and output tokens."""
    return timings.prompt_n + timings.cache_n, timings.cache_n, timings.predicted_n
