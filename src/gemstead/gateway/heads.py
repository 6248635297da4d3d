"""Request heads that have been parsed before.

A client sends the same head again and again: on a kept connection the OpenAI client's seventeen headers differ
from one request to the next in `Content-Length` alone. So a head that llhttp and `protocol.py` have accepted is
remembered by its bytes, all of them but the digits of that length, and the next one that is equal to the last
byte needs no parsing: equal bytes mean the same. Only the plainest requests are remembered: POST, HTTP/1.1, a
length, no transfer coding, nothing expected. A connection holds its next request against its last head (`body_at`)
before it looks among the others. Who called with a head is remembered with it; whether he still may is asked at
every call (`Keyring.again`).

Memory is bounded: `MOST` heads of at most `HEAD_MOST` bytes, 4 MiB in all; the oldest is forgotten first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gemstead.traffic.caller import Caller
    from gemstead.traffic.roles import Roles

HEAD_MOST: Final = 4096
MOST: Final = 1024

DIGITS_MOST: Final = 9
PASSED_ON = (
    b"traceparent",
    b"tracestate",
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
)
_PASSED = frozenset(PASSED_ON)

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n").search

Key = tuple[bytes, bytes]  # a head's bytes before the digits of its length and behind them, to its end


class Head:
    """What a remembered head says. `before` and `after` are its bytes around the digits of its length.

    `heads` are those that it belongs to: other settings begin with others, because they may need other headers.
    """

    __slots__ = (
        "after",
        "before",
        "caller",
        "headers",
        "heads",
        "keep_alive",
        "passed",
        "path",
        "right",
        "url",
    )

    def __init__(
        self, key: Key, url: bytes, path: str, headers: dict[bytes, bytes], keep_alive: bool
    ) -> None:
        self.before, self.after = key
        self.url = url
        self.path = path
        self.headers = headers
        self.passed = passed_on(headers)
        self.keep_alive = keep_alive
        self.heads: Heads | None = None
        self.caller: Caller | None = None  # who called with it last
        self.right: Roles | None = None  # by which roles he may ask for this path

    def body_at(self, data: bytes) -> int:
        """Where the body begins in a read that is one whole request with this head; 0: it is none."""
        before = self.before
        if not data.startswith(before):
            return 0
        first = len(before)
        last = data.find(b"\r", first, first + DIGITS_MOST + 1)
        if last <= first or not data.startswith(self.after, last):
            return 0
        digits = data[first:last]
        body = last + len(self.after)
        return body if digits.isdigit() and body + int(digits) == len(data) else 0


class Heads:
    """The heads that one worker remembers."""

    def __init__(self) -> None:
        self._known: dict[Key, Head] = {}

    def find(self, key: Key) -> Head | None:
        return self._known.get(key)

    def remember(self, key: Key, head: Head) -> None:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = head
        head.heads = self


def split(data: bytes) -> tuple[Key, int] | None:
    """The key of a read that is exactly one request with a length, and where its body begins; else None."""
    end = data.find(b"\r\n\r\n", 0, HEAD_MOST)
    if end < 0 or (match := _LENGTH(data, 0, end + 2)) is None:
        return None
    if end + 4 + int(match[1]) != len(data):
        return None
    first, last = match.span(1)
    return (data[:first], data[last : end + 4]), end + 4


def passed_on(headers: dict[bytes, bytes]) -> bytes:
    """The few request headers that an engine may see, as lines."""
    if _PASSED.isdisjoint(headers):
        return b""
    return b"".join(b"%s: %s\r\n" % (name, headers[name]) for name in PASSED_ON if name in headers)
