"""A package that a setting needs and that is not installed is said before a worker finds out by dying."""

from __future__ import annotations

import sys

import pytest

from gemstead.spec.load import parse
from gemstead.wiring.extras import need
from gemstead.wiring.limits import store_url
from gemstead.wiring.secrets import CannotRun
from gemstead.wiring.sharing import sharing


def test_what_is_installed_is_passed_over_and_what_is_not_is_named() -> None:
    need(("json",), "shared", "limits.store")
    with pytest.raises(
        CannotRun,
        match=r"^limits.store needs the package nosuchpackage, .*: pip install 'gemstead\[shared\]'$",
    ):
        need(("json", "nosuchpackage"), "shared", "limits.store")


@pytest.mark.parametrize(
    ("url", "package"), [("redis://h/0", "redis"), ("valkey://h", "redis"), ("postgresql://h/x", "asyncpg")]
)
def test_a_store_of_limits_needs_its_package(monkeypatch: pytest.MonkeyPatch, url: str, package: str) -> None:
    assert store_url(url) == url
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(CannotRun, match=package):
        store_url(url)


def test_sharing_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    said = parse("traffic: {sharing: {store: env:A, secret: env:B}}").traffic.sharing
    environ = {"A": "redis://h/0", "B": "x" * 32}
    assert sharing(said, environ, None) is not None
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(CannotRun, match=r"traffic.sharing.store needs the package redis"):
        sharing(said, environ, None)
