"""Tokens, kubeconfigs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemstead.operate.cluster.access import CannotReach, from_kubeconfig, in_cluster

CONFIG = """\
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u, namespace: models}}
- {name: other, context: {cluster: c, user: program}}
clusters:
- {name: c, cluster: {server: "https://10.0.0.1:6443/", insecure-skip-tls-verify: true}}
users:
- {name: u, user: {tokenFile: token}}
- {name: program, user: {exec: {command: gke-gcloud-auth-plugin}}}
"""


def test_a_kubeconfigs_current_context_counts_and_its_token_is_read_each_time(tmp_path: Path):
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "token").write_text("one\n")
    access = from_kubeconfig(tmp_path / "config")
    assert (access.url, access.namespace, access.insecure) == ("https://10.0.0.1:6443", "models", True)
    assert access.headers() == {"authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert access.headers() == {"authorization": "Bearer two"}


@pytest.mark.parametrize(
    ("context", "says"), [("other", "service account's token"), ("nowhere", "no context called 'nowhere'")]
)
def test_what_cannot_be_done_is_said(tmp_path: Path, context: str, says: str):
    (tmp_path / "config").write_text(CONFIG)
    with pytest.raises(CannotReach, match=says):
        from_kubeconfig(tmp_path / "config", context)


def test_a_pod_is_known_by_its_service_account(tmp_path: Path):
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(environ, tmp_path) is None
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("serving\n")
    access = in_cluster(environ, tmp_path)
    assert access is not None
    assert (access.url, access.namespace) == ("https://10.96.0.1:443", "serving")
    assert in_cluster({}, tmp_path) is None


def test_no_secret_is_shown(tmp_path: Path):
    (tmp_path / "config").write_text(CONFIG.replace("tokenFile: token", "token: geheim"))
    assert "geheim" not in repr(from_kubeconfig(tmp_path / "config"))
