"""What engines tell of an answer's cost, in every dialect's form, and its decoder.

Apart from `usage.py` because that is compiled, and msgspec makes these classes at run time.
"""

from __future__ import annotations

import msgspec


class Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The usage objects of all dialects, as one."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    total_tokens: int | None = None


class Timings(msgspec.Struct, gc=False):
    """llama.cpp's own figures: `prompt_n` are the prompt tokens that were computed, `cache_n` those that were not."""

    prompt_n: int = 0
    predicted_n: int = 0
    cache_n: int = 0


class Inner(msgspec.Struct, gc=False):
    usage: Usage | None = None


class Told(msgspec.Struct, gc=False):
    """The figures in one event or one whole answer, wherever its dialect keeps them."""

    usage: Usage | None = None
    timings: Timings | None = None
    response: Inner | None = None  # Responses
    message: Inner | None = None  # Anthropic


read = msgspec.json.Decoder(Told).decode
