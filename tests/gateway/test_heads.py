"""A head that was seen before is the same to the last byte, or it is parsed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.gateway.heads import HEAD_MOST, Head, split

HEADERS = [
    b"Host: x",
    b"Authorization: Bearer gms_1",
    b"content-type: application/json",
    b"traceparent: 00-1-2-01",
]


def request(headers: list[bytes], body: bytes, length: int | None = None) -> bytes:
    at = len(headers) // 2
    said = b"Content-Length: %d" % (len(body) if length is None else length)
    lines = [b"POST /v1/chat/completions HTTP/1.1", *headers[:at], said, *headers[at:], b"", b""]
    return b"\r\n".join(lines) + body


def head(data: bytes) -> Head:
    found = split(data)
    assert found is not None
    return Head(found[0], b"/v1/chat/completions", "/v1/chat/completions", {}, True)


@given(st.permutations(HEADERS), st.binary(max_size=300), st.binary(max_size=2000))
def test_the_next_request_of_a_connection_is_recognised_by_its_head(headers, first, second):
    data = request(headers, second)
    at = head(request(headers, first)).body_at(data)
    assert data[at:] == second
    assert split(data)[1] == at


@given(st.binary(max_size=50), st.integers(0, 10_000), st.integers(0, 255))
def test_a_head_that_differs_in_one_byte_is_another(body, place, byte):
    data = request(HEADERS, body)
    end = data.index(b"\r\n\r\n") + 4
    place %= end
    other = data[:place] + bytes([byte]) + data[place + 1 :]
    at = head(data).body_at(other)
    # Whoever writes the length with other digits, or leading zeros, says another length, which must be right too.
    assert at == 0 or (other[:end] == data[:end] and other[at:] == body)


@given(st.binary(max_size=50), st.integers(-60, 60).filter(bool))
def test_a_read_that_is_not_one_whole_request_is_parsed(body, off):
    data = request(HEADERS, body, length=max(0, len(body) + off))
    if max(0, len(body) + off) != len(body):
        assert head(request(HEADERS, b"")).body_at(data) == 0


def test_signs_and_spaces_are_no_digits():
    known = head(request(HEADERS, b""))
    for digits in (b"+5", b" 5", b"5 ", b"0_5", b"", b"5,5", b"\xd9\xa5"):
        data = request(HEADERS, b"12345").replace(b"Content-Length: 5", b"Content-Length: " + digits)
        assert known.body_at(data) == 0
        assert split(data) is None


def test_heads_without_end_are_not_looked_at():
    assert split(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nx: " + b"y" * HEAD_MOST + b"\r\n\r\n1") is None
