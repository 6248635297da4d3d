"""An engine that someone else runs tells how much it holds, and keeps what the file says of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from msgspec.structs import replace

from gemstead.spec.model import ExternalEndpoint
from gemstead.spec.speed import EngineSpeed
from gemstead.supervise.ask import HttpProbe
from gemstead.supervise.external import External
from gemstead.testing import FakeEngine

VLLM = (
    "vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n"
    'vllm:cache_config_info{block_size="16",num_gpu_blocks="2000"} 1.0\n'
)


@asynccontextmanager
async def watched(facts):
    changes = []
    one = External(
        facts, HttpProbe(facts), changed=lambda: changes.append(one.facts), in_flight=lambda name: 0
    )
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(10):
            while not one.facts.ready:
                await asyncio.sleep(0.01)
        yield one, changes
    finally:
        one.drain()
        task.cancel()


async def test_what_an_engine_says_of_its_cache_is_told_to_the_gateway():
    async with FakeEngine() as engine:
        engine.metrics_text = VLLM
        facts = replace(engine.facts("e"), engine="vllm")
        async with watched(facts) as (one, changes):
            assert one.facts.kv_tokens == 32_000
            assert changes[-1] == one.facts


async def test_what_the_file_says_counts_more():
    async with FakeEngine() as engine:
        engine.metrics_text = VLLM
        facts = replace(engine.facts("e"), engine="vllm", kv_tokens=20_000)
        async with watched(facts) as (one, _):
            assert one.facts.kv_tokens == 20_000


def test_speed_in_the_file_becomes_a_step_that_grows_with_each_request():
    speed = EngineSpeed(slots=32, prompt_tokens_s=9000.0, tokens_s=50.0, full_tokens_s=800.0)
    assert speed.step_s == 0.02
    assert abs(speed.step_s + 31 * speed.step_slot_s - 32 / 800) < 1e-12
    assert EngineSpeed().step_s == EngineSpeed(tokens_s=5.0).step_slot_s == 0.0
    assert ExternalEndpoint(url="http://e:1", speed=speed).speed is speed
