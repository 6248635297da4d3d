"""What a call costs a picker: CPU seconds of the `gemstead epp` process for one ext_proc stream.

    python -m benchmarks.traffic.epp            # all scenarios, about a minute
    python -m benchmarks.traffic.epp --calls 500 --only small
    python -m benchmarks.traffic.epp --envoy    # behind a real Envoy instead, with pretend engines

A gRPC client plays the gateway's part: head and body in, the choice and the body back, the answer's head and body in
and back. No Envoy and no engine runs, so that the figure is the picker's alone. CPU is the process's own clock, all of
its threads and the kernel's work for it included. Small calls are measured in turns with a server that does nothing
(`epp_nothing.py`), so that a busy machine shows in both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gemstead.testing.engine import FakeEngine
from gemstead.testing.envoy import Envoy, Gateway

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word%d"}}]}\n\n'
END = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209}}\n\ndata: [DONE]\n\n'
WHOLE = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%s"}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":99,"total_tokens":108}}'
)
PIECE = 60_000
HEADERS = {
    ":method": "POST",
    ":path": "/v1/chat/completions",
    ":authority": "models.example",
    ":scheme": "https",
    "content-type": "application/json",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "user-agent": "OpenAI/Python 2.0.0",
    "authorization": "Bearer 0123456789",
    "x-request-id": "7b9e6a3c-0000-4000-8000-000000000000",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-proto": "https",
}


@dataclass(frozen=True)
class Scenario:
    """One kind of call, and how many at once."""

    name: str
    prompt_bytes: int
    chunks: int = 0  # of a stream; 0: a whole answer
    endpoints: int = 8
    at_once: int = 16
    tls: bool = False


SCENARIOS = (
    Scenario("small", 400, at_once=1),
    Scenario("small", 400),
    Scenario("small, TLS", 400, tls=True),
    Scenario("4k tokens", 16_384),
    Scenario("4k tokens", 16_384, endpoints=256),
    Scenario("400 KB", 400_000),
    Scenario("stream of 200", 400, chunks=200),
)


def messages(scenario: Scenario, number: int) -> tuple[list[bytes], list[bytes]]:
    """What the gateway says of a request, and of its answer."""
    head = ext_proc.ProcessingRequest()
    for name, value in HEADERS.items():
        header = head.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    text = f"{number:08d} " + "word " * (scenario.prompt_bytes // 5)
    asked = {
        "model": "gemma",
        "messages": [{"role": "user", "content": text}],
        "stream": scenario.chunks > 0,
    }
    body = json.dumps(asked).encode()
    request = [head.SerializeToString()]
    for start in range(0, len(body), PIECE):
        piece = ext_proc.ProcessingRequest()
        piece.request_body.body = body[start : start + PIECE]
        piece.request_body.end_of_stream = start + PIECE >= len(body)
        request.append(piece.SerializeToString())
    answer_head = ext_proc.ProcessingRequest()
    kind = b"text/event-stream" if scenario.chunks else b"application/json"
    for name, value in ((":status", b"200"), ("content-type", kind)):
        header = answer_head.response_headers.headers.headers.add()
        header.key, header.raw_value = name, value
    parts = [EVENT % n for n in range(scenario.chunks)] + [END] if scenario.chunks else [WHOLE % (b"x" * 400)]
    answer = [answer_head.SerializeToString()]
    for place, part in enumerate(parts):
        piece = ext_proc.ProcessingRequest()
        piece.response_body.body = part
        piece.response_body.end_of_stream = place == len(parts) - 1
        answer.append(piece.SerializeToString())
    return request, answer


async def one(method: grpc.aio.StreamStreamMultiCallable, request: list[bytes], answer: list[bytes]) -> None:
    call = method()
    for each in request:
        await call.write(each)
    ended = False
    while not ended:
        said = ext_proc.ProcessingResponse.FromString(await call.read())
        assert said.WhichOneof("response") != "immediate_response", said
        ended = said.request_body.response.body_mutation.streamed_response.end_of_stream
    for each in answer:
        await call.write(each)
        await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, with the kernel's for it (clock_getcpuclockid(3): the id is made of the pid)."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Cost:
    """Of one run of one scenario."""

    cpu_ms: float  # per call
    calls_s: float
    mib: float


@contextlib.asynccontextmanager
async def process(*words: str) -> AsyncIterator[tuple[int, int]]:
    """Port and process id of a server that says its port in its first line."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert running.stdout is not None
        line = (await running.stdout.readline()).decode()
        yield next(int(word) for word in line.replace(",", "").split() if word.isdigit()), running.pid
    finally:
        running.kill()
        await running.wait()


