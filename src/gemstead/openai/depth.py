"""How deep a JSON text is nested, without reading it: only brackets outside of strings matter.

A parser that calls itself for each level can be made to run out of stack by a few kilobytes of `[`. The gateway's own
has a bound; engines' have others, or none. So deeper texts than anyone needs end here.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 64  # levels; chats have 5, tools' JSON Schemas rarely 20
_KEPT = b'[]{}"'
_OTHERS = bytes(byte for byte in range(256) if byte not in _KEPT)
_SQUARE = bytes.maketrans(b"{}", b"[]")


def too_deep(text: bytes, most: int = MOST) -> bool:
    """Whether valid JSON is nested deeper than `most` levels. What is no JSON may get either answer."""
    braces = _count(text, b"{", most)
    if braces + _count(text, b"[", most - braces) <= most:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(text.translate(_SQUARE, _OTHERS).split(b'"')[::2])
    for _ in range(most):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return bool(brackets)


def _count(text: bytes, one: bytes, most: int) -> int:
    """How often a byte is there, or `most` + 1. To find a byte is ten times as fast as to count it."""
    at = -1
    for found in range(most + 1):
        at = text.find(one, at + 1)
        if at < 0:
            return found
    return most + 1
