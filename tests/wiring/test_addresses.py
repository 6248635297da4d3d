"""Addresses: what the file says, what can be had, and what is said when it cannot."""

from __future__ import annotations

import socket

import pytest

from gemstead.spec.model import Spec
from gemstead.wiring.addresses import base_url, gateway_address, listener, named, reserve, split, warnings
from gemstead.wiring.desired import vertex_routes
from gemstead.wiring.secrets import CannotRun


@pytest.mark.parametrize(
    ("listen", "parts", "url"),
    [
        ("127.0.0.1:4367", ("127.0.0.1", 4367), "http://127.0.0.1:4367"),
        (":4367", ("", 4367), "http://127.0.0.1:4367"),
        ("0.0.0.0:1", ("0.0.0.0", 1), "http://127.0.0.1:1"),
        ("[::1]:1", ("::1", 1), "http://[::1]:1"),
        ("[::]:1", ("::", 1), "http://[::1]:1"),
        ("gemma.internal:80", ("gemma.internal", 80), "http://gemma.internal:80"),
    ],
)
def test_an_address_is_read_and_shown(listen, parts, url):
    assert split(listen) == parts
    assert base_url("http", *parts) == url


def test_under_vertex_ai_the_port_is_the_one_that_it_says():
    said = {"AIP_HTTP_PORT": "8081", "AIP_HEALTH_ROUTE": "/well"}
    vertex = Spec.model_validate({"gateway": {"listen": "0.0.0.0:8080", "keys": "off", "vertex": True}})
    assert gateway_address(vertex, said) == ("0.0.0.0", 8081)
    assert gateway_address(vertex, {}) == ("0.0.0.0", 8080)
    assert vertex_routes(said) == ("/predict", "/well")
    assert gateway_address(Spec(), said)[1] == 4367  # it does not run there
    with pytest.raises(CannotRun, match="AIP_HTTP_PORT"):
        gateway_address(vertex, {"AIP_HTTP_PORT": "http"})


def test_a_reserved_port_stays_ours_and_takes_no_calls():
    held = reserve("127.0.0.1", 0)
    port = held[0].getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    with pytest.raises(OSError, match="in use"):
        reserve("127.0.0.1", port)
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    for sock in held:
        sock.close()


def test_a_worker_like_program_on_the_port_is_noticed():
    """Any program of the same user may join a SO_REUSEPORT address: it must not get our calls."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            reserve("127.0.0.1", other.getsockname()[1])


def test_every_interface_is_one_port():
    held = reserve("", 0)
    assert len({sock.getsockname()[1] for sock in held}) == 1
    for sock in held:
        sock.close()


def test_a_taken_port_says_what_to_set():
    with listener("127.0.0.1", 0) as other:
        host, port = other.getsockname()
        with pytest.raises(CannotRun) as refused, named("admin.listen", host, port):
            listener(host, port)
    assert "another program has this port" in str(refused.value)
    assert "--set admin.listen=" in str(refused.value)


@pytest.mark.parametrize(
    ("gateway", "admin", "words"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", []),
        ("[::1]:1", "localhost:2", []),
        ("0.0.0.0:1", "127.0.0.1:2", ["without TLS"]),
        (":1", "0.0.0.0:2", ["without TLS", "metrics"]),
    ],
)
def test_wider_than_loopback_is_warned_about(gateway, admin, words):
    found = warnings(Spec.model_validate({"gateway": {"listen": gateway}, "admin": {"listen": admin}}))
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))
