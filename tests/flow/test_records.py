"""Every request leaves exactly one record, served or refused, and no record holds what was said."""

from __future__ import annotations

import asyncio
import json

from gemstead.gateway.settings import Bounds, Deadlines, Pool
from gemstead.ledger.keys import Grant
from gemstead.testing import FakeEngine, Script, make_key
from gemstead.testing.peer import Peer, post
from gemstead.testing.stack import start_stack
from gemstead.traffic.caller import RateLimit

CANARY = "xylophone-canary-4711"
ASK = {"model": "m", "messages": [{"role": "user", "content": CANARY}]}


async def exchange(peer: Peer, data: bytes) -> int:
    await peer.send(data)
    return (await peer.answer()).status


async def test_each_kind_of_request_leaves_one_record(tmp_path):
    key = make_key(tmp_path, Grant(tenant="acme", app="shop", user="eve"))
    own = f"Authorization: Bearer {key.secret}"
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
    long_head = f"X-Filling: {CANARY}{'x' * 70_000}"
    cases = [
        ("served", 200, post(ASK, headers=(own,))),
        ("served", 200, post(ASK | {"stream": True}, headers=(own,))),
        ("served", 200, f"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\n{own}\r\n\r\n".encode()),
        ("unauthenticated", 401, post(ASK)),
        ("unauthenticated", 401, post(ASK, headers=(f"Authorization: Bearer {CANARY}",))),
        ("unknown_model", 404, post(ASK | {"model": "other"}, headers=(own,))),
        ("unknown_route", 404, post(ASK, f"/v1/{CANARY}", headers=(own,))),
        ("wrong_method", 405, f"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{own}\r\n\r\n".encode()),
        ("bad_request", 400, post(b'{"' + CANARY.encode(), headers=(own,))),
        ("bad_request", 400, post({"model": "m", "messages": CANARY}, headers=(own,))),
        ("body_too_large", 413, post(ASK | {"padding": "x" * 20_000}, headers=(own,))),
        ("headers_too_large", 431, post(ASK, headers=(own, long_head))),
        ("bad_request", 400, f"{CANARY} HTTP\r\n\r\n".encode()),
        ("bad_request", 400, f"{head}X : {CANARY}\r\n\r\n".encode()),
        ("slow_client", 408, f"{head}{own}\r\nContent-Length: 99\r\n\r\n{CANARY}".encode()),
        ("slow_client", 408, f"{head}X: {CANARY}".encode()),
    ]
    async with (
        FakeEngine() as engine,
        start_stack(
            engine,
            folder=tmp_path,
            keys_required=True,
            keys_path=key.keys_path,
            pepper=key.pepper,
            bounds=Bounds(body_bytes=10_000),
            deadlines=Deadlines(client_header_s=0.3, client_body_s=0.3),
        ) as stack,
    ):
        for number, (outcome, status, data) in enumerate(cases):
            async with await stack.peer() as peer:
                assert (outcome, await exchange(peer, data)) == (outcome, status)
                await stack.records(number + 1)
        engine.script = Script(status=400, body=json.dumps({"error": {"message": CANARY}}).encode())
        async with await stack.peer() as peer:
            assert await exchange(peer, post(ASK, headers=(own,))) == 400
        records = await stack.records(len(cases) + 1)
        expected = [*((outcome, status) for outcome, status, _ in cases), ("upstream_refused", 400)]
        assert [(record.outcome, record.status) for record in records] == expected
        served, stream = records[0], records[1]
        assert (served.tenant, served.app, served.user, served.key_id) == ("acme", "shop", "eve", key.key_id)
        assert (served.model, served.pool, served.endpoint, served.route) == (
            "m", "m", "a", "/v1/chat/completions",
        )  # fmt: skip
        assert (served.prompt_tokens, served.output_tokens, served.tokens_from) == (1, 7, "engine")
        assert served.prompt_hash.startswith("hmac-sha256:")
        assert served.prompt_hash == stream.prompt_hash
        assert served.client == "127.0.0.1"
        assert served.bytes_in == len(json.dumps(ASK))
        assert served.seconds > 0
        assert (served.stream, served.first_token_s) == (False, None)
        assert stream.stream
        assert stream.first_token_s is not None
        assert len({record.call_id for record in records}) == len(records)
        assert all(record.tenant == "acme" for record in records if record.outcome == "unknown_model")
        await stack.drained()
        log = stack.log()
    for path in tmp_path.iterdir():
        if path.is_file():
            data = path.read_bytes()
            assert CANARY.encode() not in data, path
            assert key.secret.encode() not in data, path
    assert "Traceback" not in log


async def test_the_canary_would_be_seen(tmp_path):
    """The check above can fail: the model's name, which is recorded, is found by the same search."""
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        assert await exchange(peer, post(ASK | {"model": CANARY})) == 404
        await stack.records(1)
        await stack.drained()
    assert any(CANARY.encode() in path.read_bytes() for path in tmp_path.iterdir())


async def test_limits_are_told_and_recorded(tmp_path):
    limit = RateLimit(requests_per_minute=2)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, limit=limit) as stack,
        await stack.peer() as peer,
    ):
        answers = []
        for _ in range(3):
            await peer.send(post(ASK))
            answers.append(await peer.answer())
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
        assert 0 < int(answers[2].headers["retry-after"]) <= 60
        records = await stack.records(3)
        assert [record.outcome for record in records] == ["served", "served", "rate_limited"]
        assert len(engine.seen) == 2


async def test_too_many_at_once(tmp_path):
    limit = RateLimit(concurrent=1)
    async with (
        FakeEngine(Script(delay_s=0.3)) as engine,
        start_stack(engine, folder=tmp_path, limit=limit) as stack,
        await stack.peer() as one,
        await stack.peer() as two,
    ):
        await one.send(post(ASK))
        await engine.until(lambda: len(engine.seen) == 1)
        await two.send(post(ASK))
        answer = await two.answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert (await one.answer()).status == 200
        assert await exchange(two, post(ASK)) == 200
        await stack.quiet()


async def test_a_model_without_an_engine_says_when_to_come_back(tmp_path):
    async with (
        start_stack(folder=tmp_path, pools=(Pool(name="m"),)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        answer = await peer.answer()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        [record] = await stack.records(1)
        assert record.outcome == "no_endpoint"


async def test_what_the_operators_pages_ask_for_leaves_no_record(tmp_path):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        for path in ("/", "/healthz", "/readyz"):
            assert await exchange(peer, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) == 200
        assert await exchange(peer, post(ASK)) == 200
        await asyncio.sleep(0.3)
        await stack.records(1)
