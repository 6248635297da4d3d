"""What a call costs a picker: CPU seconds of the `gemstead epp` process for one ext_proc stream, from /proc.

    python -m benchmarks.traffic.epp            # all scenarios, about a minute
    python -m benchmarks.traffic.epp --calls 500 --only small

A gRPC client plays the gateway's part: head and body in, the choice and the body back, the answer's head and body in
and back. No Envoy and no engine runs, so that the figure is the picker's alone. CPU is counted by the kernel in ticks
of 10 ms for the whole process, gRPC's own threads included; with 1 000 calls that is 0.01 ms a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

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
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(scenario: Scenario, calls: int) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "endpoints.yaml"
        rows = "".join(
            f'- {{address: "127.0.{n // 200}.{n % 200 + 1}:9", name: e{n}}}\n'
            for n in range(scenario.endpoints)
        )
        file.write_text(f"scrape_s: 86400\nendpoints:\n{rows}")
        words = ["epp", "--file", str(file)]
        for option in ("--listen", "--health", "--metrics"):
            words += [option, "127.0.0.1:0"]
        words += [] if scenario.tls else ["--plain"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gemstead",
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            port = next(int(word) for word in line.replace(",", "").split() if word.isdigit())
            return await drive(scenario, calls, port, process.pid)
        finally:
            process.kill()
            await process.wait()


async def drive(scenario: Scenario, calls: int, port: int, pid: int) -> str:
    if scenario.tls:
        import ssl

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
        before, began = cpu_s(pid), time.monotonic()

        async def worker(number: int) -> None:
            for _ in range(calls // scenario.at_once):
                await one(method, *prepared[number % len(prepared)])
                number += scenario.at_once

        await asyncio.gather(*(worker(number) for number in range(scenario.at_once)))
        done = calls // scenario.at_once * scenario.at_once
        spent_ms = 1000 * (cpu_s(pid) - before) / done
        wall_s = time.monotonic() - began
    return (
        f"| {scenario.name} | {scenario.endpoints} | {scenario.at_once} | {spent_ms:.2f} | {done / wall_s:.0f} "
        f"| {memory_mib(pid):.0f} |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--only", default="", help="scenarios whose name begins so")
    args = parser.parse_args()
    print("| call | endpoints | at once | CPU ms per call | calls/s seen | MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in SCENARIOS:
        if scenario.name.startswith(args.only):
            calls = (
                max(args.calls // 5, 50) if scenario.chunks or scenario.prompt_bytes > 100_000 else args.calls
            )
            print(await measure(scenario, calls), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
