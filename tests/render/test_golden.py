"""What is rendered, reviewed as files: every case below has a folder under tests/golden/.

After a change that is meant, write them anew and look at the difference:
WRITE_GOLDEN=write python -m pytest tests/render/test_golden.py && git diff tests/golden
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import gemstead
from gemstead.catalog.catalogue import built_in
from gemstead.render import target
from gemstead.render.bundle import Bundle, diff
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

GOLDEN = Path(__file__).parents[1] / "golden"
ONE_GPU = {"models": [{"name": "gemma-4-e4b"}], "deploy": {"hardware": {"gpu": "L4", "count": 1}}}
EIGHT: dict[str, Any] = {
    "models": [{"name": "gemma-4-31b"}],
    "deploy": {
        "registry": "registry.acme.com/llm",
        "host": "llm.acme.com",
        "hardware": {"gpu": "H100", "count": 8},
    },
}
NO_GPU = {"models": [{"name": "gemma-4-e2b"}]}
OLLAMA = {
    "models": [{"name": "gemma-4-e4b", "engine": "ollama"}],
    "deploy": {"hardware": {"gpu": "L4", "count": 1}, "cache": {"kind": "image"}},
}
CLUSTER = {
    "models": [{"name": "gemma-4-31b", "aliases": ["assistant"]}],
    "deploy": {
        "registry": "registry.acme.com/llm",
        "host": "llm.acme.com",
        "hub_token": "env:HF_TOKEN",
        "hardware": {"gpu": "H100", "count": 8},
        "kubernetes": {
            "scaling": "keda",
            "hours": [{"timezone": "Europe/Berlin", "replicas": 3}],
            "monitoring": "prometheus-operator",
            "mesh": "istio",
            "issuer": "letsencrypt",
            "secret_store": "vault",
            "routes": {"flavour": "istio", "inference": {}, "canary": "gemstead-next"},
            "regions": [
                {"name": "us-east", "replicas": 2},
                {"name": "burst", "burst": True, "url": "https://burst.acme.com", "api_key": "env:BURST_KEY"},
            ],
        },
    },
}
GKE = {
    "models": [{"name": "gemma-4-31b"}],
    "deploy": {
        "registry": "europe-west4-docker.pkg.dev/acme/llm",
        "host": "llm.acme.com",
        "hardware": {"gpu": "H100", "spot": True},
        "cloud": {"project": "acme", "region": "europe-west4"},
        "kubernetes": {"scaling": "hpa", "routes": {"proxies": ["10.129.0.0/23"]}},
    },
}
SEVERAL = {
    "models": EIGHT["models"],
    "ledger": {"store": "env:GEMSTEAD_STORE_URL", "secret": "env:GEMSTEAD_STORE_SECRET"},
    "deploy": {
        **EIGHT["deploy"],
        "gateways": 3,
        "kubernetes": {
            "scaling": "hpa",
            "stores": [{"namespace": "postgres", "labels": {"cnpg.io/cluster": "gemstead"}}],
        },
    },
}
CLOUD = {"project": "acme-llm", "region": "europe-west4"}
RUN_BUCKET = {
    "models": [{"name": "gemma-4-e4b"}],
    "deploy": {
        "cloud": CLOUD,
        "hub_token": "env:HF_TOKEN",
        "cache": {"kind": "bucket-fuse", "bucket": "acme-models"},
        "hardware": {"gpu": "L4", "count": 1},
        "options": {"prometheus": True, "ingress": "all"},
    },
}
RUN_BAKED = {
    "models": [{"name": "gemma-4-e4b", "engine": "ollama"}],
    "deploy": {"cloud": CLOUD, "hardware": {"gpu": "L4", "count": 1}},
}
GITOPS = {
    "models": EIGHT["models"],
    "deploy": {
        "registry": "ghcr.io/acme",
        "hardware": {"gpu": "H100", "count": 8},
        "kubernetes": {"regions": [{"name": "eu"}, {"name": "us"}]},
        "options": {
            "git_url": "https://git.acme.com/llm.git",
            "clusters": "staging/test=https://10.0.0.1,production/eu=https://10.1.0.1,production/us=https://10.2.0.1",
        },
    },
}
VERTEX = {
    "models": [{"name": "gemma-4-26b-a4b"}],
    "deploy": {"cloud": CLOUD, "cache": {"bucket": "acme-models"}, "hardware": {"gpu": "H100", "count": 2}},
}
# Folder under tests/golden -> (target, the one file).
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "docker/eight-gpus": ("docker", EIGHT),
    "docker/no-gpu": ("docker", NO_GPU),
    "docker/ollama": ("docker", OLLAMA),
    "compose/eight-gpus": ("compose", EIGHT),
    "compose/no-gpu": ("compose", NO_GPU),
    "terraform/eight-gpus": ("terraform", EIGHT),
    "pipelines/eight-gpus": ("pipelines", EIGHT),
    "gitops/eight-gpus": ("gitops", GITOPS),
    "kubernetes/eight-gpus": ("kubernetes", EIGHT),
    "kubernetes/no-gpu": ("kubernetes", NO_GPU),
    "kubernetes/with-operators": ("kubernetes", CLUSTER),
    "kubernetes/several-gateways": ("kubernetes", SEVERAL),
    "helm/eight-gpus": ("helm", EIGHT),
    "gke/eight-gpus": ("gke", GKE),
    "cloudrun/bucket": ("cloudrun", RUN_BUCKET),
    "cloudrun/baked": ("cloudrun", RUN_BAKED),
    "vertex/streamed": ("vertex", VERTEX),
}


def rendered(name: str, file: dict[str, object]) -> Bundle:
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in()))


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_what_was_reviewed(case: str) -> None:
    bundle, folder = rendered(*CASES[case]), GOLDEN / case
    if os.environ.get("WRITE_GOLDEN") == "write":
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in bundle.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    there = {
        str(file.relative_to(folder)): file.read_text("utf-8") for file in folder.rglob("*") if file.is_file()
    }
    assert not diff(there, bundle.files), "".join(one.text for one in diff(there, bundle.files))[:4000]


@pytest.mark.parametrize("case", CASES)
def test_the_same_plan_gives_the_same_bytes(case: str) -> None:
    first, second = rendered(*CASES[case]), rendered(*CASES[case])
    assert list(first.files.items()) == list(second.files.items())


def test_no_folder_of_an_old_case_is_left() -> None:
    known = set(CASES)
    assert {str(folder.relative_to(GOLDEN)) for folder in GOLDEN.glob("*/*")} == known


def test_golden_files_name_the_version_that_is_here() -> None:
    assert gemstead.__version__ in (GOLDEN / "docker/no-gpu/gateway/Dockerfile").read_text("utf-8")
