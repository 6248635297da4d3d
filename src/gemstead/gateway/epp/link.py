"""One connection of a gateway: HTTP/2 with gRPC streams on it. Bytes in, messages out; messages in, bytes out.

No socket here: `receive` takes what has come, `out` collects what is to be sent, and `flush` is called when something
has been added to it while nothing was being received. Who answers a stream is a `Listener`, and is told of each
message, of the end of the gateway's side, and of a stream that is gone.

Why our own: each request of a gateway is a stream of eight to ten small messages, and what a library does per message
is nearly all that a picker costs. Streams that do nothing else take 0.40 to 0.59 ms of CPU each on grpcio's asyncio
server and 0.35 to 0.57 with the `h2` library; the whole picker takes 0.17 to 0.38 on this (docs/measured/epp.md). So it
is the request path, which is ours. Header blocks are read by the `hpack` library, and those that change no table once.

What is bounded: a message (`most_message`), a header block, streams at once, what may be on its way to us
(`WINDOW_IN` per stream), and what waits to be sent (a stream whose answers are not taken is given no more window).
Whoever breaks the protocol loses the connection, with a word why (GOAWAY); a stream's own fault ends only that stream.
gRPC's own compression is refused: gateways do not use it. A deadline (`grpc-timeout`) is the caller's to keep, who
resets the stream when it has passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from hpack import Decoder
from hpack.exceptions import HPACKError

from gemstead.gateway.epp import frames

WINDOW_IN: Final = 1 << 20  # that a gateway may send on one stream before we have read it
WINDOW_ALL: Final = 16 << 20  # and on all of a connection
UNSENT_MOST: Final = 1 << 20  # of one stream's answers; above it no more of its requests are asked for
FRAME_IN: Final = 1 << 17  # largest frame that we take
BLOCK_MOST: Final = 1 << 16  # of a block of headers
BLOCKS_KEPT: Final = 64
STREAMS_MOST: Final = 20_000  # at once, of one connection
OK: Final = 0  # gRPC's status codes
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
OURS: Final = frames.settings(
    {
        frames.MOST_STREAMS: STREAMS_MOST,
        frames.FIRST_WINDOW: WINDOW_IN,
        frames.FRAME_SIZE: FRAME_IN,
        frames.HEAD_LIST_SIZE: BLOCK_MOST,
    }
)
log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who answers one stream."""

    def message(self, raw: bytes) -> None: ...
    def ended(self) -> None:
        """The gateway says no more."""

    def gone(self) -> None:
        """Nothing can be said any more: the stream was reset, or the connection is lost."""


