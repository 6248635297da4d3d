"""HTTP/2 as gateways may speak it: the `h2` library as the other side, and bytes where that is too polite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("hpack", reason="needs gemstead[epp]")

import hpack

from gemstead.gateway.epp import frames
from gemstead.gateway.epp.link import UNSENT_MOST, WINDOW_IN, Link, Stream

PATH = "/a.Service/Method"
HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "picker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Echo:
    """Sends each message back, and ends with the peer."""

    def __init__(self, stream: Stream, times: int = 1) -> None:
        self.stream, self.times = stream, times
        self.heard: list[bytes] = []
        self.left = False

    def message(self, raw: bytes) -> None:
        self.heard.append(raw)
        self.stream.say([raw] * self.times)

    def ended(self) -> None:
        self.stream.end()

    def gone(self) -> None:
        self.left = True


class Pair:
    """Our link and the `h2` library's client, with nothing between them."""

    def __init__(self, *, most: int = 1 << 20, times: int = 1, window: int | None = None) -> None:
        self.echoes: list[Echo] = []
        self.flushed = 0
        self.link = Link(lambda path, stream: self._answer(path, stream, times), most, self._flush)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.peer = h2.connection.H2Connection(config)
        if window is not None:
            self.peer.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self.peer.initiate_connection()
        self.events: list[Any] = []
        self.takes = True  # the peer opens its windows again

    def _answer(self, path: str, stream: Stream, times: int) -> Echo | None:
        if path != PATH:
            return None
        self.echoes.append(Echo(stream, times))
        return self.echoes[-1]

    def _flush(self) -> None:
        self.flushed += 1

    def run(self, cut: Callable[[int], int] = lambda size: size) -> None:
        """Carry bytes to and fro until there are none; `cut` says how many of those that wait go at once."""
        to_link = b""
        while True:
            to_link += self.peer.data_to_send()
            said = b"".join(self.link.out)
            self.link.out.clear()
            if not to_link and not said:
                return
            size = max(1, min(len(to_link), cut(len(to_link)))) if to_link else 0
            self.link.receive(to_link[:size])
            to_link = to_link[size:]
            for event in self.peer.receive_data(said) if said else ():
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and self.takes:
                    self.peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def call(self, data: bytes, *, ended: bool = True, head: Any = None) -> int:
        number = self.peer.get_next_available_stream_id()
        self.peer.send_headers(number, head or HEAD)
        self.send(number, data, ended=ended)
        return number

    def send(self, number: int, data: bytes, *, ended: bool = True) -> None:
        """As much at once as the windows allow."""
        while data:
            size = min(
                self.peer.local_flow_control_window(number), self.peer.max_outbound_frame_size, len(data)
            )
            if size == 0:
                self.run()
                continue
            self.peer.send_data(number, data[:size])
            data = data[size:]
        if ended:
            self.peer.end_stream(number)

    def said(self, number: int) -> list[bytes]:
        """The messages that have come back on a stream."""
        data = b"".join(
            e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == number
        )
        found = []
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    def status(self, number: int) -> tuple[str, str]:
        """How a stream has ended."""
        for event in self.events:
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                headers = dict(event.headers)
                if event.stream_id == number and "grpc-status" in headers:
                    return headers["grpc-status"], headers.get("grpc-message", "")
        return "", ""


sizes = st.one_of(st.integers(0, 300), st.sampled_from([16_379, 16_384, 16_385, 70_000, 400_000]))


