"""What an answer cost, in the engine's own figures: the usage objects of all dialects, read as one.

OpenAI counts cached tokens inside the prompt's, Anthropic beside them; here the prompt is always all of it.
llama.cpp's `timings` stand in where there is no usage.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gemstead.openai import told
from gemstead.openai.told import Timings, Told, Usage

_SMALL: Final = 4096  # bytes; an answer up to this is decoded whole


def usage_of(body: bytes, dialect: str) -> tuple[int, int, int] | None:
    """Prompt, cached and output tokens of a whole answer; None if it tells none.

    A short body is decoded. In a long one (embeddings) the figures are looked for from the end.
    """
    found = decoded(body if len(body) <= _SMALL else _tail(body))
    if found is None:
        return None
    if (usage := found.usage) is not None and (figures := of_usage(usage)) is not None:
        return figures
    return of_timings(found.timings) if found.timings is not None else None


def decoded(body: bytes) -> Told | None:
    """The figures in a JSON object; None if it is not one."""
    try:
        return told.read(body)
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
    prompt = usage.prompt_tokens
    if prompt is not None:
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens if details is not None else 0) or 0
        return prompt, cached, usage.completion_tokens or 0
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
