"""`gemstead config show` says what is in force and why, and tells no secret."""

from __future__ import annotations

import json

import pytest

from gemstead.cli.main import main

FILE = """\
models:
  - name: gemma-4-e2b
    endpoints:
      - url: http://127.0.0.1:9
        api_key: vault:kv/engines#token
gateway:
  listen: 127.0.0.1:5000
  cors_origins: [https://a.example]
store:
  sources:
    - {match: "google/*", source: "https://ann:hunter2@mirror.example/{repo}"}
"""


@pytest.fixture
def shown(tmp_path, capsys, monkeypatch):
    (tmp_path / "gemstead.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEMSTEAD_GATEWAY__WORKERS", "3")

    def run(*words, code=0):
        assert main(["config", "show", *words]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def test_every_setting_and_where_it_was_said(shown):
    rows = {row["path"]: row for row in json.loads(shown("--json", "--set", "gateway.retries=1"))}
    assert (rows["gateway.listen"]["value"], rows["gateway.listen"]["from"]) == (
        "127.0.0.1:5000",
        "gemstead.yaml:7",
    )
    assert (rows["gateway.workers"]["value"], rows["gateway.workers"]["from"]) == (
        3,
        "GEMSTEAD_GATEWAY__WORKERS",
    )
    assert (rows["gateway.retries"]["value"], rows["gateway.retries"]["from"]) == (1, "--set")
    assert (rows["admin.listen"]["value"], rows["admin.listen"]["from"]) == ("127.0.0.1:4368", "default")
    assert rows["models[0].endpoints[0].api_key"]["value"] == "vault:kv/engines#token"
    assert rows["gateway.cors_origins[0]"]["from"] == "gemstead.yaml:8"
    assert rows["audit.ship"]["value"] == []


def test_what_looks_like_a_secret_is_masked(shown):
    said = shown()
    assert "hunter2" not in said and "https://***@mirror.example/{repo}" in said


def test_a_part_and_what_was_said(shown):
    said = shown("gateway", "--said")
    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        "gateway.listen",
        "gateway.workers",
        "gateway.cors_origins[0]",
    ]
    assert "no setting gatway" in shown("gatway", code=1)