@given(
    st.lists(st.lists(sizes, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 40_000), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_how_bytes_are_cut_and_streams_are_mixed_never_matters(calls: list[list[int]], cuts: list[int]):
    pair = Pair()
    pair.run()
    turn = iter(range(1 << 30))
    sent = {}
    for call in calls:
        messages = [bytes([n % 256]) * size for n, size in enumerate(call)]
        sent[pair.call(b"".join(map(frames.prefixed, messages)))] = messages
    pair.run(lambda size: cuts[next(turn) % len(cuts)])
    for number, messages in sent.items():
        assert pair.said(number) == messages
        assert pair.status(number) == ("0", "")
    assert not pair.link.streams and not pair.link.closed


def test_more_than_both_windows_passes():
    pair = Pair()
    pair.run()
    big = bytes(range(256)) * 4000
    for _ in range(20):  # 20 MB in all
        number = pair.call(frames.prefixed(big))
        pair.run()
        assert pair.said(number) == [big]
        pair.events.clear()


def test_a_peer_that_takes_nothing_is_asked_for_no_more():
    pair = Pair(times=3)
    pair.takes = False
    pair.run()
    number = pair.call(b"", ended=False)
    pair.run()
    sent = 0
    while (size := min(pair.peer.local_flow_control_window(number), 16_384)) > 5 and sent < 100 * WINDOW_IN:
        pair.peer.send_data(number, frames.prefixed(b"x" * (size - 5)))
        sent += size
        pair.run()
    stream = pair.link.streams[number]
    assert sent < 3 * WINDOW_IN
    assert UNSENT_MOST < len(stream.unsent) < UNSENT_MOST + 4 * WINDOW_IN
    pair.peer.increment_flow_control_window(1 << 30, number)
    pair.peer.increment_flow_control_window(1 << 30)
    pair.run()
    assert not stream.unsent
    assert pair.peer.local_flow_control_window(number) > WINDOW_IN // 2
    pair.peer.end_stream(number)
    pair.run()
    assert pair.status(number) == ("0", "")


def test_a_full_socket_holds_answers_back():
    pair = Pair()
    pair.run()
    pair.link.full = True
    number = pair.call(frames.prefixed(b"hello"))
    pair.run()
    assert pair.said(number) == []
    pair.link.full = False
    pair.link.push_all()
    pair.run()
    assert (pair.said(number), pair.status(number)) == ([b"hello"], ("0", ""))


def test_heads_that_only_point_at_tables_are_read_anew_when_tables_move():
    pair = Pair()
    pair.run()
    for n in range(60):
        path = PATH if n % 3 else "/other"
        head = [*((k, path if k == ":path" else v) for k, v in HEAD), ("x-request", f"{n // 4}" * 300)]
        number = pair.call(frames.prefixed(b"a"), head=head)
        pair.run()
        assert pair.status(number)[0] == ("0" if n % 3 else "12")


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"\x01\x00\x00\x00\x01a", "12", "compressed"),
        (b"\x00\x7f\x00\x00\x00", "8", "at most 1000"),
    ],
)
def test_what_a_stream_may_not_ends_only_that_stream(data, status, says):
    pair = Pair(most=1000)
    pair.run()
    number, other = pair.call(data, ended=False), pair.call(frames.prefixed(b"well"))
    pair.run()
    assert pair.status(number)[0] == status
    assert says in pair.status(number)[1].replace("%20", " ")
    assert pair.said(other) == [b"well"]


def test_there_is_no_such_method_and_what_is_no_grpc_is_told_so():
    pair = Pair()
    pair.run()
    unknown = pair.call(b"", head=[(k, "/b/C" if k == ":path" else v) for k, v in HEAD])
    html = pair.call(b"", head=[(k, "text/html" if k == "content-type" else v) for k, v in HEAD])
    pair.run()
    assert pair.status(unknown)[0] == "12"
    (answer,) = [e for e in pair.events if isinstance(e, h2.events.ResponseReceived) and e.stream_id == html]
    assert dict(answer.headers)[":status"] == "415"


def test_a_stream_that_is_reset_and_a_connection_that_is_lost_are_heard_of():
    pair = Pair()
    pair.run()
    one, _ = pair.call(b"", ended=False), pair.call(b"", ended=False)
    pair.run()
    pair.peer.reset_stream(one)
    pair.run()
    assert [echo.left for echo in pair.echoes] == [True, False]
    pair.link.lost()
    assert [echo.left for echo in pair.echoes] == [True, True]
    pair.echoes[1].stream.say([b"nobody hears"])
    pair.echoes[1].stream.end()
    assert pair.link.out == []


def test_what_is_said_outside_of_receiving_is_sent():
    pair = Pair()
    pair.run()
    number = pair.call(b"", ended=False)
    pair.run()
    before = pair.flushed
    pair.echoes[0].stream.say([b"later"])
    assert pair.flushed == before + 1
    pair.run()
    assert pair.said(number) == [b"later"]


# -- what the library would not send -----------------------------------------------------------------------------------


def opened() -> tuple[Link, list[Echo]]:
    echoes: list[Echo] = []

    def answer(path: str, stream: Stream) -> Echo:
        echoes.append(Echo(stream))
        return echoes[-1]

    link = Link(answer, 1 << 20, lambda: None)
    link.receive(frames.PREFACE + frames.settings({}))
    link.out.clear()
    return link, echoes


BLOCK = hpack.Encoder().encode(HEAD)
OPEN = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)


def test_who_leaves_takes_what_is_on_its_way_and_nothing_after():
    link, echoes = opened()
    link.receive(OPEN)
    link.leave()
    notice, ping = link.out[-2:]
    assert notice == frames.goaway(frames.LAST_STREAM, frames.NO_ERROR)
    link.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 3, BLOCK))  # sent before that was read
    link.receive(frames.frame(frames.PING, frames.ACK, 0, ping[9:]))
    assert link.out[-1] == frames.goaway(3, frames.NO_ERROR)
    link.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 5, BLOCK))
    assert link.out[-1] == frames.reset(5, frames.REFUSED_STREAM)
    for number in (1, 3):
        link.receive(frames.frame(frames.DATA, 0, number, frames.prefixed(b"still here")))
    assert [echo.heard for echo in echoes] == [[b"still here"]] * 2


