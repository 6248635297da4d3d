"""Request heads that have been parsed before.

A client sends the same head again and again: on a kept connection the OpenAI client's seventeen headers differ
from one request to the next in `Content-Length` alone. So a head that llhttp and `protocol.py` have accepted is
remembered by its bytes, all of them but the digits of that length, and the next one that is equal to the last
byte needs no parsing: equal bytes mean the same. Only the plainest requests are remembered: POST, HTTP/1.1, a
length, no transfer coding, nothing expected. Identity is not remembered: who calls is looked up every time.

Memory is bounded: `MOST` heads of at most `HEAD_MOST` bytes, 4 MiB in all; the oldest is forgotten first.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD_MOST = 4096
MOST = 1024

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n").search


class Head(NamedTuple):
    """What a remembered head says."""

    url: bytes
    path: str
    headers: dict[bytes, bytes]
    keep_alive: bool


class Heads:
    """The heads that one worker remembers."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, key: bytes) -> Head | None:
        return self._known.get(key)

    def remember(self, key: bytes, head: Head) -> None:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = head


def split(data: bytes) -> tuple[bytes, int] | None:
    """The key of a read that is exactly one request with a length, and where its body begins; else None."""
    end = data.find(b"\r\n\r\n", 0, HEAD_MOST)
    if end < 0 or (match := _LENGTH(data, 0, end + 2)) is None:
        return None
    if end + 4 + int(match[1]) != len(data):
        return None
    first, last = match.span(1)
    return data[:first] + data[last:end], end + 4
