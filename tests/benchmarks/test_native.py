"""The mock engine and the load generator agree with each other and with the figures that are published."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time

import pytest
from benchmarks.gateway.gateways import ask, request
from benchmarks.gateway.processes import Cpus
from benchmarks.gateway.tools import Engine, build, start_load

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("cc"), reason="needs Linux and a C compiler"
)
ANYWHERE = Cpus(frozenset(), frozenset(), frozenset(), frozenset())


@pytest.fixture
def engine():
    running = Engine(build()[0], ANYWHERE, ports=2)
    yield running
    running.close()


def said(kind, engine, **options):
    process = start_load(build()[1], ANYWHERE, kind, port=engine.ports[1], **options)
    line, _ = process.communicate(timeout=20)
    return json.loads(line)


def test_a_plain_answer_has_445_bytes_and_says_its_usage(engine):
    head, _, body = ask(engine.ports[0], request("")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and len(body) == 445
    assert json.loads(body)["usage"]["total_tokens"] == 288


def test_every_event_has_232_bytes_in_a_chunk_of_its_own(engine):
    engine.behave(tokens=3, pace_us=1000)
    received = b""
    with socket.create_connection(("127.0.0.1", engine.ports[0]), timeout=5) as wire:
        wire.sendall(request("", stream=True))
        while not received.endswith(b"0\r\n\r\n"):
            received += wire.recv(65536)
    pieces = received.partition(b"\r\n\r\n")[2].split(b"\r\n")
    sizes, payloads = [int(size, 16) for size in pieces[0:10:2]], pieces[1:10:2]
    assert sizes == [len(payload) for payload in payloads]
    assert sizes[:3] == [232] * 3
    assert json.loads(payloads[3][6:])["usage"]["completion_tokens"] == 3
    assert payloads[4] == b"data: [DONE]\n\n"


def test_every_request_that_is_asked_is_accounted_for(engine):
    told = said("closed", engine, conns=8, seconds=0.3)
    assert told["done"] == told["asked"] == engine.stats()["requests"] > 100
    assert told["refused"] == told["failed"] == told["broken"] == told["unfinished"] == 0


def test_a_fixed_rate_is_kept(engine):
    told = said("rate", engine, conns=8, seconds=0.5, rate=400)
    assert told["asked"] == told["done"] == 200


@pytest.mark.parametrize("pace_us", [2000, 0])
def test_every_token_of_every_stream_is_counted(engine, pace_us):
    engine.behave(tokens=50, pace_us=pace_us)
    told = said("streams", engine, conns=20, seconds=10, ramp=0.05)
    assert (told["done"], told["chunks"], told["broken"]) == (20, 1000, 0)
    assert engine.stats()["finished"] == 20


def test_a_stream_that_does_not_end_in_time_is_reported_and_not_waited_for(engine):
    engine.behave(tokens=1000, pace_us=50_000)
    told = said("streams", engine, conns=5, seconds=0.4, ramp=0.01)
    assert (told["done"], told["unfinished"]) == (0, 5)
    assert engine.idle(within_s=2) == 0
    assert engine.stats()["aborted"] == 5


@pytest.mark.parametrize("silent", [1, 2])
def test_the_engine_says_when_a_client_left_its_silence(engine, silent):
    engine.behave(silent=silent)
    wire = socket.create_connection(("127.0.0.1", engine.ports[0]), timeout=5)
    wire.sendall(request("", stream=True))
    until = time.monotonic() + 5
    while not engine.stats()["active"] and time.monotonic() < until:
        pass
    before = time.monotonic_ns()
    wire.close()
    assert engine.idle(within_s=5) == 0
    stats = engine.stats()
    assert stats["aborted"] == 1 and before < stats["last_abort_ns"] < time.monotonic_ns()
