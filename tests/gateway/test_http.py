"""Requests in: keep-alive, pipelining, bodies of both framings in any cut, expectations, limits to the byte."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemstead.gateway.settings import Bounds
from gemstead.testing import FakeEngine, Script, make_key
from gemstead.testing.peer import chunked, events, post
from gemstead.testing.stack import Stack, start_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_MOST, HEAD_MOST = 100_000, 65_536
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory):
    bounds = Bounds(body_bytes=BODY_MOST)
    async with (
        FakeEngine() as engine,
        start_stack(
            engine,
            folder=tmp_path_factory.mktemp("http"),
            bounds=bounds,
            cors_origins=("https://a.test",),
        ) as running,
    ):
        yield running, engine


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def locked(tmp_path_factory):
    """A gateway that wants keys, and a key."""
    folder = tmp_path_factory.mktemp("locked")
    key = make_key(folder)
    async with (
        FakeEngine() as engine,
        start_stack(
            engine, folder=folder, keys_required=True, keys_path=key.keys_path, pepper=key.pepper,
            bounds=Bounds(body_bytes=BODY_MOST),
        ) as running,
    ):  # fmt: skip
        yield running, engine, key


def numbered(number: int, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [], "user": f"caller {number}"} | more


async def test_a_connection_is_kept(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    async with await gateway.peer() as peer:
        for number in range(20):
            await peer.send(post(numbered(number)))
            answer = await peer.answer()
            assert (answer.status, answer.headers.get("connection")) == (200, None)
    assert [json.loads(seen.body)["user"] for seen in engine.seen] == [f"caller {n}" for n in range(20)]
    assert len({seen.connection for seen in engine.seen}) == 1, "the engine's connection is kept, too"


async def test_close_is_obeyed(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        await peer.send(post(ASK, headers=("Connection: close",)))
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await peer.closed()


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        await peer.send(post(ASK | {"stream": True}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await peer.answer()
    assert "transfer-encoding" not in answer.headers
    assert events(answer.body)[-1] == b"data: [DONE]"


async def test_http_1_0_is_kept_when_it_asks(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        for _ in range(2):
            await peer.send(post(ASK, headers=("Connection: keep-alive",)).replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert (await peer.answer()).headers["connection"] == "keep-alive"


async def test_pipelined_answers_keep_their_order(stack: tuple[Stack, FakeEngine]):
    """Forty at once, slow ones between quick ones, whole ones between streams and our own pages."""
    gateway, engine = stack
    kinds = [number % 4 for number in range(40)]
    requests = {
        0: lambda n: post(numbered(n)),
        1: lambda n: post(numbered(n, stream=True)),
        2: lambda n: b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        3: lambda n: post({"model": "unknown", "messages": []}),
    }
    engine.then(*[Script(delay_s=0.05 if number % 8 == 0 else 0.0) for number in range(20)])
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(b"".join(requests[kind](n) for n, kind in enumerate(kinds)))
        answers = [await peer.answer() for _ in kinds]
    assert [answer.status for answer in answers] == [404 if kind == 3 else 200 for kind in kinds]
    for kind, answer in zip(kinds, answers, strict=True):
        assert ("text/event-stream" in answer.headers["content-type"]) == (kind == 1)
        assert (answer.fields.get("object") == "list") if kind == 2 else True
    users = [json.loads(seen.body)["user"] for seen in engine.seen]
    assert users == [f"caller {n}" for n, kind in enumerate(kinds) if kind < 2]


async def test_thousands_of_pipelined_requests_are_no_recursion(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        count = 5000
        sending = asyncio.create_task(peer.send((GET + b"\r\n") * count))
        for _ in range(count):
            assert (await peer.answer()).status == 200
        await sending


async def test_a_fault_behind_good_requests_is_answered_behind_them(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.then(Script(delay_s=0.1))
    async with await gateway.peer() as peer:
        await peer.send(post(ASK) + post(ASK) + b"GET / HTTP/1.1\r\nHost : gateway.test\r\n\r\n")
        answers = [await peer.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 400]
        peer.shut()
        assert await peer.closed()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
async def test_how_requests_are_cut_never_matters(stack: tuple[Stack, FakeEngine], data: st.DataObject):
    gateway, engine = stack
    engine.seen.clear()
    first, second = (json.dumps(numbered(n)).encode() for n in range(2))
    sizes = data.draw(st.lists(st.integers(1, 20), max_size=8))
    whole = CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(first, *sizes) + post(second)
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(whole) - 1), max_size=12))))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    async with await gateway.peer() as peer:
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0)
        assert [(await peer.answer()).status for _ in range(2)] == [200, 200]
    assert [seen.body for seen in engine.seen] == [first, second]


async def test_every_byte_may_come_alone(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    body = json.dumps(ASK).encode()
    whole = CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, *[1] * len(body))
    async with await gateway.peer() as peer:
        for place in range(len(whole)):
            await peer.send(whole[place : place + 1])
            if place % 16 == 0:
                await asyncio.sleep(0.001)  # so that reads are really apart
        assert (await peer.answer()).status == 200
    assert engine.seen[0].body == body


def head_of(size: int) -> bytes:
    """A request whose head counts `size` bytes: its target, and each header line with its end."""
    host = len("Host") + len("gateway.test") + 4
    rest = size - host - len("/") - len("X-Filling") - 4
    return b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-Filling: %s\r\n\r\n" % (b"x" * rest)


@pytest.mark.parametrize("piece", [1 << 20, 1000, 4096])
@pytest.mark.parametrize(("size", "status"), [(HEAD_MOST, 200), (HEAD_MOST + 1, 431)])
async def test_the_head_limit_is_exact(stack: tuple[Stack, FakeEngine], size: int, status: int, piece: int):
    gateway, _ = stack
    data = head_of(size)
    async with await gateway.peer() as peer:
        for place in range(0, len(data), piece):
            await peer.send(data[place : place + piece])
            await asyncio.sleep(0.0005)
        assert (await peer.answer()).status == status


@pytest.mark.parametrize("endless", [b"X-Filling: " + b"x" * 300_000, b"X-F: 1\r\n" * 50_000])
async def test_a_head_without_end_is_refused_while_it_comes(stack: tuple[Stack, FakeEngine], endless: bytes):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        await peer.send(GET + endless)
        assert (await peer.answer()).status == 431


async def test_a_large_body_before_a_head_does_not_count_as_head(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    large = post(numbered(1, padding="x" * 90_000))
    async with await gateway.peer() as peer:
        for _ in range(3):
            await peer.send(large + GET[:20])
            assert (await peer.answer()).status == 200
            await peer.send(GET[20:] + b"\r\n")
            assert (await peer.answer()).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(BODY_MOST, 200), (BODY_MOST + 1, 413)])
async def test_the_body_limit_is_exact(stack: tuple[Stack, FakeEngine], size: int, status: int, framing: str):
    gateway, engine = stack
    engine.seen.clear()
    empty = len(json.dumps(numbered(1, padding="")))
    body = json.dumps(numbered(1, padding="x" * (size - empty))).encode()
    assert len(body) == size
    async with await gateway.peer() as peer:
        if framing == "length":
            await peer.send(post(body))
        else:
            await peer.send(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 7, 4096))
        answer = await peer.answer()
    assert answer.status == status
    assert len(engine.seen) == (status == 200)


async def test_a_client_that_is_still_sending_sees_413(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    async with await gateway.peer() as peer:
        await peer.send(CHAT + b"Content-Length: 3000000\r\n\r\n")
        for _ in range(30):  # it does not look at what comes back before it is done
            await peer.send(b"x" * 100_000)
        answer = await peer.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert engine.seen == []


async def test_a_refused_small_body_leaves_the_connection_usable(locked):
    gateway, _, key = locked
    async with await gateway.peer() as peer:
        await peer.send(post(ASK))
        assert (await peer.answer()).status == 401
        await peer.send(post(ASK, headers=(f"Authorization: Bearer {key.secret}",)))
        assert (await peer.answer()).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [((), 401), (("Authorization: Bearer gms_wrong",), 401), (("Authorization: Basic eDp5",), 401)],
)
async def test_an_expectation_is_refused_before_the_body(locked, headers, status):
    gateway, engine, _ = locked
    engine.seen.clear()
    head = post(b"", headers=("Expect: 100-continue", *headers)).replace(
        b"Content-Length: 0", b"Content-Length: 500"
    )
    async with await gateway.peer() as peer:
        await peer.send(head)
        answer = await peer.answer()
        assert (answer.status, answer.interim, answer.headers["connection"]) == (status, [], "close")
    assert engine.seen == []


async def test_a_large_expectation_is_refused_with_413_before_the_body(locked):
    gateway, _, key = locked
    head = CHAT + b"Authorization: Bearer %s\r\nExpect: 100-continue\r\n" % key.secret.encode()
    async with await gateway.peer() as peer:
        await peer.send(head + b"Content-Length: %d\r\n\r\n" % (BODY_MOST + 1))
        answer = await peer.answer()
        assert (answer.status, answer.interim) == (413, [])


async def test_an_expectation_behind_another_request_is_met_when_its_turn_comes(
    stack: tuple[Stack, FakeEngine],
):
    gateway, engine = stack
    engine.then(Script(delay_s=0.1))
    body = json.dumps(ASK).encode()
    async with await gateway.peer() as peer:
        await peer.send(post(ASK) + CHAT + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        first = await peer.answer()
        assert (first.status, first.interim) == (200, [])
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(body)
        assert (await peer.answer()).status == 200


async def test_an_unknown_expectation_is_refused(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        await peer.send(post(ASK, headers=("Expect: 200-ok",)))
        assert (await peer.answer()).status == 400


async def test_nothing_that_follows_a_refusal_by_closing_is_answered(locked):
    """What stands behind a body that was not waited for could be anything."""
    gateway, engine, key = locked
    engine.seen.clear()
    good = post(ASK, headers=(f"Authorization: Bearer {key.secret}",))
    bad = CHAT + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with await gateway.peer() as peer:
        await peer.send(bad + good)
        assert (await peer.answer()).status == 401
        peer.shut()
        assert await peer.closed()
    assert engine.seen == []


async def test_head_is_a_get_without_its_body(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        for path in ("/", "/healthz", "/v1/models", "/v1/models/m", "/nothing"):
            whole = f"{{}} {path} HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
            await peer.send(whole.format("HEAD").encode())
            head = await peer.answer(to_head=True)
            await peer.send(whole.format("GET").encode())
            answer = await peer.answer()
            assert head.status == answer.status
            assert head.headers["content-length"] == answer.headers["content-length"]


async def test_wrong_methods_and_routes(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    cases = {
        "GET /v1/chat/completions": 405,
        "DELETE /v1/chat/completions": 405,
        "OPTIONS /v1/chat/completions": 405,  # without an Origin it is no preflight
        "POST /v1/models": 405,
        "PUT /healthz": 405,
        "GET /v1/nothing": 404,
        "GET *": 404,
        "GET http://elsewhere.test/v1/models": 404,
        "POST //v1/chat/completions": 404,
        "POST /v1/chat/completions/": 404,
        "POST /v1/./chat/completions": 404,
        "POST /v1/chat%2Fcompletions": 404,
        "POST /v1/chat/completions#x": 404,
        "POST http://elsewhere.test/v1/chat/completions": 404,
    }
    async with await gateway.peer() as peer:
        for line, status in cases.items():
            await peer.send(f"{line} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\n\r\n".encode())
            answer = await peer.answer()
            assert (line, answer.status) == (line, status)
            assert ("allow" in answer.headers) == (status == 405)
            assert answer.fields["error"]["message"]
    assert engine.seen == []


async def test_connect_is_refused(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    async with await gateway.peer() as peer:
        await peer.send(b"CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n\x16\x03\x01")
        assert (await peer.answer()).status in (404, 405)
        peer.shut()
        assert await peer.closed()


async def test_a_wish_to_upgrade_is_passed_over(stack: tuple[Stack, FakeEngine]):
    """Java's HTTP client asks for h2c in its first request on each connection, with a body."""
    gateway, engine = stack
    engine.seen.clear()
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    body = json.dumps(ASK).encode()
    async with await gateway.peer() as peer:
        whole = post(ASK, headers=wish)
        for pieces in ([whole], [whole[:-10], whole[-10:]], [whole[:-40], whole[-40:]]):
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0.01)
            assert (await peer.answer()).status == 200
        await peer.send(whole + whole + GET + b"\r\n")
        assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 200]
    assert [seen.body for seen in engine.seen] == [body] * 5
    assert all(seen.header("upgrade") is None for seen in engine.seen)


