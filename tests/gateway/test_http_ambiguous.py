"""Ambiguous and malformed requests are refused, never repaired: nothing of them reaches an engine.

The corpus is `tests/data/http/ambiguous.json`. Fuzzing goes on where it ends.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemstead.gateway.settings import Deadlines
from gemstead.testing import FakeEngine
from gemstead.testing.peer import Answer, Peer, post
from gemstead.testing.stack import Stack, start_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = '{"model":"m","messages":[]}'
CORPUS: dict[str, bytes] = {
    name: text.replace("{ask}", ASK)
    .replace("{n}", str(len(ASK)))
    .replace("{x}", f"{len(ASK):x}")
    .encode("latin-1")
    for name, text in json.loads(Path("tests/data/http/ambiguous.json").read_text())
}
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
QUICK = Deadlines(client_header_s=0.5, client_body_s=0.5, client_idle_s=0.5, upstream_idle_s=0.3)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path_factory.mktemp("bad"), deadlines=QUICK) as running,
    ):
        yield running, engine


async def answers(peer: Peer) -> list[Answer]:
    """All answers until the connection ends."""
    found = []
    try:
        while True:
            found.append(await peer.answer())
    except (EOFError, ConnectionError):
        return found


@pytest.mark.parametrize("name", CORPUS)
async def test_an_ambiguous_request_is_refused(stack: tuple[Stack, FakeEngine], name: str):
    gateway, engine = stack
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(CORPUS[name])
        peer.shut() if "shorter" in name else None
        found = await answers(peer)
    assert engine.seen == []
    assert engine.malformed == []
    if "shorter" not in name:
        assert [answer.status // 100 for answer in found] == [4]
        assert found[0].headers["connection"] == "close"
        assert found[0].fields["error"]["message"]


@pytest.mark.parametrize("name", CORPUS)
async def test_nothing_behind_it_is_answered(stack: tuple[Stack, FakeEngine], name: str):
    """A request that hides behind an ambiguous one is what smuggling is about."""
    gateway, engine = stack
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(CORPUS[name] + post(ASK.encode()))
        found = await answers(peer)
    assert engine.seen == []
    assert [answer.status // 100 for answer in found] == [4]


async def test_harmless_trailers_are_dropped(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    body = b"%x\r\n%s\r\n0\r\nX-Checksum: 12\r\n\r\n" % (len(ASK), ASK.encode())
    async with await gateway.peer() as peer:
        await peer.send(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert (await peer.answer()).status == 200
    assert [seen.body for seen in engine.seen] == [ASK.encode()]
    assert engine.seen[0].header("x-checksum") is None


@pytest.mark.parametrize("what", ["extension", "trailer", "trailers", "one-byte extensions"])
async def test_framing_without_end_is_refused(stack: tuple[Stack, FakeEngine], what: str):
    gateway, engine = stack
    engine.seen.clear()
    endless = {
        "extension": b"5;" + b"x" * 1_000_000,
        "trailer": b"0\r\nX-Trailer: " + b"x" * 1_000_000,
        "trailers": b"0\r\n" + b"X-Trailer: y\r\n" * 100_000,
        "one-byte extensions": (b"1;" + b"x" * 500 + b"\r\na\r\n") * 3000,
    }[what]
    async with await gateway.peer() as peer:
        sending = asyncio.create_task(peer.send(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + endless))
        assert (await peer.answer()).status in (400, 431)
        await asyncio.wait({sending})
        sending.exception()
    assert engine.seen == []


GOOD = [
    post(ASK.encode()),
    b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    CHAT + b"Transfer-Encoding: chunked\r\n\r\n1b\r\n" + ASK.encode() + b"\r\n0\r\n\r\n",
]
PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b";", b",", b"0", b"-1", b"ffffffff", b"GET ", b"/",
        b"HTTP/1.1", b"Host: x\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    ]
)  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Good requests with bytes put in, taken away or replaced."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["put", "take", "replace"])):
            case "put":
                data[at:at] = draw(PIECES | st.binary(max_size=4))
            case "take":
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                piece = draw(PIECES | st.binary(max_size=4))
                data[at : at + len(piece)] = piece
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=spoilt() | st.binary(max_size=200), cut=st.integers(0, 400))
async def test_spoilt_requests_never_break_the_worker(stack: tuple[Stack, FakeEngine], data: bytes, cut: int):
    """No 5xx for a client's fault, no malformed byte to an engine, and answers that are HTTP to the last."""
    gateway, engine = stack
    async with await gateway.peer() as peer:
        await peer.send(data[:cut])
        await peer.send(data[cut:])
        peer.shut()
        found = await answers(peer)
    assert all(answer.status < 500 for answer in found)
    assert engine.malformed == []
    for seen in engine.seen:
        json.loads(seen.body)
    engine.seen.clear()


async def test_after_all_that_nothing_is_left(stack: tuple[Stack, FakeEngine]):
    """Runs last: the worker that met all of the above lives, holds nothing, and had no fault of its own."""
    gateway, _ = stack
    await gateway.quiet()
    async with await gateway.peer() as peer:
        await peer.send(post(ASK.encode()))
        assert (await peer.answer()).status == 200
    await gateway.sockets_fall_to(gateway.sockets_at_start)
    assert "Traceback" not in gateway.log()
