"""A gateway worker, a pretend engine and the batch process, wired as the head wires them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

import openai
from gemstead.batch.control import BatchSettings
from gemstead.gateway.settings import Aside, GatewaySettings, Pool
from gemstead.ledger.keys import Grant
from gemstead.testing.engine import FakeEngine
from gemstead.testing.gateway import Worker, make_key, start_worker
from gemstead.testing.script import Script

SECRET = "s3cret" * 6
MODEL = "m"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def line(number: int, *, url: str = "/v1/chat/completions", **body: object) -> str:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": f"question {number}"}], **body}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": url, "body": asked})


def lines(count: int) -> bytes:
    return "".join(line(number) + "\n" for number in range(1, count + 1)).encode()


class House:
    """Everything that runs. `kill` and `start` are for the batch process."""

    worker: Worker
    keys_path: str
    pepper: str
    key_ids: dict[str, str]

    def __init__(self, folder: Path, settings: BatchSettings, port: int) -> None:
        self.folder, self.settings, self.port = folder, settings, port
        self.engine: FakeEngine
        self.url = settings.gateway
        self.process: asyncio.subprocess.Process | None = None
        self.keys: dict[str, str] = {}

    def client(self, tenant: str = "acme", **more) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": self.keys[tenant], "timeout": 30, **more}
        )

    async def start(self, **changed) -> None:
        path = self.folder / "batch.json"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(self.settings, **changed)))
        with (self.folder / "batch.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gemstead.batch", "--settings", str(path), "--port", str(self.port)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        said = await asyncio.wait_for(self.process.stdout.readline(), 20.0)
        assert said, (self.folder / "batch.log").read_text()

    async def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await asyncio.wait_for(self.process.wait(), 40.0)

    @property
    def log(self) -> str:
        return (self.folder / "batch.log").read_text()

    async def upload(self, content: bytes, tenant: str = "acme", **more):
        return await self.client(tenant).files.create(file=("in.jsonl", content), purpose="batch", **more)

    async def order(self, content: bytes, tenant: str = "acme", **more):
        file = await self.upload(content, tenant)
        usual = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return await self.client(tenant).batches.create(input_file_id=file.id, **{**usual, **more})

    async def until(self, batch_id: str, holds, *, within_s: float = 30.0, tenant: str = "acme"):
        """The batch once `holds(batch)`."""
        deadline = time.monotonic() + within_s
        while True:
            batch = None
            with contextlib.suppress(openai.APIError):
                batch = await self.client(tenant).batches.retrieve(batch_id)
                if holds(batch):
                    return batch
            assert time.monotonic() < deadline, (batch, self.log[-3000:])
            await asyncio.sleep(0.05)

    async def ended(self, batch_id: str, **more):
        return await self.until(
            batch_id, lambda batch: batch.status in ("completed", "failed", "expired", "cancelled"), **more
        )

    async def answers(self, file_id: str, tenant: str = "acme") -> list[dict]:
        content = await self.client(tenant).files.content(file_id)
        return [json.loads(line) for line in content.text.splitlines()]

    def executed(self) -> Counter:
        """How often each question reached the engine."""
        return Counter(
            json.loads(seen.body)["messages"][0]["content"]
            for seen in self.engine.seen
            if seen.path == "/v1/chat/completions"
        )


@contextlib.asynccontextmanager
async def house(
    folder: Path, script: Script | None = None, beside: House | None = None, model: str = MODEL, **batch
):
    """`beside`: another gateway, with the same keys and engine."""
    gateway_port, batch_port = free_port(), free_port()
    folder.mkdir(exist_ok=True)
    settings = BatchSettings(
        path=str(folder / "batch"), gateway=f"http://127.0.0.1:{gateway_port}", secret=SECRET, **batch
    )
    made = House(folder, settings, batch_port)
    if beside is None:
        keys = {tenant: make_key(folder, Grant(tenant=tenant)) for tenant in ("acme", "other")}
        only = make_key(folder, Grant(tenant="narrow", models=frozenset({"elsewhere"})))
        made.keys_path, made.pepper = only.keys_path, only.pepper
        made.keys = {tenant: key.secret for tenant, key in keys.items()} | {"narrow": only.secret}
        made.key_ids = {tenant: key.key_id for tenant, key in keys.items()}
    else:
        made.keys_path, made.pepper, made.keys, made.key_ids = (
            beside.keys_path,
            beside.pepper,
            beside.keys,
            beside.key_ids,
        )
    async with contextlib.AsyncExitStack() as held:
        engine = beside.engine if beside else await held.enter_async_context(FakeEngine(script or Script()))
        made.engine = engine
        aside = Aside(
            host="127.0.0.1", port=batch_port, secret=SECRET, body_bytes=settings.file_bytes + (1 << 20)
        )
        gateway = GatewaySettings(
            port=gateway_port,
            pools=(Pool(name=model, aliases=("alias",)), Pool(name="elsewhere")),
            endpoints=(engine.facts("a", pool=model),),
            keys_path=made.keys_path,
            pepper=made.pepper,
            hash_key="11" * 32,
            ledger_path=str(folder / "audit.db"),
            aside=aside,
        )
        async with start_worker(gateway) as worker:
            made.worker = worker
            await made.start()
            try:
                yield made
            finally:
                await made.kill()
