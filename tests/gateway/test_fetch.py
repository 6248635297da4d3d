"""Media fetched for callers: from real servers on loopback, whose names a resolver of the test's own stands for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from gemstead.gateway.fetch import Fetcher
from gemstead.gateway.settings import Fetch, Pool
from gemstead.openai.mediaurl import wanted
from gemstead.refused import Refused
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import Answer, post
from gemstead.testing.stack import Stack, start_stack
from gemstead.traffic.budget import Rule, RuleBook, Selector
from gemstead.traffic.caller import RateLimit
from gemstead.traffic.rules import Rule as Fallback

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nconnection: close\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(PNG) + PNG
LOOPBACK = ("127.0.0.0/8",)


class Shop:
    """A server that answers each path as told, and remembers what it was asked."""

    def __init__(self, answers: dict[str, bytes] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[bytes] = []
        self.here = self.most_here = 0
        self.open = asyncio.Event()
        self.open.set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            self.here += 1
            self.most_here = max(self.most_here, self.here)
            waiting = [asyncio.create_task(one) for one in (self.open.wait(), reader.read())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            self.here -= 1
            path = head.split(b" ", 2)[1].decode()
            writer.write(self.answers.get(path, WHOLE))
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def shop(
    answers: dict[str, bytes] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Shop]:
    made = Shop(answers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.open.set()
        server.close()


def rules(port: int, **more: object) -> Fetch:
    usual = {"hosts": (f"img.test:{port}", f"*.img.test:{port}"), "networks": LOOPBACK, "plain_http": True}
    return Fetch(**usual | more)


def names(table: dict[str, list[str]] | None = None, asked: list[str] | None = None) -> Callable[..., object]:
    async def resolve(host: str, port: int) -> list[str]:
        if asked is not None:
            asked.append(host)
        if (found := (table or {}).get(host, ["127.0.0.1"])) == []:
            raise OSError("no such name")
        return found

    return resolve


def asking(*addresses: str) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in addresses]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


async def brought(fetcher: Fetcher, *addresses: str) -> list[bytes]:
    body = asking(*addresses)
    found = wanted(body)
    fetcher.judge(found)
    new, size = await fetcher.inlined(body, found)
    parts = json.loads(new)["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    data = [base64.b64decode(url.partition(",")[2]) for url in urls]
    assert size == sum(map(len, dict(zip(addresses, data, strict=True)).values()))
    return data


async def test_what_is_allowed_is_fetched_once_and_nothing_of_ours_is_told():
    async with shop() as server:
        at = f"http://img.test:{server.port}/a%20b.png?x=1"
        assert await brought(Fetcher(rules(server.port), names()), at, at) == [PNG, PNG]
        [head] = server.asked
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "get /a%20b.png?x=1 http/1.1"
        told = {line.partition(":")[0] for line in lines[1:] if line}
        assert told <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
        assert f"host: img.test:{server.port}" in lines and "accept-encoding: identity" in lines


@pytest.mark.parametrize(
    "numbers",
    [
        ["10.0.0.1"],
        ["127.0.0.1", "169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["::1"],
        ["nonsense"],
    ],
)
async def test_a_name_that_leads_inside_is_not_asked(numbers):
    async with shop() as server:
        fetcher = Fetcher(rules(server.port), names({"img.test": numbers}))
        with pytest.raises(Refused, match="not public"):
            await brought(fetcher, f"http://img.test:{server.port}/")
        fetcher = Fetcher(rules(server.port, networks=()), names())
        with pytest.raises(Refused, match="not public"):
            await brought(fetcher, f"http://img.test:{server.port}/")
        assert server.asked == []


async def test_a_name_is_looked_up_once_so_rebinding_leads_nowhere():
    """The second answer of this resolver is the trap; it is never asked for."""
    async with shop() as server:
        answers = iter([["127.0.0.1"], ["169.254.169.254"]])

        async def resolve(host: str, port: int) -> list[str]:
            return next(answers)

        assert await brought(Fetcher(rules(server.port), resolve), f"http://img.test:{server.port}/") == [PNG]
        assert next(answers) == ["169.254.169.254"]


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("http://169.254.169.254/latest/", "not fetched"),
        ("http://inside.img.test:{port}/", "not public"),
        ("http://other.test:{port}/", "not fetched"),
        ("file:///etc/passwd", "not an address"),
        ("//other.test:{port}/", "not fetched"),
        ("/moved", "redirected more than 3"),
        ("http://user@img.test:{port}/", "not an address"),
    ],
)
async def test_every_redirect_is_looked_at_anew(to, why):
    async with shop() as server:
        moved = b"HTTP/1.1 302 Found\r\nlocation: %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        server.answers["/moved"] = moved % to.format(port=server.port).encode()
        fetcher = Fetcher(rules(server.port), names({"inside.img.test": ["10.0.0.1"]}))
        with pytest.raises(Refused, match=why) as refused:
            await brought(fetcher, f"http://img.test:{server.port}/moved")
        assert refused.value.param == "messages[0].content[0].image_url.url"
        assert len(server.asked) == (4 if to == "/moved" else 1)


async def test_a_redirect_to_what_is_allowed_is_followed():
    async with shop() as server:
        moved = b"HTTP/1.1 308 Moved\r\nlocation: %s\r\nconnection: close\r\nset-cookie: a=b\r\n\r\n"
        server.answers["/1"] = moved % b"/2?x"
        server.answers["/2?x"] = moved % b"http://cdn.img.test:%d/3" % server.port
        asked: list[str] = []
        fetcher = Fetcher(rules(server.port), names(asked=asked))
        assert await brought(fetcher, f"http://img.test:{server.port}/1") == [PNG]
        assert asked == ["img.test", "img.test", "cdn.img.test"]
        assert not any(b"cookie" in head.lower() for head in server.asked)


BIG = b"\x89PNG\r\n\x1a\n" + bytes(3000)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HEAD + b"content-length: 3008\r\n\r\n" + BIG, "larger than 2000"),
        (HEAD + b"\r\n" + BIG, "larger than 2000"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nbc0\r\n" + BIG + b"\r\n0\r\n\r\n", "larger than 2000"),
        (HEAD + b"content-encoding: gzip\r\n\r\nx", "packed"),
        (HEAD.replace(b"image/png", b"text/html") + b"\r\n" + PNG, "is no image"),
        (HEAD.replace(b"image/png", b"image/png") + b"\r\n<html>", "known form"),
        (HEAD + b"content-length: 500\r\n\r\n" + PNG, "connection broke"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "answers 404"),
        (b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "answers 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
async def test_answers_that_are_no_medium_are_not_passed_on(answer, why):
    async with shop({"/x": answer}) as server:
        fetcher = Fetcher(rules(server.port, each_bytes=2000), names())
        with pytest.raises(Refused, match=why):
            await brought(fetcher, f"http://img.test:{server.port}/x")


async def test_all_media_of_a_request_share_one_bound():
    async with shop() as server:
        fetcher = Fetcher(rules(server.port, total_bytes=2 * len(PNG) + 10), names())
        at = f"http://img.test:{server.port}/"
        assert len(await brought(fetcher, at + "1", at + "2")) == 2
        with pytest.raises(Refused, match="larger than 10 bytes"):
            await brought(fetcher, at + "1", at + "2", at + "3")
        with pytest.raises(Refused, match="At most 2 media"):
            await brought(Fetcher(rules(server.port, most=2), names()), at + "1", at + "2", at + "3")


async def test_time_is_bounded_whatever_hangs():
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with shop() as server:
        server.open.clear()
        at = f"http://img.test:{server.port}/"
        for resolve in (never, names()):
            with pytest.raises(Refused, match=r"longer than 0\.2 s"):
                await brought(Fetcher(rules(server.port, timeout_s=0.2), resolve), at)
        with pytest.raises(Refused, match="cannot be resolved"):
            await brought(Fetcher(rules(server.port), names({"img.test": []})), at)


async def test_only_so_many_calls_fetch_at_once():
    async with shop() as server:
        server.open.clear()
        fetcher = Fetcher(rules(server.port, concurrent=2), names())
        calls = [
            asyncio.create_task(brought(fetcher, f"http://img.test:{server.port}/{n}")) for n in range(6)
        ]
        async with asyncio.timeout(10):
            while server.here < 2:
                await asyncio.sleep(0.01)
        server.open.set()
        assert await asyncio.gather(*calls) == [[PNG]] * 6
        assert server.most_here == 2


async def test_the_certificate_must_be_for_the_name(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("img.test").configure_cert(context)
    async with shop(tls=context) as server:
        more = {"ca": str(tmp_path / "ca.pem"), "plain_http": False}
        fetcher = Fetcher(rules(server.port, **more), names())
        assert await brought(fetcher, f"https://img.test:{server.port}/") == [PNG]
        with pytest.raises(Refused, match="certificate"):
            await brought(fetcher, f"https://cdn.img.test:{server.port}/")
        with pytest.raises(Refused, match="certificate"):
            await brought(Fetcher(rules(server.port), names()), f"https://img.test:{server.port}/")
        with pytest.raises(Refused, match="https"):
            await brought(fetcher, f"http://img.test:{server.port}/")


# The whole gateway. Here names are what the machine's own resolver says, so the host is an address.


def local(port: int, **more: object) -> Fetch:
    return Fetch(hosts=(f"127.0.0.1:{port}",), networks=LOOPBACK, plain_http=True, **more)


async def test_an_engine_gets_what_was_fetched_and_the_record_says_so_without_the_address(tmp_path):
    async with (
        shop() as server,
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(asking(f"http://127.0.0.1:{server.port}/canary-7f3a.png?canary-7f3a")))
        assert (await peer.answer()).status == 200
        await peer.send(post(asking("https://canary-7f3a.example/x.png")))
        refused = await peer.answer()
        await peer.send(post(asking(f"http://127.0.0.1:{server.port}/canary-7f3a", "file:///etc/passwd")))
        assert (await peer.answer()).status == 400
        await peer.send(post({"model": "m", "messages": [{"role": "user", "content": "hello"}]}))
        assert (await peer.answer()).status == 200
        assert refused.status == 400 and json.loads(refused.body)["error"]["code"] == "media_address"
        assert len(server.asked) == 1 and len(engine.seen) == 2
        [part] = json.loads(engine.seen[0].body)["messages"][0]["content"]
        assert part["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
        records = await stack.records(4)
        assert [record.outcome for record in records] == ["served", "bad_request", "bad_request", "served"]
        assert records[0].reason.startswith("media: 1 fetched, 264 bytes")
        await stack.quiet()
    for path in tmp_path.iterdir():
        assert b"canary-7f3a" not in path.read_bytes(), path


async def test_a_client_that_leaves_ends_the_fetching(tmp_path):
    async with (
        shop() as server,
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port)) as stack,
    ):
        server.open.clear()
        peer = await stack.peer()
        await peer.send(post(asking(f"http://127.0.0.1:{server.port}/")))
        async with asyncio.timeout(10):
            while not server.here:
                await asyncio.sleep(0.01)
            peer.reset()
            while server.here:  # our side of the fetch was closed
                await asyncio.sleep(0.01)
        [record] = await stack.records(1)
        assert record.outcome == "client_left" and engine.seen == []


async def test_a_gateway_that_fetches_slowly_still_answers_others_and_bounds_those_who_wait(tmp_path):
    async with (
        shop() as server,
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port, concurrent=1)) as stack,
    ):
        server.open.clear()
        peers = [await stack.peer() for _ in range(6)]
        for number, peer in enumerate(peers):
            await peer.send(post(asking(f"http://127.0.0.1:{server.port}/{number}")))
        async with await stack.peer() as other:
            await other.send(post({"model": "m", "messages": []}))
            assert (await other.answer()).status == 200
        waits = [asyncio.create_task(peer.answer()) for peer in peers]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert [one.result().status for one in done] == [429]
        server.open.set()
        assert sorted([answer.status for answer in await asyncio.gather(*waits)]) == [200] * 5 + [429]
        assert server.most_here == 1
        for peer in peers:
            peer.close()


# Limits come first, and are asked again for what the request has become.


def limited(**limits: object) -> dict[str, object]:
    return {"rulebook": RuleBook(rules=(Rule(name="r", select=Selector(tenant=("default",)), **limits),))}


async def used(stack: Stack, name: str, amount: int) -> None:
    """Wait until that much of a counter is used, as the store of counters has it."""
    until = asyncio.get_running_loop().time() + 5.0
    while (now := sum(s.used for s in stack.windows.standings(0.0) if s.cap.name == name)) != amount:
        assert asyncio.get_running_loop().time() < until, f"{name}: {now}, not {amount}"
        await asyncio.sleep(0.02)


async def asked(stack: Stack, body: bytes) -> Answer:
    async with await stack.peer() as peer:
        await peer.send(post(body))
        return await peer.answer()


@pytest.mark.parametrize(
    "limits",
    [
        limited(requests_per_minute=1),
        limited(requests_per_day=1),
        {"limit": RateLimit(requests_per_minute=1)},
    ],
)
async def test_nothing_is_fetched_for_a_call_that_a_limit_forbids(tmp_path, limits):
    async with (
        shop() as server,
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port), **limits) as stack,
    ):
        body = asking(f"http://127.0.0.1:{server.port}/")
        assert [(await asked(stack, body)).status for _ in range(3)] == [200, 429, 429]
        assert (len(server.asked), len(engine.seen)) == (1, 1)
        counted = (await stack.figures()).snapshot
        assert counted["gemstead_media_calls_total"] == {'outcome="fetched"': [1.0]}
        assert counted["gemstead_media_fetched_bytes_total"] == {"": [len(PNG)]}


@pytest.mark.parametrize("limits", [limited(concurrent=1), {"limit": RateLimit(concurrent=1)}])
async def test_a_call_has_its_place_while_its_media_are_fetched_and_gives_it_back(tmp_path, limits):
    async with (
        shop() as server,
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port), **limits) as stack,
    ):
        server.open.clear()
        body = asking(f"http://127.0.0.1:{server.port}/")
        first = asyncio.create_task(asked(stack, body))
        async with asyncio.timeout(10):
            while not server.here:
                await asyncio.sleep(0.01)
        assert (await asked(stack, body)).status == 429
        server.open.set()
        assert (await first).status == 200 and len(server.asked) == 1
        server.answers["/gone"] = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n"
        for _ in range(2):
            assert (await asked(stack, asking(f"http://127.0.0.1:{server.port}/gone"))).status == 400
        assert (await asked(stack, body)).status == 200


MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(1500)
CLIP = b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\nconnection: close\r\n\r\n" + MP4


def clip(port: int, path: str = "/clip") -> bytes:
    part = {"type": "video_url", "video_url": {"url": f"http://127.0.0.1:{port}{path}"}}
    messages = [{"role": "user", "content": [part]}]
    return json.dumps({"model": "m", "messages": messages, "max_tokens": 20}).encode()


async def test_what_was_fetched_is_held_too_and_charged_once(tmp_path):
    """2,000 letters of a clip may be 2,000 tokens: a budget holds them before the engine is asked, and not twice."""
    rules = limited(tokens_per_day=5000, requests_per_day=100)
    async with (
        shop({"/clip": CLIP}) as server,
        FakeEngine(Script(pieces=words(3))) as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port), **rules) as stack,
    ):
        assert (await asked(stack, clip(server.port))).status == 200
        [record] = await stack.records(1)
        await used(stack, "tokens_per_day", record.prompt_tokens + record.output_tokens)
        await used(stack, "requests_per_day", 1)
        seen = json.loads(engine.seen[0].body)
        assert (
            seen["max_tokens"] == 20 and seen["messages"][0]["content"][0]["video_url"]["url"][:5] == "data:"
        )
        assert (await asked(stack, clip(server.port, "/none"))).status == 400
        await used(stack, "tokens_per_day", record.prompt_tokens + record.output_tokens)
        await used(stack, "requests_per_day", 2)


NOISE = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + random.Random(1).randbytes(9000)
FILM = b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\nconnection: close\r\n\r\n" + NOISE


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (limited(tokens_per_day=50_000, concurrent=1), 200),
        ({"limit": RateLimit(tokens_per_minute=50_000, concurrent=1)}, 200),
        (limited(tokens_per_day=3000), 429),
        ({"limit": RateLimit(tokens_per_minute=1000)}, 429),
    ],
)
async def test_media_too_long_for_their_model_go_to_another_and_are_held_there_too(tmp_path, limits, status):
    """What another model is asked holds what was fetched: so do the limits, before it is asked."""
    falls = Fallback(name="never-nothing", models=("m",), fallbacks=("wide",))
    async with (
        shop({"/clip": FILM}) as server,
        FakeEngine(context_tokens=500) as engine,
        FakeEngine() as wide,
    ):
        more = {
            "pools": (Pool(name="m"), Pool(name="wide")),
            "endpoints": (engine.facts("a", pool="m"), wide.facts("w", pool="wide")),
            "routing": (falls,),
        }
        async with start_stack(
            folder=tmp_path, media="fetch", fetch=local(server.port), **more, **limits
        ) as stack:
            for _ in range(2):
                answer = await asked(stack, clip(server.port))
                assert answer.status == status, answer.body
            assert (len(server.asked), engine.seen, len(wide.seen)) == (2, [], 2 if status == 200 else 0)
            records = await stack.records(2)
            if status == 200:
                url = json.loads(wide.seen[0].body)["messages"][0]["content"][0]["video_url"]["url"]
                assert base64.b64decode(url.partition(",")[2]) == NOISE
                assert answer.headers["x-gemstead-fallback"] == "m"
            if "rulebook" in limits:
                spent = sum(one.prompt_tokens + one.output_tokens for one in records)
                await used(stack, "tokens_per_day", spent)
            await stack.quiet()


@pytest.mark.parametrize(
    "limits",
    [
        limited(tokens_per_day=1500),
        limited(tokens_per_minute=450),
        {"limit": RateLimit(tokens_per_minute=450)},
    ],
)
async def test_what_has_become_too_large_is_refused_and_pays_nothing(tmp_path, limits):
    async with (
        shop({"/clip": CLIP}) as server,
        FakeEngine(Script(pieces=words(3))) as engine,
        start_stack(engine, folder=tmp_path, media="fetch", fetch=local(server.port), **limits) as stack,
    ):
        refused = await asked(stack, clip(server.port))
        assert refused.status == 429 and "too large" in json.loads(refused.body)["error"]["message"]
        assert (len(server.asked), engine.seen) == (1, [])
        small = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
        for _ in range(3):  # all that was held for the large one is there again
            assert (await asked(stack, json.dumps(small).encode())).status == 200
        await stack.quiet()
