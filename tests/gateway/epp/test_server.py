"""The gRPC side: health, certificates, ports, and what is no message. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from time import monotonic

import pytest

pytest.importorskip("grpc", reason="needs gemstead[epp]")

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gemstead.gateway.epp.certificate import from_files, self_signed
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.epp.server import SERVICE, Server
from gemstead.gateway.epp.settings import DeskSettings
from gemstead.gateway.figures import Figures
from gemstead.observe.metrics import Registry
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex

PEM = self_signed()
YES, NO = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def desk() -> Desk:
    choose = Random(1).randrange
    return Desk(DeskSettings(), Picker(PrefixIndex(), choose), choose, Figures(Registry()))


@contextlib.asynccontextmanager
async def serving(
    mine: Desk, pem: Callable[[], tuple[bytes, bytes]] | None = None
) -> AsyncIterator[tuple[Server, int, int]]:
    server = Server(mine, pem=pem)
    port, health = await server.start("127.0.0.1:0", "127.0.0.1:0")
    try:
        yield server, port, health
    finally:
        await server.kill()


async def told(port: int, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service)
        )
        return answer.status


async def test_it_is_alive_at_once_and_ready_when_the_pool_is_known():
    mine = desk()
    async with serving(mine) as (_, port, health):
        for at in (port, health):
            assert await told(at, "liveness") == YES
            assert [await told(at, name) for name in ("readiness", SERVICE, "")] == [NO] * 3
        mine.fleet([], monotonic())
        async with asyncio.timeout(10):
            while await told(health, "readiness") != YES:
                await asyncio.sleep(0.02)


async def test_whoever_watches_hears_of_changes_and_nobody_is_told_of_what_is_unknown():
    mine = desk()
    async with serving(mine) as (_, port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await watching.read()).status == NO
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        mine.fleet([], monotonic())
        async with asyncio.timeout(10):
            assert (await watching.read()).status == YES
        watching.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await told(port, "nobody")
        assert ended.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_gateway_that_says_no_more_is_let_go_and_its_call_given_back():
    mine = desk()
    facts = EndpointFacts(name="e", pool="pool", host="10.0.0.1", port=8000)
    mine.fleet([facts], monotonic())
    head = ext_proc.ProcessingRequest()
    head.request_headers.end_of_stream = True
    async with serving(mine) as (server, port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for leave in (True, False):
            call = channel.stream_stream(f"/{SERVICE}/Process")()
            await call.write(head.SerializeToString())
            assert ext_proc.ProcessingResponse.FromString(await call.read()).HasField("request_headers")
            (endpoint,) = mine.endpoints
            assert endpoint.in_flight == 1 and len(server.open) == 1
            if leave:
                call.cancel()
            else:
                await call.done_writing()
                assert await call.code() == grpc.StatusCode.OK
            async with asyncio.timeout(10):
                while endpoint.in_flight or server.open:
                    await asyncio.sleep(0.01)


async def test_a_connection_without_a_word_of_http2_does_no_harm():
    async with serving(desk(), lambda: PEM) as (_, port, _):
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()
        assert await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))


async def test_what_is_no_message_ends_its_stream_and_nothing_else():
    async with serving(desk()) as (server, port, _):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(f"/{SERVICE}/Process")()
            await call.write(b"\xff\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call.read()
            assert ended.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert not server.open
        assert await told(port, "liveness") == YES


async def test_a_taken_port_is_said():
    async with serving(desk()) as (_, port, _):
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Server(desk()).start(f"127.0.0.1:{port}")


async def test_a_renewed_certificate_counts_from_the_next_handshake_and_a_broken_one_does_not(tmp_path: Path):
    def write(name: str) -> None:
        key, chain = self_signed(name)
        (tmp_path / "key").write_bytes(key)
        (tmp_path / "chain").write_bytes(chain)

    def seen(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    write("one")
    async with serving(desk(), lambda: from_files(tmp_path / "chain", tmp_path / "key")) as (_, port, _):
        first = await asyncio.to_thread(seen, port)
        assert await asyncio.to_thread(seen, port) == first
        write("two")
        second = await asyncio.to_thread(seen, port)
        assert second != first
        (tmp_path / "chain").unlink()
        assert await asyncio.to_thread(seen, port) == second
