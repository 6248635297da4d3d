"""Answers from engines: followed strictly, handed on as they came, however they are cut."""

from __future__ import annotations

import asyncio
import json
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemstead.gateway
from gemstead.gateway.settings import Deadlines
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import chunked, events, post
from gemstead.testing.stack import start_stack
from gemstead.traffic.endpoint import EndpointFacts

# Where the gateway is compiled its classes take no pretend exchange, so these tests read the source itself. The
# tests with real engines below meet the gateway as it is installed.
found = spec_from_file_location("upstream", Path(gemstead.gateway.__path__[0]) / "upstream.py")
assert found is not None
assert found.loader is not None
upstream = module_from_spec(found)
found.loader.exec_module(upstream)
BadAnswer, Line, UpstreamConnection = upstream.BadAnswer, upstream.Line, upstream.UpstreamConnection
framing, parse_head = upstream.framing, upstream.parse_head

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = ASK | {"stream": True}
FACTS = EndpointFacts(name="a", pool="m", host="127.0.0.1", port=1)


class Sink:
    """An exchange that only notes what it is told."""

    def __init__(self) -> None:
        self.status, self.length, self.lost, self.done, self.raw = 0, None, "", 0, True
        self.seen, self.payload, self.closed = b"", b"", False

    def wants_whole(self):
        return False

    def upstream_head(self, up, status, headers, length):
        self.status, self.length = status, length

    def reframe(self):
        self.raw = False

    def upstream_body(self, data, payload):
        assert payload, "an empty chunk would end the client's stream"
        self.payload += payload
        self.seen += data if self.raw else b"%x\r\n%s\r\n" % (len(payload), payload)

    def upstream_done(self, up):
        self.done += 1

    def upstream_lost(self, up, why, *, stale=False):
        self.lost = why


class Wire:
    """A transport that only knows whether it is open."""

    closed = False

    def write(self, data):
        pass

    def set_write_buffer_limits(self, high):
        pass

    def get_write_buffer_size(self):
        return 0

    def resume_reading(self):
        pass

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True

    close = abort


def followed(pieces: list[bytes]) -> Sink:
    """What an exchange is told of an answer that comes in these pieces."""
    sink, connection = Sink(), UpstreamConnection(Line(FACTS, 4.0, 8))
    connection.connection_made(Wire())
    connection.send(sink, b"", b"")
    for piece in pieces:
        if not connection.transport.is_closing():
            connection.data_received(piece)
    sink.closed = connection.transport.is_closing()
    return sink


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CUTS = st.lists(st.integers(0, 1 << 20), max_size=20)


def payload_of(data: bytes) -> bytes:
    """The payload of whole chunks without an end."""
    out, at = b"", 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        assert size and data[end + 2 + size : end + 4 + size] == b"\r\n"
        out += data[end + 2 : end + 2 + size]
        at = end + 4 + size
    return out


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), CUTS, st.sampled_from([b"", b"X-T: 1\r\n"]))
def test_how_chunks_are_cut_never_matters(chunks, cuts, trailer):
    body = b"".join(b"%X;x=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    sink = followed(pieces_of(HEAD + body + b"0\r\n" + trailer + b"\r\n", cuts))
    assert (sink.lost, sink.done, sink.status, sink.length) == ("", 1, 200, -1)
    assert sink.payload == b"".join(chunks)
    assert sink.seen == body, "whole chunks go on exactly as they came"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([3, 65_530, 70_000, 200_001]), min_size=1, max_size=4), CUTS)
def test_chunks_too_large_to_hold_back_are_put_in_chunks_of_ours(sizes, cuts):
    chunks = [bytes([65 + place]) * size for place, size in enumerate(sizes)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    sink = followed(pieces_of(HEAD + body + b"0\r\n\r\n", cuts))
    assert (sink.lost, sink.done) == ("", 1)
    assert sink.payload == payload_of(sink.seen) == b"".join(chunks)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), CUTS)
def test_how_a_body_of_known_length_is_cut_never_matters(body, cuts):
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    sink = followed(pieces_of(head + body, cuts))
    assert (sink.lost, sink.done, sink.payload) == ("", 1, body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_goes_on_is_always_whole_chunks(data):
    """Also of an answer that breaks anywhere: an error event can follow what the client already has."""
    whole = HEAD + chunked(b"data: 1\n\ndata: 2\n\n" * 3, 9, 20)
    at = data.draw(st.integers(len(HEAD), len(whole) - 1))
    bad = data.draw(st.binary(min_size=1, max_size=5))
    sink = followed(pieces_of(whole[:at] + bad + whole[at + len(bad) :], data.draw(CUTS)))
    assert payload_of(sink.seen) == sink.payload


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\nabc\r\n", b"-3\r\nabc\r\n", b"+3\r\nabc\r\n", b"0x3\r\nabc\r\n", b" 3\r\nabc\r\n",
        b"3 4\r\nabc\r\n", b"3\nabc\r\n", b"\r\n3\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\r\nab\r\n\r\n",
        b"3\r\nabcXX", b"3\r\nabc\n\n", b"123456789\r\nabc\r\n", b"3;" + b"x" * 1000 + b"\r\nabc\r\n",
        b"3\r\nabc\r\n0\r\n\r\nmore", b"11170\r\n" + b"x" * 70_000 + b"XX",
    ],
)  # fmt: skip
@pytest.mark.parametrize("each", [1, 7, 1 << 20])
def test_broken_chunk_framing_is_noticed(body, each):
    data = HEAD + body
    sink = followed([data[at : at + each] for at in range(0, len(data), each)])
    assert sink.closed
    assert sink.lost or b"more" in body


