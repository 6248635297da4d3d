"""`gemstead serve` in front of engines that someone else runs: no model, no engine process, the same gateway."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import httpx2

from gemstead.testing import FakeEngine

FILE = """
models:
  - name: mine
    endpoints:
      - {{url: "{one}", api_key: "env:ENGINE_KEY", served_model: their-name}}
      - {{url: "{two}", dialect: vllm}}
"""


def service_tests():
    """The neighbouring module; tests are no package."""
    if "service_tests" not in sys.modules:
        path = Path(__file__).with_name("test_service.py")
        spec = importlib.util.spec_from_file_location("service_tests", path)
        sys.modules["service_tests"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["service_tests"]


async def until(holds, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def test_external_engines_are_probed_named_and_routed_around(tmp_path):
    tests = service_tests()
    async with FakeEngine() as one, FakeEngine() as two:
        with tests.serving(
            tmp_path, demo=False, file=FILE.format(one=one.url, two=two.url), ENGINE_KEY="theirs"
        ) as service:
            await asyncio.to_thread(service.ready)

            def ready():
                return [end["ready"] for end in service.status()["endpoints"]]

            await until(lambda: ready() == [True, True])
            assert {end["pid"] for end in service.status()["endpoints"] if "pid" in end} == set()
            headers = {"Authorization": f"Bearer {service.key}"}
            ask = {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}
            async with httpx2.AsyncClient(base_url=service.url, headers=headers, trust_env=False) as http:
                for _ in range(100):
                    assert (await http.post("/v1/chat/completions", json=ask)).status_code == 200
                    if one.seen:  # who is asked first is chance
                        break
                assert any(b"their-name" in seen.body for seen in one.seen)
                assert {seen.header("authorization") for seen in (*one.probes, *one.seen)} == {
                    "Bearer theirs"
                }
                await two.kill()
                await until(lambda: ready() == [True, False])
                for _ in range(4):
                    assert (await http.post("/v1/chat/completions", json=ask)).status_code == 200
                await two.start()
                await until(lambda: ready() == [True, True])


async def test_a_name_stands_for_the_engines_behind_it(tmp_path):
    tests = service_tests()
    async with FakeEngine() as one:
        port = one.url.rpartition(":")[2]
        file = f"models: [{{name: mine, endpoints: [{{url: 'http://localhost:{port}', discover: dns}}]}}]"
        with tests.serving(tmp_path, demo=False, file=file) as service:
            await asyncio.to_thread(service.ready)
            found = {end["name"]: end["ready"] for end in service.status()["endpoints"]}
            assert found["mine-127-0-0-1"] is True


async def test_a_secret_that_is_missing_stops_the_start(tmp_path):
    tests = service_tests()
    (tmp_path / "gemstead.yaml").write_text(FILE.format(one="http://127.0.0.1:1", two="http://127.0.0.1:2"))
    run = await asyncio.to_thread(
        tests.gemstead,
        *("serve", "--set", f"state_dir={tmp_path / 's'}"),
        *("--set", "gateway.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"),
        cwd=tmp_path,
    )
    assert run.returncode == 1
    assert "models[0].endpoints[0].api_key: the environment variable ENGINE_KEY is not set" in run.stderr
