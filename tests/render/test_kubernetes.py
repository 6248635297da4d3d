"""Kubernetes: whatever the plan, a strict API server takes every object, and they fit each other."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver import faults

from gemstead.catalog.catalogue import built_in
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.kubernetes.build import built
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

Object = dict[str, Any]


def file(gpu: str = "", count: int | None = None, model: str = "gemma-4-31b", **more: Any) -> Object:
    """One model on some cards; `kubernetes`, `spot`, ... go where they belong."""
    hardware: Object = {"gpu": gpu} | ({"count": count} if count else {})
    hardware |= {name: more.pop(name) for name in ("spot", "multi_node") if name in more}
    own = {name: more.pop(name) for name in ("tensor_parallel", "engine", "aliases") if name in more}
    return {"models": [{"name": model, **own}], "deploy": {"hardware": hardware, **more}}


HOST = {"host": "llm.acme.com"}
INFERENCE = {"flavour": "istio", "inference": {}}
EVERYTHING = {
    "scaling": "keda",
    "monitoring": "prometheus-operator",
    "mesh": "istio",
    "issuer": "letsencrypt",
    "secret_store": "vault",
    "hours": [{"timezone": "Europe/Berlin", "replicas": 3}],
    "callers": ["10.0.0.0/8"],
    "runtime_class": "nvidia",
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "routes": {"canary": "gemstead-next", "mirror": "gemstead-shadow", **INFERENCE},
}
FILES: dict[str, Object] = {
    "no file": {},
    "e2b on a processor": file(model="gemma-4-e2b"),
    "e4b on an L4": file("L4", 1, "gemma-4-e4b"),
    "12b on an L40S": file("L40S", 1, "gemma-4-12b"),
    "26b on two": file("RTX PRO 6000", 2, "gemma-4-26b"),
    "31b on eight": file("H100", 8),
    "31b over two nodes": file(
        "L4", 8, multi_node=True, tensor_parallel=8, kubernetes={"cards_per_node": 4}
    ),
    "sglang over two nodes": file(
        "L4", 8, multi_node=True, tensor_parallel=8, engine="sglang", kubernetes={"cards_per_node": 4, "scaling": "hpa"}
    ),
    "amd": file("MI300X", 2, "gemma-4-26b"),
    "tpu": file("TPU v6e", 8),
    "mig": file("h100-sxm/2g.20gb", 3, "gemma-4-e4b"),
    "dra": file("H100", 4, kubernetes={"devices": "dra"}),
    "dra mig": file("h100-sxm/2g.20gb", 3, "gemma-4-e4b", kubernetes={"devices": "dra"}),
    "spot": file("H100", 8, spot=True),
    "ollama": file("L4", 1, "gemma-4-e4b", engine="ollama"),
    "llama.cpp": file("L4", 1, "gemma-4-e4b", engine="llamacpp"),
    "hpa": file("H100", 8, kubernetes={"scaling": "hpa", "most_replicas": 6}),
    "everything": file("H100", 8, aliases=["assistant"], hub_token="env:HF_TOKEN", kubernetes=EVERYTHING, **HOST),
    "linkerd, google's monitoring": file("H100", 8, kubernetes={"mesh": "linkerd", "monitoring": "google"}),
    "canary": file("H100", 8, kubernetes={"rollouts": "canary"}),
    "blue-green": file("H100", 8, kubernetes={"rollouts": "blue-green", "scaling": "keda"}),
    "bucket, mounted": file("H100", 8, cache={"kind": "bucket-fuse", "bucket": "acme-models"}),
    "bucket, streamed": file("H100", 8, cache={"kind": "bucket-stream", "bucket": "s3://acme-models"}),
    "weights in an image": file("H100", 8, registry="ghcr.io/acme", cache={"kind": "image"}),
    "weights as a volume image": file("H100", 8, kubernetes={"model_image": "ghcr.io/acme/gemma:1"}),
    "envoy gateway": file("H100", 8, kubernetes={"routes": {}, "issuer": "le"}, **HOST),
    "kgateway, llm-d": file(
        "H100", 8, kubernetes={"routes": {"flavour": "kgateway", "inference": {"picker": "llm-d"}}}, **HOST
    ),
    "gke": file("H100", 8, spot=True, kubernetes={"routes": {"flavour": "gke", "inference": {
        "objects": "inference.networking.x-k8s.io", "failure": "FailOpen"}, "armor": {
        "template": "projects/acme/locations/europe-west4/templates/strict"}}, "monitoring": "google"},
        **HOST),
    "two models": {
        "models": [{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b", "aliases": ["small"]},
                   {"name": "mine", "endpoints": [{"url": "https://10.0.0.5", "api_key": "env:MINE_KEY"}]}],
        "deploy": {"hardware": {"gpu": "RTX PRO 6000", "count": 4}, "hub_token": "env:HF_TOKEN"},
        "gateway": {"listen": ":4367", "tls": {"certificate": "/a.crt", "key": "/a.key", "client_ca": "/c"}},
    },
    "regions": file(
        "H100", 8, cache={"kind": "image"},
        kubernetes={"regions": [{"name": "us-east", "replicas": 2, "registry": "registry.us.acme.com"},
                                {"name": "burst", "burst": True},
                                {"name": "eu", "sovereign": True, "registry": "registry.eu.acme.com"}]},
    ),
}  # fmt: skip


def bundle(said: Object, name: str = "kubernetes") -> Bundle:
    return target(name).render(deployment(Spec.model_validate(said, strict=False), built_in()))


def objects(said: Object, folder: str = "") -> list[Object]:
    return built(bundle(said).files, folder)


def of(found: list[Object], kind: str) -> list[Object]:
    return [one for one in found if one["kind"] == kind]


def pods(found: list[Object]) -> list[tuple[str, Object]]:
    """(name, pod spec) of everything that makes pods."""
    rows = []
    for one in found:
        spec = one.get("spec", {})
        name = f"{one['kind']}/{one['metadata']['name']}"
        if "template" in spec and "spec" in spec["template"]:
            rows.append((name, spec["template"]["spec"]))
        for part in ("leaderTemplate", "workerTemplate"):
            if part in spec.get("leaderWorkerTemplate", {}):
                rows.append((f"{name}/{part}", spec["leaderWorkerTemplate"][part]["spec"]))
    return rows


@pytest.mark.parametrize("name", FILES)
def test_a_strict_server_takes_every_object(name: str) -> None:
    found = [fault for one in objects(FILES[name]) for fault in faults(one)]
    assert not found, "\n".join(found)