async def test_browsers_of_named_origins_may_call(stack: tuple[Stack, FakeEngine]):
    gateway, _ = stack
    ask = (
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,x-stainless-os",
    )
    async with await gateway.peer() as peer:
        lines = [
            "OPTIONS /v1/chat/completions HTTP/1.1",
            "Host: gateway.test",
            "Origin: https://a.test",
            *ask,
        ]
        await peer.send("\r\n".join([*lines, "", ""]).encode())
        answer = await peer.answer()
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://a.test"
        assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
        for origin, allowed in (("https://a.test", "https://a.test"), ("https://b.test", None)):
            await peer.send(post(ASK, headers=(f"Origin: {origin}",)))
            answer = await peer.answer()
            assert answer.headers.get("access-control-allow-origin") == allowed
            exposed = answer.headers.get("access-control-expose-headers", "").split(", ")
            assert ("x-ratelimit-remaining-tokens" in exposed) is (allowed is not None)


async def test_only_known_headers_reach_the_engine(stack: tuple[Stack, FakeEngine]):
    gateway, engine = stack
    engine.seen.clear()
    sent = ("X-Forwarded-For: 10.0.0.1", "Cookie: a=b", "traceparent: 00-1-2-03", "Authorization: Bearer x")
    async with await gateway.peer() as peer:
        await peer.send(post(ASK, headers=sent))
        assert (await peer.answer()).status == 200
    names = {name.lower() for name, _ in engine.seen[0].headers}
    assert names == {
        "host", "content-type", "accept-encoding", "content-length", "x-request-id", "traceparent",
    }  # fmt: skip


async def test_small_chunks_cost_no_more_than_their_bytes(stack: tuple[Stack, FakeEngine]):
    """A body of two-byte chunks used to be kept as a list of tiny objects."""
    gateway, engine = stack
    engine.seen.clear()
    body = json.dumps(numbered(1, padding="x" * 90_000)).encode()
    async with await gateway.peer() as peer:
        data = b"".join(b"2\r\n%s\r\n" % body[at : at + 2] for at in range(0, len(body) - 1, 2))
        rest = body[len(body) // 2 * 2 :]
        data += (b"1\r\n%s\r\n" % rest if rest else b"") + b"0\r\n\r\n"
        await peer.send(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + data)
        assert (await peer.answer()).status == 200
    assert engine.seen[0].body == body
