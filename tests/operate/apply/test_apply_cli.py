"""`gemstead apply` and `gemstead diff --live` as a user types them, against a cluster's API in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.cli.main import main
from gemstead.testing.cluster import ClusterApi


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterApi]:
    with ClusterApi() as found:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "dev",
            "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "me"}}],
            "clusters": [{"name": "dev", "cluster": {"server": found.url}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        (tmp_path / "gemstead.yaml").write_text("models: [{name: gemma-4-e4b}]\n")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.chdir(tmp_path)
        yield found


def test_a_plan_is_applied_changed_and_taken_back(
    api: ClusterApi, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["--gpu", "L4", "--count", "2"]
    assert main(["apply", "kubernetes", "--dry-run", *plan]) == 1
    assert not api.there("Deployment")
    assert main(["apply", "kubernetes", "--yes", *plan]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "applied  Namespace gemstead" in said
    assert "applied and ready" in said
    replicas = api.there("Deployment")["gemstead-gemma-4-e4b"]["spec"]["replicas"]
    assert main(["diff", "kubernetes", "--live", *plan]) == 0, capsys.readouterr()
    assert main(["apply", "kubernetes", "--yes", "--gpu", "L4", "--count", "1", "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert report["failure"] == ""
    assert api.there("Deployment")["gemstead-gemma-4-e4b"]["spec"]["replicas"] != replicas
    assert main(["apply", "kubernetes", "--rollback", "--yes", *plan]) == 0, capsys.readouterr()
    assert api.there("Deployment")["gemstead-gemma-4-e4b"]["spec"]["replicas"] == replicas


def test_a_failure_says_what_was_not_done_and_again_finishes(
    api: ClusterApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.fail_at = 6
    assert main(["apply", "kubernetes", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "failed:" in said
    assert "etcdserver" in said
    assert "not applied: " in said
    assert "The same command again goes on" in said
    assert main(["apply", "kubernetes", "--yes"]) == 0


def test_nobody_there_to_ask_is_said(api: ClusterApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "kubernetes"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert api.changes == 0


def test_a_target_of_files_only_is_said(api: ClusterApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "docker"]) == 2
    assert "files only" in capsys.readouterr().err


def test_no_cluster_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert main(["apply", "kubernetes", "--yes"]) == 1
    assert "Traceback" not in capsys.readouterr().err
