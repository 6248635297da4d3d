"""The real gateway process that tests start: it serves, takes keys, and is gone afterwards."""

from __future__ import annotations

import asyncio
import os

import httpx2
import pytest

from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.ledger.keys import Grant
from gemstead.testing import FakeEngine, make_key, start_worker

ASK = {"model": "m", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_worker_serves_with_a_made_key_and_is_gone_after_the_block(tmp_path):
    made = await asyncio.to_thread(make_key, tmp_path, Grant(tenant="t"))
    async with FakeEngine() as engine:
        settings = GatewaySettings(
            port=0,
            pools=(Pool(name="m"),),
            endpoints=(engine.facts("a", pool="m"),),
            keys_path=made.keys_path,
            pepper=made.pepper,
            hash_key="00" * 32,
        )
        async with start_worker(settings) as worker, httpx2.AsyncClient(trust_env=False) as client:
            for key, status in ((made.secret, 200), ("gms_other", 401)):
                headers = {"Authorization": f"Bearer {key}"}
                answer = await client.post(worker.url + "/v1/chat/completions", json=ASK, headers=headers)
                assert answer.status_code == status, worker.log()
        assert engine.served == 1
    assert is_gone(worker.pid)


async def test_a_worker_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="does not listen"):
        async with start_worker(GatewaySettings(host="192.0.2.1", port=1)):  # no address of this machine
            pass
