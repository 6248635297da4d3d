"""How complex a request is: its turns, tools and images. Read only where a route of the file asks for it.

What counts as a turn is a message; a prompt that is one text is one turn. Nothing is refused here: what is not as it
should be has been refused by `requests.py`, or the engine says what it thinks of it.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from gemstead.openai.requests import Request


class Shape(msgspec.Struct, frozen=True):
    turns: int
    tools: bool
    images: bool


class _Body(msgspec.Struct, gc=False):
    messages: Raw = Raw()
    input: Raw = Raw()
    tools: Raw = Raw()


_body = msgspec.json.Decoder(_Body).decode
_list = msgspec.json.Decoder(list[Raw]).decode


def shape(request: Request, body: bytes) -> Shape:
    """What the body of an accepted request says of it."""
    try:
        read = _body(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Shape(1, False, request.images)
    turns = _count(read.messages) or _count(read.input) or 1
    return Shape(turns, _count(read.tools) > 0, request.images)


def _count(raw: Raw) -> int:
    text = bytes(raw)
    if not text.startswith(b"["):
        return 0
    try:
        return len(_list(text))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0
