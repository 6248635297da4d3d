"""What fields must agree on."""

from __future__ import annotations

import pytest

from gemstead.spec.checks import check, is_loopback, split_listen
from gemstead.spec.fault import SpecError
from gemstead.spec.load import parse
from gemstead.spec.model import Spec

OK = [
    "gateway: {keys: off}",
    "gateway: {keys: off, listen: 'localhost:1'}",
    "gateway: {keys: off, listen: '[::1]:1'}",
    "gateway: {listen: ':9000'}",
    "gateway: {listen: ':0'}\nadmin: {listen: ':0'}",
    "gateway: {listen: '10.0.0.1:80'}\nadmin: {listen: '127.0.0.1:80'}",
    "models: [{name: a, aliases: [A]}]",
    "models: [{name: a, endpoints: [{url: 'http://h:1'}, {url: 'http://h:2'}]}]",
    "gateway: {tls: {certificate: c, key: k, client_ca: a, client_certificate: required}}",
]
WRONG = [
    ("gateway: {keys: off, listen: '0.0.0.0:1'}", "gateway.keys: off lets anyone who reaches 0.0.0.0:1 call"),
    ("gateway: {keys: off, listen: ':1'}", "gateway.keys: off lets anyone"),
    ("gateway: {keys: off, listen: 'my-host:1'}", "gateway.keys: off lets anyone"),
    ("gateway: {listen: ':70000'}", "gateway.listen: there is no port 70000"),
    ("admin: {listen: '127.0.0.1:4367'}", "admin.listen: port 4367 is the gateway's"),
    ("admin: {listen: ':4367'}", "admin.listen: port 4367 is the gateway's"),
    ("admin: {listen: 'localhost:4367'}", "admin.listen: port 4367 is the gateway's"),
    ("models: [{name: a}, {name: A}]", "models[1].name: `A` is models[0].name already"),
    (
        "models: [{name: a, aliases: [x]}, {name: b, aliases: [X]}]",
        "models[1].aliases[0]: `X` is models[0].aliases[0]",
    ),
    ("models: [{name: a}, {name: b, aliases: [a]}]", "models[1].aliases[0]: `a` is models[0].name already"),
    ("models: [{name: a, aliases: [x, x]}]", "models[0].aliases[1]: `x` is models[0].aliases[0] already"),
    ("models: [{name: a, engine: external}]", "models[0].engine: external, but there are no endpoints"),
    (
        "models: [{name: a, engine: embedded, endpoints: [{url: 'http://h'}]}]",
        "models[0].engine: embedded, but",
    ),
    (
        "models: [{name: a, file: f, endpoints: [{url: 'http://h'}]}]",
        "models[0].file: has no effect on an engine",
    ),
    (
        "models: [{name: a, replicas: 2, endpoints: [{url: 'http://h'}]}]",
        "models[0].replicas: counts processes",
    ),
    (
        "models: [{name: a, endpoints: [{url: 'http://u:p@h'}]}]",
        "endpoints[0].url: holds a user name or password",
    ),
    ("models: [{name: a, endpoints: [{url: 'http://h/v1/'}]}]", "endpoints[0].url: ends with /v1"),
    (
        "models: [{name: a, endpoints: [{url: 'http://h'}, {url: 'http://h/'}]}]",
        "is the same engine as endpoints[0]",
    ),
    (
        "gateway: {tls: {certificate: c, key: k, client_certificate: required}}",
        "client_certificate: required, but no CA",
    ),
    ("supervise: {backoff_s: 90}", "supervise.backoff_s: 90 is more than backoff_most_s (60)"),
]


def test_the_default_agrees_with_itself() -> None:
    assert check(Spec()) == []


@pytest.mark.parametrize("text", OK)
def test_what_agrees_is_accepted(text: str) -> None:
    parse(text)


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_disagreement_is_said_once_at_its_line(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("gemstead.yaml:")
    assert said in line


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("Localhost", True), ("", False), ("0.0.0.0", False),
     ("10.0.0.1", False), ("localhost.example", False), ("::", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("listen", "parts"), [(":80", ("", 80)), ("[::1]:0", ("::1", 0)), ("a.b:9", ("a.b", 9))]
)
def test_an_address_has_two_parts(listen: str, parts: tuple[str, int]) -> None:
    assert split_listen(listen) == parts