def test_padding_priority_and_continuations_are_understood():
    link, echoes = opened()
    flags = frames.PADDED | frames.WITH_PRIORITY
    link.receive(frames.frame(frames.HEADERS, flags, 1, b"\x03" + b"\0" * 5 + BLOCK[:10] + b"\0" * 3))
    link.receive(frames.frame(frames.CONTINUATION, 0, 1, BLOCK[10:20]))
    link.receive(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK[20:]))
    link.receive(frames.frame(frames.DATA, frames.PADDED, 1, b"\x02" + frames.prefixed(b"padded") + b"\0\0"))
    link.receive(frames.frame(99, 0xFF, 1, b"what nobody knows"))
    link.receive(frames.frame(frames.PRIORITY, 0, 1, b"\0" * 5))
    link.receive(frames.frame(frames.PING, 0, 0, b"12345678"))
    assert echoes[0].heard == [b"padded"]
    assert link.out[-1] == frames.frame(frames.PING, frames.ACK, 0, b"12345678")
    assert not link.closed


def test_what_was_on_its_way_when_a_stream_ended_is_passed_over():
    link, echoes = opened()
    link.receive(OPEN)
    echoes[0].stream.end()
    for late in (
        frames.frame(frames.DATA, 0, 1, frames.prefixed(b"late")),
        frames.window_update(1, 5),
        frames.reset(1, frames.CANCEL),
    ):
        link.receive(late)
    assert not link.closed and echoes[0].heard == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frames.frame(frames.DATA, 0, 5, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 2, b"x"), frames.PROTOCOL_ERROR),
        (OPEN + frames.frame(frames.DATA, frames.PADDED, 1, b"\x09x"), frames.PROTOCOL_ERROR),
        (OPEN + OPEN, frames.PROTOCOL_ERROR),
        (OPEN + frames.frame(frames.DATA, frames.END_STREAM, 1) * 2, -1),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 2, BLOCK), frames.PROTOCOL_ERROR),
        (
            frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.PING, 0, 0, b"8" * 8),
            frames.PROTOCOL_ERROR,
        ),
        (
            frames.frame(frames.HEADERS, 0, 1, BLOCK)
            + frames.frame(frames.CONTINUATION, 0, 1, b"\0" * 70_000),
            11,
        ),
        (
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
            frames.COMPRESSION_ERROR,
        ),
        (frames.frame(frames.CONTINUATION, 0, 1, BLOCK), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1, b""), frames.PROTOCOL_ERROR),
        (frames.window_update(0, 0), frames.PROTOCOL_ERROR),
        (frames.window_update(0, frames.WINDOW_MOST), frames.FLOW_CONTROL_ERROR),
        (OPEN + frames.window_update(1, frames.WINDOW_MOST), frames.FLOW_CONTROL_ERROR),
        (frames.window_update(7, 1), frames.PROTOCOL_ERROR),
        (frames.reset(7, 0), frames.PROTOCOL_ERROR),
        (frames.settings({frames.FIRST_WINDOW: 1 << 31}), frames.FLOW_CONTROL_ERROR),
        (frames.settings({frames.FRAME_SIZE: 1}), frames.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.PING, 0, 0, b"1"), frames.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", frames.FRAME_SIZE_ERROR),
    ],
)
def test_who_breaks_the_protocol_is_told_so_and_loses_the_connection(sent, code):
    link, echoes = opened()
    link.receive(sent)
    if code < 0:  # the stream has ended by itself, and nothing is broken
        assert not link.closed
        return
    assert link.closed
    assert link.out[-1][3] == frames.GOAWAY
    assert int.from_bytes(link.out[-1][13:17], "big") == code
    assert all(echo.left for echo in echoes) and not link.streams
    link.receive(OPEN)
    assert not link.streams, "nothing more is heeded"


def test_who_sends_more_than_the_window_while_answers_are_not_taken_loses_the_connection():
    link, echoes = opened()
    link.full = True
    link.receive(OPEN)
    for _ in range(50):
        link.receive(frames.frame(frames.DATA, 0, 1, frames.prefixed(b"x" * 100_000)))
    assert link.closed and echoes[0].left
    assert int.from_bytes(link.out[-1][13:17], "big") == frames.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/1"])
def test_what_is_no_http2_is_closed(sent):
    link = Link(lambda path, stream: None, 1 << 20, lambda: None)
    for byte in sent:
        link.receive(bytes((byte,)))
    assert link.closed and not link.greeted


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_bytes_do_more_than_close_the_connection(data: bytes):
    link, _ = opened()
    link.receive(OPEN + data)
    for echo in [stream.listener for stream in link.streams.values()]:
        assert echo is not None
    link.lost()
    assert not link.streams


def test_a_status_with_words_is_written_for_headers():
    block = frames.trailers(3, "nö: 5 % of\nit")
    assert hpack.Decoder().decode(block) == [
        ("grpc-status", "3"),
        ("grpc-message", "n%C3%B6%3A%205%20%25%20of%0Ait"),
    ]
