"""What a worker does with keys and records: real processes, a real ledger, one that cannot be written."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest

from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.ledger import read
from gemstead.ledger.keys import open_keys
from gemstead.testing.engine import FakeEngine
from gemstead.testing.gateway import make_key, start_worker

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def settings(engine, tmp_path, key, **more):
    return GatewaySettings(
        port=0,
        pools=(Pool(name="m"),),
        endpoints=(engine.facts("a", pool="m"),),
        keys_path=key.keys_path,
        pepper=key.pepper,
        hash_key="00" * 32,
        ledger_path=str(tmp_path / "audit.db"),
        **more,
    )


async def ask(client, worker, secret):
    headers = {"authorization": f"Bearer {secret}"}
    return await client.post(f"{worker.url}/v1/chat/completions", json=BODY, headers=headers)


async def test_a_revoked_key_is_refused_at_the_next_call_and_both_are_recorded(tmp_path):
    key = make_key(tmp_path)
    store = open_keys(tmp_path / "keys.db", b"")
    async with FakeEngine() as engine, httpx2.AsyncClient() as client:  # noqa: SIM117 -- the worker ends first
        async with start_worker(settings(engine, tmp_path, key)) as worker:
            assert (await ask(client, worker, key.secret)).status_code == 200
            store.revoke(key.key_id, now=time.time())
            refused = await ask(client, worker, key.secret)
            assert refused.status_code == 401
            assert "was revoked" in refused.json()["error"]["message"]
            assert await worker.drained() == 0
    outcomes = [entry.record.outcome for entry in read.tail(tmp_path / "audit.db")]
    assert outcomes == ["served", "unauthenticated"]
    assert store.get(key.key_id).last_used == pytest.approx(time.time(), abs=60)


async def test_calls_are_refused_while_they_cannot_be_recorded_and_nothing_is_lost(tmp_path):
    key = make_key(tmp_path)
    (tmp_path / "audit.db").mkdir()  # a folder where the file should be
    async with FakeEngine() as engine, httpx2.AsyncClient() as client:  # noqa: SIM117 -- the worker ends first
        async with start_worker(settings(engine, tmp_path, key, ledger_on_error="refuse")) as worker:
            statuses = [(await ask(client, worker, key.secret)).status_code]
            deadline = time.monotonic() + 10
            while statuses[-1] == 200 and time.monotonic() < deadline:
                statuses.append((await ask(client, worker, key.secret)).status_code)
            assert statuses[-1] == 503
            (tmp_path / "audit.db").rmdir()
            while statuses[-1] == 503 and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                statuses.append((await ask(client, worker, key.secret)).status_code)
            assert statuses[-1] == 200
            assert await worker.drained() == 0
            assert "cannot be written" in worker.log()
    assert [entry.record.status for entry in read.tail(tmp_path / "audit.db", 10_000)] == statuses


async def test_calls_are_served_and_held_while_the_file_says_so(tmp_path):
    key = make_key(tmp_path)
    (tmp_path / "audit.db").mkdir()
    async with FakeEngine() as engine, httpx2.AsyncClient() as client:  # noqa: SIM117 -- the worker ends first
        async with start_worker(settings(engine, tmp_path, key, ledger_on_error="allow")) as worker:
            for _ in range(20):
                assert (await ask(client, worker, key.secret)).status_code == 200
            (tmp_path / "audit.db").rmdir()
            assert await worker.drained() == 0
    assert len(read.tail(tmp_path / "audit.db", 100)) == 20
