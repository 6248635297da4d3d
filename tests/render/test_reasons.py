"""Whatever was decided says why, in every target: each flag, each figure of the plan, beside where it stands."""

from __future__ import annotations

import re

import pytest

from gemstead.catalog.catalogue import built_in
from gemstead.render import target
from gemstead.render.deployment import Deployment
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

CLOUD = {"project": "acme-llm", "region": "europe-west4"}
ENGINES = [("vllm", "bucket-stream"), ("vllm", "image"), ("vllm", "bucket-fuse"), ("llamacpp", "bucket-fuse")]
TARGETS = ("docker", "compose", "kubernetes", "gke", "helm", "cloudrun", "vertex")


def planned(engine: str, kind: str) -> Deployment:
    file = {
        "models": [{"name": "gemma-4-e4b", "engine": engine}],
        "deploy": {
            "hardware": {"gpu": "L4", "count": 1},
            "host": "llm.acme.com",
            "cloud": CLOUD,
            "cache": {"kind": kind, "bucket": "" if kind == "image" else "acme-models"},
            "kubernetes": {"routes": {"proxies": ["10.129.0.0/23"]}},
        },
    }
    return deployment(Spec.model_validate(file, strict=False), built_in())


def comments(text: str) -> str:
    """All comments as one line, as if nothing had been wrapped."""
    found = [line.strip().lstrip("#").strip() for line in text.splitlines() if line.strip().startswith("#")]
    return re.sub(r"\s+", " ", " ".join(found))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("engine", "kind"), ENGINES)
def test_each_decision_says_why_where_it_stands(engine: str, kind: str, name: str) -> None:
    if name == "vertex" and (engine != "vllm" or kind == "bucket-fuse"):
        pytest.skip("Vertex AI runs vLLM and SGLang, with weights in the image or streamed")
    deployed = planned(engine, kind)
    (pool,) = deployed.pools
    files = target(name).render(deployed).files
    holders = {
        path: text for path, text in files.items() if "--served-model-name" in text or "--alias" in text
    }
    assert holders
    reasons = {flag.name: flag.reason for flag in pool.command.flags}
    for path, text in holders.items():
        said = comments(text)
        for flag, why in reasons.items():
            if flag.startswith("--hf-") and flag not in text:
                continue  # a file takes the repository's place, and says so itself
            assert re.sub(r"\s+", " ", why) in said, f"{path}: {flag} does not say why"
        if name != "docker":
            for flag in ("--load-format", "--safetensors-load-strategy", "--mmproj"):
                assert text.count(flag) == 0 or any(
                    flag in line and above.strip().startswith("#")
                    for above, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
                ), f"{path}: {flag} has no reason above it"
    if name in ("compose", "kubernetes", "gke"):
        everything = comments("\n".join(files.values()))
        for reason in (pool.needs.memory_gib.reason, pool.startup.reason, pool.drain_s.reason):
            assert re.sub(r"\s+", " ", reason) in everything