class Broken(Exception):
    """The peer has broken the protocol; the connection ends."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Stream:
    """One gRPC call. Say messages, then end it, once."""

    def __init__(self, link: Link, number: int, window: int) -> None:
        self.link, self.number = link, number
        self.listener: Listener | None = None
        self.window = window  # that we may send
        self.window_in = WINDOW_IN  # that the peer may send
        self.rest = bytearray()  # a message that has not come whole
        self.unsent = bytearray()  # answers that no window was there for
        self.begun = False  # our head was sent
        self.closing: bytes | None = None  # our trailers
        self.over = False  # nothing more is sent
        self.half = False  # the peer says no more

    def say(self, messages: list[bytes]) -> None:
        """Send these."""
        if self.over or self.closing is not None:
            return
        link = self.link
        if not self.begun:
            self.begun = True
            link.head(self.number, frames.ANSWER, 0)
        for body in messages:
            size = len(body) + 5
            if not self.unsent and size <= link.frame_out and link.may_send(self, size):
                link.out.append(frames.message(self.number, body))
            else:
                self.unsent += frames.prefixed(body)
        if self.unsent:
            link.push(self)
        link.sent()

    def end(self, status: int = OK, why: str = "") -> None:
        """End it: after what was said, with this status."""
        if self.over or self.closing is not None:
            return
        self.closing = frames.trailers(status, why)
        self.link.push(self)
        self.link.sent()


class Link:
    """One connection, seen from our side."""

    def __init__(
        self, answer: Callable[[str, Stream], Listener | None], most_message: int, flush: Callable[[], None]
    ) -> None:
        """`answer(path, stream)` returns who answers it; None: there is no such method."""
        self.answer, self.most_message, self.flush = answer, most_message, flush
        self.out: list[bytes] = [OURS, frames.window_update(0, WINDOW_ALL - frames.WINDOW)]
        self.streams: dict[int, Stream] = {}
        self.closed = False  # a fault has ended it: send `out`, and close
        self.leaving = False  # new streams are no longer taken
        self.window = frames.WINDOW  # that we may send on all streams together
        self.window_in = WINDOW_ALL
        self.frame_out = frames.FRAME_LEAST
        self.full = False  # the socket takes no more for now
        self._first_window = frames.WINDOW
        self._blocked: dict[Stream, None] = {}
        self._last = 0  # the highest stream that the peer has opened
        self._data = b""  # an unfinished frame
        self.greeted = False
        self._receiving = False
        self._table_said = False
        self._block: bytearray | None = None  # of headers, unfinished
        self._block_for = self._block_flags = 0
        self._decoder = Decoder(max_header_list_size=BLOCK_MOST)
        self._read: dict[bytes, tuple[str, str]] = {}  # path and content type by block

    # -- what comes -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take in what has come."""
        if self.closed:
            return
        self._receiving = True
        try:
            self._take(self._data + data if self._data else data)
        except Broken as broken:
            self._break(broken.code, str(broken))
        except HPACKError as error:
            self._break(frames.COMPRESSION_ERROR, str(error))
        finally:
            self._receiving = False

    def _take(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self.greeted:
            if size < len(frames.PREFACE) and frames.PREFACE.startswith(data):
                self._data = data
                return
            if not data.startswith(frames.PREFACE):
                raise Broken(frames.PROTOCOL_ERROR, "this port speaks HTTP/2 with prior knowledge")
            self.greeted = True
            at = len(frames.PREFACE)
        while size - at >= frames.HEAD_BYTES:
            length_and_kind, flags, number = frames.HEAD.unpack_from(data, at)
            length = length_and_kind >> 8
            if length > FRAME_IN:
                raise Broken(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + frames.HEAD_BYTES + length
            if end > size:
                break
            payload = data[at + frames.HEAD_BYTES : end]
            self._frame(length_and_kind & 0xFF, flags, number & frames.LAST_STREAM, payload)
            at = end
        self._data = data[at:] if at else data

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or number != self._block_for):
            raise Broken(frames.PROTOCOL_ERROR, "a block of headers was interrupted")
        if kind == frames.DATA:
            self._on_data(flags, number, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, number, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window(number, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == frames.RST_STREAM:
            self._on_reset(number, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, number, payload)
        elif kind == frames.PING:
            self._on_ping(flags, number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise Broken(frames.PROTOCOL_ERROR, "clients push nothing")
        # GOAWAY: no more streams come, which needs nothing of us. PRIORITY and what is unknown is passed over (5.5).

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self.window_in -= size
        if self.window_in < WINDOW_ALL // 2:
            if self.window_in < 0:
                raise Broken(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
            self.out.append(frames.window_update(0, WINDOW_ALL - self.window_in))
            self.window_in = WINDOW_ALL
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last or not number & 1:
                raise Broken(frames.PROTOCOL_ERROR, f"data of stream {number}, which is not open")
            return  # it was on its way when we had ended the stream
        if stream.half:
            raise Broken(frames.PROTOCOL_ERROR, f"data after the end of stream {number}")
        stream.window_in -= size
        if stream.window_in < 0:
            raise Broken(frames.FLOW_CONTROL_ERROR, f"more than the window of stream {number}")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        self._messages(stream, payload)
        if flags & frames.END_STREAM:
            self._half(stream)
        elif stream.window_in < WINDOW_IN // 2 and len(stream.unsent) <= UNSENT_MOST:
            self._more(stream)

    def _more(self, stream: Stream) -> None:
        """Let the peer send on."""
        if not stream.over:
            self.out.append(frames.window_update(stream.number, WINDOW_IN - stream.window_in))
            stream.window_in = WINDOW_IN

    def _messages(self, stream: Stream, payload: bytes) -> None:
        """Hand over the messages that are whole."""
        size = len(payload)
        rest, listener = stream.rest, stream.listener
        if listener is None:
            return
        if (
            not rest and size >= 5 and int.from_bytes(payload[:5], "big") == size - 5
        ):  # not compressed, one, whole
            listener.message(payload[5:])
            return
        rest += payload
        while len(rest) >= 5 and not stream.over:
            length = int.from_bytes(rest[1:5], "big")
            if rest[0]:
                stream.end(UNIMPLEMENTED, "messages are not to be compressed")
            elif length > self.most_message:
                stream.end(RESOURCE_EXHAUSTED, f"a message of {length} bytes; at most {self.most_message}")
            elif len(rest) < 5 + length:
                return
            else:
                body = bytes(rest[5 : 5 + length])
                del rest[: 5 + length]
                listener.message(body)
        if stream.over:
            rest.clear()

    def _half(self, stream: Stream) -> None:
        stream.half = True
        if stream.listener is not None and not stream.over:
            stream.listener.ended()

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.WITH_PRIORITY:
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._on_block(flags, number, payload)
        else:
            self._block, self._block_for, self._block_flags = bytearray(payload), number, flags

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if (block := self._block) is None:
            raise Broken(frames.PROTOCOL_ERROR, "a continuation of nothing")
        block += payload
        if len(block) > BLOCK_MOST:
            raise Broken(frames.ENHANCE_YOUR_CALM, "too many headers")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(self._block_flags, self._block_for, bytes(block))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        path, kind = self._decoded(block)
        if (
            stream := self.streams.get(number)
        ) is not None:  # trailers: gateways send none, and none is heeded
            if not flags & frames.END_STREAM:
                raise Broken(frames.PROTOCOL_ERROR, f"a second head of stream {number}")
            self._half(stream)
            return
        if not number & 1:
            raise Broken(frames.PROTOCOL_ERROR, f"stream {number}")
        if number <= self._last:
            return  # it has ended
        self._last = number
        if self.leaving or len(self.streams) >= STREAMS_MOST:
            self.out.append(frames.reset(number, frames.REFUSED_STREAM))
            return
        self._open(number, path, kind)
        if flags & frames.END_STREAM and (opened := self.streams.get(number)) is not None:
            self._half(opened)

    def _open(self, number: int, path: str, kind: str) -> None:
        stream = Stream(self, number, self._first_window)
        if not kind.startswith("application/grpc"):
            self.head(number, frames.NOT_GRPC, frames.END_STREAM)
            self.out.append(frames.reset(number, frames.NO_ERROR))
            return
        self.streams[number] = stream
        stream.listener = self.answer(path, stream)
        if stream.listener is None:
            stream.end(UNIMPLEMENTED, f"there is no {path[:60]} here")

    def _decoded(self, block: bytes) -> tuple[str, str]:
        """Path and content type of a head. The same block means the same until one comes that changes the table."""
        if (known := self._read.get(block)) is not None:
            return known
        table = self._decoder.header_table.dynamic_entries
        newest, count = (table[0] if table else None), len(table)
        path = kind = ""
        for name, value in self._decoder.decode(block, raw=True):
            if name == b":path":
                path = value.decode("ascii", "replace")
            elif name == b"content-type":
                kind = value.decode("ascii", "replace")
        resized = block[:1] and block[0] & 0xE0 == 0x20
        same = (table[0] if table else None) is newest and len(table) == count and not resized
        if not same or len(self._read) >= BLOCKS_KEPT:
            self._read.clear()
        if same:
            self._read[block] = path, kind
        return path, kind

    def _on_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4 or number > self._last or not number:
            raise Broken(frames.PROTOCOL_ERROR, f"a reset of stream {number}")
        if (stream := self.streams.get(number)) is not None:
            self._gone(stream)

    def _on_window(self, number: int, payload: bytes) -> None:
        more = int.from_bytes(payload, "big") & frames.WINDOW_MOST
        if len(payload) != 4 or not more:
            raise Broken(frames.PROTOCOL_ERROR, "a window update of nothing")
        if not number:
            self.window += more
            if self.window > frames.WINDOW_MOST:
                raise Broken(frames.FLOW_CONTROL_ERROR, "the connection's window is too large")
            self.push_all()
        elif (stream := self.streams.get(number)) is not None:
            stream.window += more
            if stream.window > frames.WINDOW_MOST:
                raise Broken(frames.FLOW_CONTROL_ERROR, f"the window of stream {number} is too large")
            if stream in self._blocked:
                self.push(stream)
        elif number > self._last:
            raise Broken(frames.PROTOCOL_ERROR, f"a window for stream {number}, which is not open")

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & frames.ACK and payload):
            raise Broken(frames.FRAME_SIZE_ERROR, "settings")
        if flags & frames.ACK:
            return
        for at in range(0, len(payload), 6):
            name = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == frames.FIRST_WINDOW:
                if value > frames.WINDOW_MOST:
                    raise Broken(frames.FLOW_CONTROL_ERROR, "the first window is too large")
                for stream in self.streams.values():
                    stream.window += value - self._first_window
                self._first_window = value
            elif name == frames.FRAME_SIZE:
                if not frames.FRAME_LEAST <= value <= frames.FRAME_MOST:
                    raise Broken(frames.PROTOCOL_ERROR, f"frames of {value} bytes")
                self.frame_out = min(value, 1 << 16)
        self.out.append(frames.SETTINGS_ACK)
        self.push_all()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 8 or number:
            raise Broken(frames.FRAME_SIZE_ERROR, "a ping")
        if not flags & frames.ACK:
            self.out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif (
            self.leaving is False and payload == _NOTICE
        ):  # our notice has arrived, and so have all streams before it
            self.leaving = True
            self.out.append(frames.goaway(self._last, frames.NO_ERROR))

    # -- what goes --------------------------------------------------------------------------------------------

    def head(self, number: int, block: bytes, flags: int) -> None:
        """Send a block of headers."""
        if not self._table_said:
            self._table_said = True
            block = frames.NO_TABLE + block
        self.out.append(frames.frame(frames.HEADERS, flags | frames.END_HEADERS, number, block))

    def may_send(self, stream: Stream, size: int) -> bool:
        """Whether so much can be sent at once; it is taken from the windows then."""
        if size > stream.window or size > self.window or self.full:
            return False
        stream.window -= size
        self.window -= size
        return True

    def push(self, stream: Stream) -> None:
        """Send as much of what waits as may be sent; with all of it gone, the end."""
        unsent = stream.unsent
        while unsent:
            size = min(len(unsent), self.frame_out, stream.window, self.window)
            if size <= 0 or self.full:
                self._blocked[stream] = None
                return
            stream.window -= size
            self.window -= size
            self.out.append(frames.frame(frames.DATA, 0, stream.number, bytes(unsent[:size])))
            del unsent[:size]
        self._blocked.pop(stream, None)
        if stream.closing is not None:
            self._finish(stream, stream.closing)
        elif stream.window_in < WINDOW_IN // 2 and not stream.half:
            self._more(stream)

    def push_all(self) -> None:
        """Windows or the socket have opened."""
        for stream in list(self._blocked):
            self.push(stream)

    def _finish(self, stream: Stream, closing: bytes) -> None:
        stream.listener = None
        block = closing if stream.begun else frames.ANSWER + closing
        self.head(stream.number, block, frames.END_STREAM)
        if not stream.half:  # we do not want the rest (8.1)
            self.out.append(frames.reset(stream.number, frames.NO_ERROR))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.over = True
        stream.unsent.clear()
        self._blocked.pop(stream, None)
        self.streams.pop(stream.number, None)

    def sent(self) -> None:
        """Something was said. While we receive, it is sent when all of that has been read."""
        if not self._receiving:
            self.flush()

    def leave(self) -> None:
        """Say that this side will go: new calls belong elsewhere. Those that are on their way are still taken."""
        if not self.closed and not self.leaving:
            self.out.append(frames.goaway(frames.LAST_STREAM, frames.NO_ERROR))
            self.out.append(frames.frame(frames.PING, 0, 0, _NOTICE))
            self.sent()

    def lost(self) -> None:
        """The connection is gone, and with it every stream."""
        self.closed = True
        for stream in list(self.streams.values()):
            self._gone(stream)

    def _gone(self, stream: Stream) -> None:
        """The peer will hear nothing more of it."""
        listener, stream.listener = stream.listener, None
        self._forget(stream)
        if listener is not None:
            listener.gone()

    def _break(self, code: int, why: str) -> None:
        log.warning("a gateway's connection is closed: %s", why)
        self.out.append(frames.goaway(self._last, code, why.encode()[:100]))
        self.lost()


_NOTICE: Final = b"goodbye!"


def _unpadded(payload: bytes) -> bytes:
    """Without the padding (6.1)."""
    if not payload or payload[0] >= len(payload):
        raise Broken(frames.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
