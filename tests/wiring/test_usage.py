"""What an operator sees of limits while calls run: used, held by running calls, left, and when it begins anew."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette

from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.ledger.keys import Grant, open_keys
from gemstead.supervise.logs import RotatedLog
from gemstead.testing import FakeEngine, Script
from gemstead.traffic.budget import Rule, RuleBook, Selector
from gemstead.traffic.caller import RateLimit
from gemstead.wiring.addresses import reserve
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.limitpages import limit_routes

PEPPER = bytes(32)
RULES = RuleBook(
    rules=(
        Rule(name="day", select=Selector(tenant=("*",)), tokens_per_day=10_000, requests_per_minute=100),
        Rule(name="mine", select=Selector(user=("*",), model=("m",)), concurrent=4),
    )
)


class Gate:
    def __init__(self, workers, url, secret, key_id):
        self.workers, self.url, self.secret, self.key_id = workers, url, secret, key_id
        app = Starlette(routes=limit_routes(workers.limits, workers.held))
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://admin")

    async def ask(self, **more):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **more}
        async with httpx2.AsyncClient(timeout=20) as http:
            headers = {"Authorization": f"Bearer {self.secret}"}
            return await http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def rows(self):
        found = (await self.http.get("/admin/limits")).json()["limits"]
        return {(row["rule"], row["limit"]): row for row in found}

    async def until(self, true):
        async with asyncio.timeout(10):
            while not true(rows := await self.rows()):
                await asyncio.sleep(0.02)
        return rows


@asynccontextmanager
async def gate(tmp_path, engine, workers=2, **more):
    held = reserve("127.0.0.1", 0)
    minted = open_keys(tmp_path / "keys.db", PEPPER).create(Grant(tenant="acme", user="ann"), now=time.time())
    settings = GatewaySettings(
        host="127.0.0.1",
        port=held[0].getsockname()[1],
        workers=workers,
        pools=(Pool(name="m"),),
        endpoints=(engine.facts("a", pool="m"),),
        keys_path=str(tmp_path / "keys.db"),
        pepper=PEPPER.hex(),
        **more,
    )
    logs = lambda name: RotatedLog(tmp_path / f"{name}.log", most_bytes=1 << 20, files=2)  # noqa: E731
    made = GatewayWorkers(settings, logs, pytest.fail)
    made.start()
    try:
        async with asyncio.timeout(20):
            while not all(seat.listening for seat in made.seats.values()):
                await asyncio.sleep(0.02)
        yield Gate(made, f"http://127.0.0.1:{settings.port}", minted.secret, minted.key.key_id)
    finally:
        await made.drain(5)
        for sock in held:
            sock.close()


def _of(row):
    return row["used"], row["held"], row["left"]


async def test_what_is_used_held_and_left_is_told_apart(tmp_path):
    async with FakeEngine(Script(pieces=("a", "b"))) as engine, gate(tmp_path, engine, rulebook=RULES) as at:
        served = (await at.ask()).json()["usage"]["total_tokens"]
        engine.script = Script(delay_s=60.0)
        calls = [asyncio.create_task(at.ask()) for _ in range(2)]
        rows = await at.until(
            lambda rows: (
                rows.get(("mine", "concurrent"), {}).get("held") == 2
                and rows["day", "tokens_per_day"]["used"] == served
            )
        )
        day = rows["day", "tokens_per_day"]
        assert (day["who"], day["used"], day["most"]) == ("tenant=acme", served, 10_000)
        assert day["held"] >= 2 * 50, "each call holds its bound"
        assert day["left"] == 10_000 - day["used"] - day["held"]
        assert day["until"] % 86_400 == 0 and day["until"] > time.time()
        assert (rows["mine", "concurrent"]["used"], rows["mine", "concurrent"]["left"]) == (0, 2)
        minute = rows["day", "requests_per_minute"]
        assert (minute["who"], minute["held"]) == ("tenant=acme", 0) and minute["used"] >= 1
        assert 0 < minute["until"] - time.time() < 60
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        # Clients that left before a word pay nothing.
        rows = await at.until(lambda rows: _of(rows["day", "tokens_per_day"]) == (served, 0, 10_000 - served))


async def test_limits_of_keys_that_a_worker_counts_alone_are_shown_too(tmp_path):
    limit = RateLimit(requests_per_minute=60, tokens_per_minute=6000, concurrent=3)
    async with (
        FakeEngine(Script(delay_s=60.0)) as engine,
        gate(tmp_path, engine, workers=1, limit=limit) as at,
    ):
        assert await at.rows() == {}
        call = asyncio.create_task(at.ask())
        rows = await at.until(lambda rows: rows.get(("keys", "concurrent"), {}).get("held") == 1)
        assert {row["who"] for row in rows.values()} == {f"key={at.key_id}"}
        assert rows["keys", "concurrent"]["left"] == 2
        assert rows["keys", "requests_per_minute"]["used"] == 1
        assert 50 <= rows["keys", "tokens_per_minute"]["held"] <= 6000
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await at.until(lambda rows: rows["keys", "concurrent"]["held"] == 0)


async def test_several_who_ask_at_once_all_get_an_answer(tmp_path):
    """Metrics are scraped while somebody looks at limits."""
    async with FakeEngine() as engine, gate(tmp_path, engine, rulebook=RULES) as at:
        began = time.monotonic()
        found = await asyncio.gather(
            *(at.workers.figures() if n % 2 else at.workers.held() for n in range(20))
        )
        assert len(found) == 20 and not at.workers._replies
        assert time.monotonic() - began < 20 * 0.9, "none had to be given up after a second"
