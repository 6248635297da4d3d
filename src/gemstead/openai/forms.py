"""The bodies of requests, as far as they are read: one form for each route, and its decoder.

Apart from `requests.py` because that is compiled, and msgspec makes these classes at run time. What the model will
read stays raw: the bytes that the client sent.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

# msgspec has no "Raw or null": an absent field is no bytes, a null one is the four bytes `null`.
NOTHING = Raw()


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class Chat(msgspec.Struct, gc=False):
    model: str
    messages: Raw
    tools: Raw = NOTHING
    stream: bool | None = None
    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None
    n: int | float | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: Raw = NOTHING
    reasoning_effort: Raw = NOTHING


class Completion(msgspec.Struct, gc=False):
    model: str
    prompt: Raw
    stream: bool | None = None
    max_tokens: int | float | None = None
    n: int | float | None = None
    stream_options: StreamOptions | None = None


class Responses(msgspec.Struct, gc=False):
    model: str
    input: Raw
    instructions: Raw = NOTHING
    tools: Raw = NOTHING
    stream: bool | None = None
    max_output_tokens: int | float | None = None


class Embeddings(msgspec.Struct, gc=False):
    model: str
    input: Raw


class Messages(msgspec.Struct, gc=False):
    model: str
    messages: Raw
    system: Raw = NOTHING
    tools: Raw = NOTHING
    stream: bool | None = None
    max_tokens: int | float | None = None


class Tokenize(msgspec.Struct, gc=False):  # vLLM: prompt or messages, tokens; llama.cpp: content, tokens
    model: str | None = None
    prompt: Raw = NOTHING
    messages: Raw = NOTHING
    content: Raw = NOTHING
    tokens: Raw = NOTHING


class Template(msgspec.Struct, gc=False):
    enable_thinking: object = None


template = msgspec.json.Decoder(Template).decode
chat = msgspec.json.Decoder(Chat).decode
completion = msgspec.json.Decoder(Completion).decode
responses = msgspec.json.Decoder(Responses).decode
embeddings = msgspec.json.Decoder(Embeddings).decode
messages = msgspec.json.Decoder(Messages).decode
tokenize = msgspec.json.Decoder(Tokenize).decode
