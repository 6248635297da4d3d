"""Two real pickers before the same engines, and a real Redis between them that is killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("grpc", reason="needs gemstead[epp] and its tests' client")
pytest.importorskip("envoy.service.ext_proc.v3", reason="needs gemstead[epp]")

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger" / "counters"))

from servers import redis_server

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ENGINES = ("127.0.0.1:9", "127.0.0.2:9")  # nobody looks at them


@dataclass
class RealPicker:
    """A `gemstead epp` process."""

    process: asyncio.subprocess.Process
    port: int
    http_port: int
    log: Path

    @contextlib.asynccontextmanager
    async def call(self, text: str) -> AsyncIterator[str]:
        """A call that runs until it is left; where it was sent."""
        head, body = ext_proc.ProcessingRequest(), ext_proc.ProcessingRequest()
        for name, value in {":method": "POST", ":path": "/v1/chat/completions"}.items():
            header = head.request_headers.headers.headers.add()
            header.key, header.raw_value = name, value.encode()
        body.request_body.body = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text.encode()
        body.request_body.end_of_stream = True
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.stream_stream(METHOD)()
            await call.write(head.SerializeToString())
            await call.write(body.SerializeToString())
            said = ext_proc.ProcessingResponse.FromString(await call.read())
            assert not said.HasField("immediate_response"), said
            metadata = said.dynamic_metadata["envoy.lb"]
            yield metadata["x-gateway-destination-endpoint"].split(",")[0]
            call.cancel()

    async def went(self, text: str) -> str:
        """Where a call was sent, which then ends."""
        async with self.call(text) as where:
            return where

    async def until(self, figure: str, holds: Callable[[list[float]], bool], within_s: float = 15.0) -> None:
        """Wait until a figure's values are as they should be."""
        seen: Any = None
        async with httpx2.AsyncClient(trust_env=False) as http:
            try:
                async with asyncio.timeout(within_s):
                    while True:
                        text = (await http.get(f"http://127.0.0.1:{self.http_port}/metrics")).text
                        lines = [line for line in text.splitlines() if line.startswith(f"gemstead_{figure}")]
                        seen = [float(line.rpartition(" ")[2]) for line in lines]
                        if holds(seen):
                            return
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise AssertionError((figure, seen, self.log.read_text())) from None


@contextlib.asynccontextmanager
async def picker(folder: Path, name: str) -> AsyncIterator[RealPicker]:
    file, log = folder / f"{name}.yaml", folder / f"{name}.log"
    rows = "".join(f'- {{address: "{address}", slots: 8}}\n' for address in ENGINES)
    file.write_text(
        f"scrape_s: 86400\nsharing: {{store: env:SHARED_URL, secret: env:SHARED_SECRET}}\nendpoints:\n{rows}"
    )
    words = ["epp", "--file", str(file), "--plain"]
    for option in ("--listen", "--health", "--metrics"):
        words += [option, "127.0.0.1:0"]
    with log.open("wb") as to:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gemstead", *words, stdout=asyncio.subprocess.PIPE, stderr=to
        )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        numbers = [int(word) for word in line.replace(",", " ").split() if word.isdigit()]
        assert numbers, log.read_text()
        yield RealPicker(process, numbers[0], numbers[-1], log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_one_picks_as_if_it_saw_the_others_calls_and_goes_on_alone(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("SHARED_SECRET", "s" * 32)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with redis_server() as server:
        monkeypatch.setenv("SHARED_URL", server.url)
        async with picker(tmp_path, "one") as one, picker(tmp_path, "two") as two:
            for each in (one, two):
                await each.until("sharing_others", lambda values: values == [1.0])

            # What the one has sent somewhere, the other finds there.
            prompts = [f"{n}: " + f"story {n} " * 2500 for n in range(6)]
            where = {prompt: await one.went(prompt) for prompt in prompts}
            assert set(where.values()) == set(ENGINES)
            await two.until("sharing_heads_total", lambda values: 6.0 in values)
            for prompt in prompts:
                assert await two.went(prompt + " more") == where[prompt]

            # Where the one has long calls, the other sends nothing that is not at home there.
            async with contextlib.AsyncExitStack() as stack:
                went = [await stack.enter_async_context(one.call(f"{prompts[0]} and {n}")) for n in range(5)]
                busy = where[prompts[0]]
                assert went == [busy] * 5
                await two.until("endpoint_others", lambda values: max(values, default=0.0) >= 4.0)
                free = next(address for address in ENGINES if address != busy)
                assert [await two.went(f"new {n}") for n in range(5)] == [free] * 5

                server.kill()
                await two.until("sharing_healthy", lambda values: values == [0.0])
                await two.until("endpoint_others", lambda values: not any(values))
                assert await two.went("alone") in ENGINES
                assert two.log.read_text().count("nothing is shared") == 1
                server.start()
                await two.until("endpoint_others", lambda values: max(values, default=0.0) >= 4.0)

                one.process.kill()  # whoever is killed has nothing any more
                await two.until("endpoint_others", lambda values: not any(values))
                await two.until("sharing_others", lambda values: values == [0.0])


async def test_a_secret_that_is_too_short_is_said_before_anything_runs(tmp_path: Path):
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        'endpoints: [{address: "127.0.0.1:9"}]\nsharing: {store: env:SHARED_URL, secret: env:SHARED_SECRET}\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gemstead", "epp", "--file", str(file)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SHARED_URL": "redis://127.0.0.1:9/0", "SHARED_SECRET": "short"},
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode != 0
    assert b"sharing.secret" in said and b"openssl rand -hex 32" in said and b"Traceback" not in said