@pytest.mark.parametrize(
    "head",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    ],
)
def test_an_ambiguous_head_is_refused(head):
    with pytest.raises(BadAnswer):
        framing(*parse_head(head))


def test_a_head_without_end_is_refused():
    sink = followed([b"HTTP/1.1 200 OK\r\n"] + [b"X-Filling: y\r\n" * 1000] * 10)
    assert "without end" in sink.lost


def test_thousands_of_interim_answers_are_no_recursion():
    sink = followed(
        [b"HTTP/1.1 102 Processing\r\n\r\n" * 5000 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
    )
    assert (sink.lost, sink.done) == ("", 1)


def test_more_than_was_announced_is_no_answer():
    assert followed([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"]).lost
    assert followed([b"HTTP/1.1 204 No Content\r\n\r\nabc"]).lost


def test_states_are_all_different():
    assert len({upstream.HEAD, upstream.LENGTH, upstream.CHUNKED, upstream.TRAILERS, upstream.TO_END}) == 5


# -- with real engines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("split_bytes", [0, 1, 50])
async def test_a_stream_arrives_whole_whatever_its_framing(tmp_path, framing, split_bytes):
    script = Script(framing=framing, split_bytes=split_bytes)
    async with (
        FakeEngine(script) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(2):
            await peer.send(post(STREAM))
            answer = await peer.answer()
            assert answer.status == 200
            assert events(answer.body)[-1] == b"data: [DONE]"
            assert answer.body.count(b"[DONE]") == 1
            words_of = [json.loads(event[6:]) for event in events(answer.body)[:-1]]
            text = "".join(w["choices"][0]["delta"].get("content") or "" for w in words_of if w["choices"])
            assert text == "The capital of Peru is Lima."
        first, _ = await stack.records(2)
        assert (first.outcome, first.output_tokens, first.tokens_from) == ("served", 7, "counted")


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_ten_megabytes_of_json_arrive_whole(tmp_path, framing):
    body = json.dumps({"choices": [], "padding": "x" * 10_000_000}).encode()
    async with (
        FakeEngine(Script(body=body, framing=framing)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(2):
            await peer.send(post(ASK))
            assert (await peer.answer()).body == body


async def test_an_answer_without_a_body(tmp_path):
    garbage = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    async with (
        FakeEngine(Script(garbage=garbage)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(2):
            await peer.send(post(ASK))
            answer = await peer.answer()
            assert (answer.status, answer.headers.get("content-length")) == (204, None)


async def test_an_http_1_0_engine_will_do(tmp_path):
    garbage = b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"choices":[]}'
    async with (
        FakeEngine(Script(garbage=garbage)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(2):
            await peer.send(post(ASK))
            assert (await peer.answer()).fields == {"choices": []}
    assert engine.connections == 2


@pytest.mark.parametrize("idle_close_s", [0.05, 0.2])
async def test_a_connection_that_the_engine_closed_is_never_an_error(tmp_path, idle_close_s):
    async with (
        FakeEngine(idle_close_s=idle_close_s) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for number in range(8):
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
            await asyncio.sleep(idle_close_s + (number - 4) * 0.002)
        records = await stack.records(8)
        assert {record.outcome for record in records} == {"served"}


async def test_a_stale_connection_is_replaced_once_and_says_nothing_of_the_engine(tmp_path):
    """The engine closes each kept connection as soon as the next request comes."""
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 200
        engine.then(Script(die_before_headers=True))
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 200
        assert engine.connections == 2
        _, second = await stack.records(2)
        assert (second.outcome, second.attempts) == ("served", 2)


async def test_an_engine_that_answers_before_it_has_read_everything(tmp_path):
    """Its connection is not used again: what it would take for the next request cannot be known."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        await asyncio.sleep(0.5)  # and reads nothing
        writer.close()

    heads: list[bytes] = []
    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    facts = EndpointFacts(name="a", pool="m", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    async with server, start_stack(folder=tmp_path, endpoints=(facts,)) as stack, await stack.peer() as peer:
        for _ in range(2):
            await peer.send(post(ASK | {"padding": "x" * 20_000_000}))
            assert (await peer.answer()).status == 413
    assert len(heads) == 2
    assert all(head.startswith(b"POST /v1/chat/completions") for head in heads)


async def test_idle_connections_are_dropped_before_the_engine_does(tmp_path):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, deadlines=Deadlines(upstream_idle_s=0.2)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        await peer.answer()
        assert engine.open_connections == 1
        await engine.until(lambda: engine.open_connections == 0, 3.0)


async def test_a_large_request_that_is_refused_by_the_engine(tmp_path):
    """The size of a request's body once decided how its answer was read."""
    async with (
        FakeEngine(Script(status=422)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK | {"padding": "x" * 6_000_000}))
        answer = await peer.answer()
        assert answer.status == 422
        assert "told to say this" in answer.fields["error"]["message"]
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 422


async def test_words_are_handed_on_as_they_come(tmp_path):
    async with (
        FakeEngine(Script(pieces=words(5), pace_s=0.1)) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        await peer.head()
        await peer.chunk()
        assert engine.served == 0, "the first word is here long before the last"
