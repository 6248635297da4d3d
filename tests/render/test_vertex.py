"""Vertex AI: every request is what Google's discovery documents allow, and the container's start is a sound script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

sys.path.insert(0, str(Path(__file__).parent))
from google_schemas import faults

PLANS = [
    ("gemma-4-e4b", "vllm", "L4", 1, {}),
    ("gemma-4-31b", "vllm", "H100", 8, {"bucket": "acme-models"}),
    ("gemma-4-26b-a4b", "sglang", "RTX PRO 6000", 2, {}),
]
TYPES = {
    "model.yaml": "aiplatform.v1.UploadModelRequest",
    "endpoint.yaml": "aiplatform.v1.Endpoint",
    "deploy.yaml": "aiplatform.v1.DeployModelRequest",
}


def rendered(model: str, engine: str, gpu: str, count: int, cache: dict[str, str], **more: Any) -> Bundle:
    file = {
        "models": [{"name": model, "engine": engine}],
        "deploy": {
            "hardware": {"gpu": gpu, "count": count},
            "cache": cache,
            "cloud": {"project": "acme-llm", "region": "europe-west4"},
            **more,
        },
    }
    return target("vertex").render(deployment(Spec.model_validate(file, strict=False), built_in()))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0]}-{plan[1]}")
def test_every_request_is_what_google_takes(plan: Any, tmp_path: Path) -> None:
    bundle = rendered(*plan)
    for path, text in bundle.files.items():
        if (name := TYPES.get(path.rpartition("/")[2])) is not None:
            assert not faults(name, yaml.safe_load(text)), path
        if path.endswith("start.sh"):
            (tmp_path / "start.sh").write_text(text)
            subprocess.run(["bash", "-n", str(tmp_path / "start.sh")], check=True, timeout=20)
        if path.endswith("gemstead.yaml"):  # a file that the gateway takes
            spec = Spec.model_validate(yaml.safe_load(text), strict=False)
            assert spec.gateway.vertex
            assert spec.gateway.keys == "off"


def test_the_machine_carries_the_cards_of_a_replica() -> None:
    bundle = rendered("gemma-4-31b", "vllm", "H100", 8, {})
    [path] = [path for path in bundle.files if path.endswith("deploy.yaml")]
    resources = yaml.safe_load(bundle.files[path])["deployedModel"]["dedicatedResources"]
    spec = resources["machineSpec"]
    assert spec["machineType"] == f"a3-highgpu-{spec['acceleratorCount']}g"
    assert 1 <= resources["minReplicaCount"] <= resources["maxReplicaCount"]


def test_another_image_has_another_tag() -> None:
    def tag(**load: Any) -> str:
        bundle = rendered(*PLANS[0], load=load)
        [path] = [path for path in bundle.files if path.endswith("model.yaml")]
        return str(yaml.safe_load(bundle.files[path])["model"]["containerSpec"]["imageUri"])

    assert tag() == tag()
    assert tag(longest_answer_s=60) != tag()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "ollama"}, "one container"),
        ({"gpu": "MI300X"}, "no machine"),
        ({"options": {"rollout": "50,10"}}, "growing shares"),
        ({"cloud": {}}, "deploy.cloud.project"),
    ],
)
def test_what_vertex_has_not_is_refused(change: dict[str, Any], says: str) -> None:
    more = {name: value for name, value in change.items() if name in ("options", "cloud")}
    with pytest.raises(Refused, match=says):
        rendered("gemma-4-e4b", change.get("engine", "vllm"), change.get("gpu", "L4"), 1, {}, **more)


@pytest.mark.parametrize("first", ["engine", "gateway"])
def test_when_one_part_ends_the_container_ends(first: str, tmp_path: Path) -> None:
    """The start script with two stand-ins: whichever ends, the other is ended and the code is told."""
    bundle = rendered(*PLANS[0])
    [text] = [text for path, text in bundle.files.items() if path.endswith("start.sh")]
    long, short = "sleep 60", "bash -c 'sleep 0.2; exit 7'"
    lines = text.splitlines()
    at = [number for number, line in enumerate(lines) if line.endswith(" &")]
    lines[at[0]] = (short if first == "engine" else long) + " &"
    lines[at[1]] = (short if first == "gateway" else long) + " &"
    (tmp_path / "start.sh").write_text("\n".join(lines) + "\n")
    done = subprocess.run(["bash", str(tmp_path / "start.sh")], timeout=20, check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0]}-{plan[1]}")
def test_the_gateway_beside_the_engine_is_compiled_from_exact_versions(plan: Any) -> None:
    files = rendered(*plan).files
    (folder,) = {path.partition("/")[0] for path in files if path.count("/")}
    text = files[f"{folder}/Dockerfile"]
    assert "HATCH_BUILD_HOOK_ENABLE_MYPYC=1" in text and text.count("--require-hashes") == 2
    assert "uv" not in text.split() and "wheel" not in text
    ignored = files[f"{folder}/.dockerignore"]
    for path in ("build.txt", "requirements.txt", "source/README"):
        assert files[f"{folder}/{path}"]
        assert f"!{path.partition('/')[0]}\n" in ignored
    last = text.rpartition("\nFROM ")[2]
    assert "pip" not in last and "COPY --from=build /gemstead /opt/gemstead" in last


def test_another_list_of_packages_is_another_image() -> None:
    def named(**more: Any) -> str:
        file = {
            "models": [{"name": "gemma-4-e4b", "engine": "vllm"}],
            "deploy": {"hardware": {"gpu": "L4", "count": 1}, "cloud": {"project": "acme"}},
            **more,
        }
        made = target("vertex").render(deployment(Spec.model_validate(file, strict=False), built_in()))
        model = yaml.safe_load(next(text for path, text in made.files.items() if path.endswith("model.yaml")))
        return str(model["model"]["containerSpec"]["imageUri"])

    assert named() == named() != named(limits={"store": "env:REDIS_URL"})
