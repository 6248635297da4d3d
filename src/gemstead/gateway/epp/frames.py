"""HTTP/2's frames, as far as gRPC needs them: bytes that are sent, built here, and the numbers that name things.

RFC 9113 is meant wherever a section is named. Nothing of what we send is compressed against a table of earlier heads:
our heads are the same few bytes each time, so they are constants. Reading is `link.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final
from urllib.parse import quote

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # 3.4
HEAD_BYTES: Final = 9
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

NO_ERROR: Final = 0  # 7
PROTOCOL_ERROR: Final = 1
FLOW_CONTROL_ERROR: Final = 3
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

TABLE_SIZE: Final = 1  # 6.5.2
MOST_STREAMS: Final = 3
FIRST_WINDOW: Final = 4
FRAME_SIZE: Final = 5
HEAD_LIST_SIZE: Final = 6

WINDOW: Final = 65_535  # before anybody says otherwise (6.9.2)
WINDOW_MOST: Final = (1 << 31) - 1
FRAME_LEAST: Final = 16_384  # what everybody takes (4.2)
FRAME_MOST: Final = (1 << 24) - 1
LAST_STREAM: Final = (1 << 31) - 1

HEAD: Final = Struct(">IBI")  # length and kind in one, flags, stream
_DATA: Final = Struct(">IBIBI")  # the same, then gRPC's own: compressed, length
_SETTING: Final = Struct(">HI")

# Heads in HPACK without Huffman and without the table (RFC 7541, 6.2.2): `:status` is 8 in the fixed table and 200 as a
# whole, `content-type` 31. 0x20 first says that our table has no room, so that no peer has to keep one (6.3).
NO_TABLE: Final = b"\x20"
ANSWER: Final = b"\x88\x0f\x10\x10application/grpc"
TRAILERS_OK: Final = b"\x00\x0bgrpc-status\x010"
NOT_GRPC: Final = b"\x08\x03415"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def message(stream: int, body: bytes) -> bytes:
    """A gRPC message in a DATA frame of its own."""
    size = len(body)
    return _DATA.pack(size + 5 << 8, 0, stream, 0, size) + body


def prefixed(body: bytes) -> bytes:
    """A gRPC message as it stands in a stream's data: not compressed, its length, itself."""
    return b"\x00" + len(body).to_bytes(4, "big") + body


def trailers(status: int, why: str = "") -> bytes:
    """The end of an answer, as a block of headers: a gRPC status and what to say about it."""
    if not status:
        return TRAILERS_OK
    return _literal("grpc-status", str(status)) + (_literal("grpc-message", quote(why[:80])) if why else b"")


def _literal(name: str, value: str) -> bytes:
    """A header that no table holds; both shorter than 127 bytes are one byte of length each."""
    written = value.encode("ascii", "replace")[:126]
    return bytes((0, len(name))) + name.encode() + bytes((len(written),)) + written


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, why: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why)


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)
