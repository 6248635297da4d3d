"""What a gateway does when clients misbehave or the engine is silent. Each check returns plain figures.

Clients here are plain blocking sockets. The engine says what it saw and when, on the same monotonic clock.
"""

from __future__ import annotations

import socket
import time

from benchmarks.gateway.gateways import Gateway, ask, request
from benchmarks.gateway.processes import punctual
from benchmarks.gateway.scenarios import Figures
from benchmarks.gateway.tools import Engine

NEVER_MS = float("inf")
PATIENCE_S = 3.0


def stalled_reader(gateway: Gateway, engine: Engine) -> Figures:
    """MiB taken from the engine for a client that reads nothing for 3 s, and the gateway's growth meanwhile."""
    engine.behave(tokens=100_000_000, pace_us=0)
    _read_for(0.5, gateway)  # what a fast stream needs at all is not what a stalled one costs
    engine.idle(within_s=5)
    rss, sent = gateway.rss_bytes(), engine.stats()["bytes_out"]
    with _ask_and_hold(gateway):
        time.sleep(3)
        figures = {
            "stalled_taken_mib": (engine.stats()["bytes_out"] - sent) / 2**20,
            "stalled_growth_mib": (gateway.rss_bytes() - rss) / 2**20,
        }
    engine.idle(within_s=5)
    return figures


def _read_for(seconds: float, gateway: Gateway) -> None:
    until = time.monotonic() + seconds
    with _ask_and_hold(gateway) as wire:
        try:
            while time.monotonic() < until and wire.recv(65536):
                pass
        except TimeoutError:  # no first token in time: the check that follows will say so
            pass


def leavers(gateway: Gateway, engine: Engine, clients: int = 20) -> Figures:
    """Milliseconds until the engine has seen every one of 20 clients leave mid-stream."""
    engine.behave(tokens=10_000, pace_us=50_000)
    wires = [_ask_and_hold(gateway) for _ in range(clients)]
    for wire in wires:
        wire.recv(65536)
    return {"leavers_ms": _leave(wires, engine)}


def silent_leavers(gateway: Gateway, engine: Engine) -> Figures:
    """Milliseconds until the engine sees a client leave while it prefills: without and with response headers
    sent, and for a request that is not a stream."""
    figures = {}
    for name, silent, stream in (("stream", 1, True), ("headers", 2, True), ("json", 1, False)):
        engine.behave(silent=silent)
        running = engine.stats()["active"]
        wire = _ask_and_hold(gateway, stream=stream)
        until = time.monotonic() + PATIENCE_S
        while engine.stats()["active"] == running and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)
        figures[f"silent_{name}_ms"] = _leave([wire], engine)
        engine.behave()
        engine.idle(within_s=1)
    return figures


def header_limit(gateway: Gateway) -> Figures:
    """The largest header in KB that is accepted, and the status for 70 KB."""
    largest, status = 0, 0
    for size_kb in (7, 12, 30, 40, 60, 70):
        headers = f"x-pad: {'p' * size_kb * 1000}\r\n"
        status = _status(ask(gateway.port, request(gateway.key, headers=headers)))
        largest = size_kb if status == 200 else largest
    return {"header_largest_kb": largest, "header_70k_status": status}


def body_limit(gateway: Gateway) -> Figures:
    """The status for a 2 MB body, and where a limit is known, just below and just above it."""
    sizes = {"body_2mb_status": 2_000_000}
    if limit := gateway.subject.body_limit:
        sizes |= {"body_below_status": limit - 1000, "body_above_status": limit + 1000}
    return {
        name: _status(ask(gateway.port, request(gateway.key, prompt="p" * (size - 120)), timeout_s=20))
        for name, size in sizes.items()
    }


def check(gateway: Gateway, engine: Engine) -> Figures:
    """All of the above."""
    figures = {"start_s": gateway.start_s, "rss_start_mib": gateway.rss_bytes() / 2**20}
    engine.behave()
    figures |= header_limit(gateway) | body_limit(gateway)
    figures |= leavers(gateway, engine) | silent_leavers(gateway, engine)
    return figures | stalled_reader(gateway, engine)


def _ask_and_hold(gateway: Gateway, *, stream: bool = True) -> socket.socket:
    wire = socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S)
    wire.sendall(request(gateway.key, stream=stream))
    return wire


def _leave(wires: list[socket.socket], engine: Engine) -> float:
    before = engine.stats()["aborted"]
    with punctual():
        left_ns = time.monotonic_ns()
        for wire in wires:
            wire.close()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        stats = engine.stats()
        if stats["aborted"] - before >= len(wires):
            return (stats["last_abort_ns"] - left_ns) / 1e6
        time.sleep(0.01)
    return NEVER_MS


def _status(answer: bytes) -> int:
    return int(answer[9:12]) if answer[:5] == b"HTTP/" and answer[9:12].isdigit() else 0