@contextlib.asynccontextmanager
async def picker(addresses: Sequence[str], tls: bool = False) -> AsyncIterator[tuple[int, int]]:
    """Port and process id of a `gemstead epp` that looks at no metrics."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "endpoints.yaml"
        rows = "".join(f'- {{address: "{address}", name: e{n}}}\n' for n, address in enumerate(addresses))
        file.write_text(f"scrape_s: 86400\nendpoints:\n{rows}")
        words = ["gemstead", "epp", "--file", str(file)]
        for option in ("--listen", "--health", "--metrics"):
            words += [option, "127.0.0.1:0"]
        async with process(*words, *([] if tls else ["--plain"])) as found:
            yield found


async def measure(scenario: Scenario, calls: int) -> Cost:
    """Our picker's cost."""
    addresses = [f"127.0.{n // 200}.{n % 200 + 1}:9" for n in range(scenario.endpoints)]
    async with picker(addresses, scenario.tls) as (port, pid):
        return await drive(scenario, calls, port, pid)


async def measure_nothing(scenario: Scenario, calls: int) -> Cost:
    """The cost of a server that does nothing."""
    async with process("benchmarks.traffic.epp_nothing") as (port, pid):
        return await drive(scenario, calls, port, pid)


async def drive(scenario: Scenario, calls: int, port: int, pid: int) -> Cost:
    if scenario.tls:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port}",
            grpc.ssl_channel_credentials(pem.encode()),
            options=[("grpc.ssl_target_name_override", "localhost")],
        )
    else:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    prepared = [messages(scenario, number) for number in range(50)]
    async with channel:
        method = channel.stream_stream(METHOD)
        for request, answer in prepared:
            await one(method, request, answer)

        async def call(number: int) -> None:
            await one(method, *prepared[number % len(prepared)])

        return await counted(call, calls, scenario.at_once, pid)


async def counted(call: Callable[[int], Awaitable[None]], calls: int, at_once: int, pid: int) -> Cost:
    """What so many calls cost that process."""
    before, began = cpu_s(pid), time.monotonic()

    async def worker(number: int) -> None:
        for _ in range(calls // at_once):
            await call(number)
            number += at_once

    await asyncio.gather(*(worker(number) for number in range(at_once)))
    done = calls // at_once * at_once
    return Cost(1000 * (cpu_s(pid) - before) / done, done / (time.monotonic() - began), memory_mib(pid))


async def behind_envoy(calls: int, rounds: int) -> str:
    """What a request of a real Envoy costs the picker, and one that does nothing; both go on to pretend engines."""
    lines = []
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine()) for _ in range(2)]
        places = [f"127.0.0.1:{one.port}" for one in engines]
        for at_once in (1, 16):
            ours, nothing = [], []
            for _ in range(rounds):
                async with picker(places) as (port, pid):
                    ours.append(await through_envoy(port, pid, [one.port for one in engines], calls, at_once))
                async with process("benchmarks.traffic.epp_nothing", places[0]) as (port, pid):
                    ends = [one.port for one in engines]
                    nothing.append(await through_envoy(port, pid, ends, calls, at_once))
            lines.append(line("behind Envoy", 2, at_once, ours, nothing))
    return "\n".join(lines)


async def through_envoy(port: int, pid: int, engines: Sequence[int], calls: int, at_once: int) -> Cost:
    async with (
        Envoy(port, engines, Gateway(health_checked=False)) as envoy,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{envoy.port}", timeout=60, trust_env=False) as http,
    ):

        async def call(number: int) -> None:
            text = f"{number:08d} " + "word " * 80
            body = {"model": "gemma", "messages": [{"role": "user", "content": text}]}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text

        await counted(call, 64, at_once, pid)
        return await counted(call, calls, at_once, pid)


async def row(scenario: Scenario, calls: int, rounds: int) -> str:
    """One line of the table."""
    small = scenario.prompt_bytes < 1000 and not scenario.chunks and not scenario.tls
    ours, nothing = [], []
    for _ in range(rounds):
        ours.append(await measure(scenario, calls))
        if small:
            nothing.append(await measure_nothing(scenario, calls))
    return line(scenario.name, scenario.endpoints, scenario.at_once, ours, nothing)


def line(name: str, endpoints: int, at_once: int, ours: Sequence[Cost], nothing: Sequence[Cost]) -> str:
    """The middle of several rounds, and beside it the same of doing nothing."""
    spent = [one.cpu_ms for one in ours]
    middle = statistics.median(spent)
    floor = statistics.median(one.cpu_ms for one in nothing) if nothing else 0.0
    beside = f"{floor:.2f} | {middle / floor:.2f}" if floor else "|"
    return (
        f"| {name} | {endpoints} | {at_once} | {middle:.2f} | {min(spent):.2f} to {max(spent):.2f} | {beside} "
        f"| {statistics.median(one.calls_s for one in ours):.0f} | {ours[-1].mib:.0f} |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="scenarios whose name begins so")
    parser.add_argument("--envoy", action="store_true", help="behind a real Envoy")
    args = parser.parse_args()
    print(
        "| call | endpoints | at once | CPU ms per call | spread | doing nothing | ratio | calls/s seen | MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    if args.envoy:
        print(await behind_envoy(args.calls, args.rounds), flush=True)
        return
    for scenario in SCENARIOS:
        if scenario.name.startswith(args.only):
            large = scenario.chunks or scenario.prompt_bytes > 100_000
            print(
                await row(scenario, max(args.calls // 5, 50) if large else args.calls, args.rounds),
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
