"""Cards that are not NVIDIA's: which image, which device, which group, and what is refused for want of facts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.kubernetes.build import built
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

ONEAPI = "/opt/intel/oneapi/setvars.sh"


def bundle(name: str, gpu: str, count: int = 1, model: str = "gemma-4-26b", **more: Any) -> Bundle:
    own = {key: more.pop(key) for key in ("engine", "engine_version", "tensor_parallel") if key in more}
    file = {
        "models": [{"name": model, **own}],
        "deploy": {"hardware": {"gpu": gpu, "count": count}, **more},
    }
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in()))


def engines(made: Bundle) -> dict[str, Any]:
    services = yaml.safe_load(made.files["compose.yaml"])["services"]
    return {name: one for name, one in services.items() if name.startswith("gemma")}


def pod(made: Bundle) -> dict[str, Any]:
    found = [one for one in built(made.files) if one["kind"] == "Deployment"]
    found = [one for one in found if one["metadata"]["labels"]["app.kubernetes.io/component"] == "engine"]
    spec: dict[str, Any] = found[0]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    ("gpu", "engine", "image"),
    [
        ("MI300X", "vllm", "vllm/vllm-openai-rocm:v"),
        ("MI300X", "llamacpp", "ghcr.io/ggml-org/llama.cpp:server-rocm-b"),
        ("MI300X", "ollama", "ollama/ollama:0.21.0-rocm"),
        ("B70", "vllm", "vllm/vllm-openai-xpu:v"),
        ("B70", "auto", "ghcr.io/ggml-org/llama.cpp:server-intel-b"),
        ("TPU v6e", "vllm", "vllm/vllm-tpu:v"),
    ],
)
def test_each_maker_s_cards_have_an_image_of_their_own(gpu: str, engine: str, image: str) -> None:
    made = bundle("compose", gpu, 4, "gemma-4-e4b", engine=engine)
    assert all(one["image"].startswith(image) for one in engines(made).values())


@pytest.mark.parametrize("gpu", ["MI300X", "B70"])
def test_on_one_host_no_two_replicas_can_open_the_same_card(gpu: str) -> None:
    made = bundle("compose", gpu, 2, tensor_parallel=1)
    first, second = (set(one["devices"]) for one in engines(made).values())
    shared = {"/dev/kfd"} if gpu == "MI300X" else set()
    assert first & second == shared
    assert first - shared == {"${CARD_0:-/dev/dri/renderD128}"}
    assert second - shared == {"${CARD_1:-/dev/dri/renderD129}"}
    for one in engines(made).values():
        (group,) = one["group_add"]
        assert group.startswith("${RENDER_GROUP:?"), (
            "a name would be read in the image, which need not know it"
        )
        assert ("/dev/dri/by-path:/dev/dri/by-path:ro" in one["volumes"]) is (gpu == "B70")
    assert "RENDER_GROUP=\n" in made.files[".env.example"]
    assert "RENDER_GROUP" not in bundle("compose", "L4").files[".env.example"]


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("MI300X", "--device /dev/kfd --device /dev/dri/renderD128 --group-add"),
        ("B70", "--device /dev/dri/renderD128 -v /dev/dri/by-path:/dev/dri/by-path:ro --group-add"),
        ("L4", "--gpus 1"),
    ],
)
def test_the_readme_of_images_gives_each_maker_s_cards_their_own_way(gpu: str, words: str) -> None:
    text = bundle("docker", gpu, model="gemma-4-e4b").files["README.md"]
    assert words in text and ("--gpus" in text) is (gpu == "L4")


def test_intel_s_libraries_are_read_before_vllm_and_compose_leaves_the_words_alone() -> None:
    docker = bundle("docker", "B70", model="gemma-4-e4b", engine="vllm").files[
        "engine-gemma-4-e4b/Dockerfile"
    ]
    assert ONEAPI in docker and 'exec \\"$0\\" \\"$@\\"' in docker
    (one,) = engines(bundle("compose", "B70", model="gemma-4-e4b", engine="vllm")).values()
    script = one["entrypoint"][2]
    assert ONEAPI in script and script.replace("$$", "").count("$") == 0, "Compose would look for a variable"
    container = pod(bundle("kubernetes", "B70", model="gemma-4-e4b", engine="vllm"))["containers"][0]
    assert container["command"][:2] == ["bash", "-c"] and 'exec "$0" "$@"' in container["command"][2]


@pytest.mark.parametrize(("gpu", "resource"), [("MI300X", "amd.com/gpu"), ("B70", "gpu.intel.com/xe")])
def test_in_a_cluster_the_pod_s_user_may_open_its_card_or_the_reader_is_told(gpu: str, resource: str) -> None:
    plain = bundle("kubernetes", gpu)
    assert any("deploy.options.device_groups" in note for note in plain.notes)
    assert "supplementalGroups" not in pod(plain)["securityContext"]
    made = bundle("kubernetes", gpu, options={"device_groups": "44, 992"})
    assert not any("device_groups" in note for note in made.notes)
    assert pod(made)["securityContext"]["supplementalGroups"] == [44, 992]
    assert pod(made)["containers"][0]["resources"]["limits"][resource] == "1"
    assert pod(made)["tolerations"][0]["key"] == resource
    with pytest.raises(Refused, match="no list of numbers"):
        bundle("kubernetes", gpu, options={"device_groups": "render"})
    assert "supplementalGroups" not in pod(bundle("kubernetes", "L4", options={"device_groups": "44"}))


@pytest.mark.parametrize("name", ["docker", "compose", "kubernetes"])
def test_what_was_not_tried_on_intel_s_cards_is_said(name: str) -> None:
    notes = bundle(name, "Intel Arc Pro B60 24GB", model="gemma-4-e4b", engine="vllm").notes
    assert any("not by this project" in note for note in notes)
    assert any("305 s for 31,957" in note for note in notes)


@pytest.mark.parametrize("gpu", ["Gaudi 3", "Intel Arc B580", "Intel Max 1550"])
def test_a_card_of_intel_s_without_figures_is_refused_with_those_that_have_some(gpu: str) -> None:
    with pytest.raises(Refused, match=r"arc-pro-b70.*docs/catalogue\.md"):
        bundle("kubernetes", gpu)


def test_what_no_maker_publishes_is_asked_for() -> None:
    with pytest.raises(Refused, match=r"rocm720-mi30x.*deploy\.images\.sglang"):
        bundle("kubernetes", "MI300X", 2, engine="sglang")
    made = bundle("kubernetes", "MI300X", 2, engine="sglang", images={"sglang": "acme/sglang:rocm"})
    assert pod(made)["containers"][0]["image"] == "acme/sglang:rocm"
    with pytest.raises(Refused, match=r"publish no image for .*L4.*deploy\.images\.transformers"):
        bundle("docker", "L4", model="gemma-4-e2b", engine="transformers")
    with pytest.raises(Refused, match=r"published from 0\.26\.0 on, not for 0\.24\.0"):
        bundle("docker", "B70", model="gemma-4-e4b", engine="vllm", engine_version="0.24.0")


def test_a_tpu_s_pods_go_where_its_chips_are_and_nothing_turns_them_away() -> None:
    more = {
        "cloud": {"project": "acme"},
        "host": "llm.acme.com",
        "kubernetes": {"routes": {"proxies": ["10.129.0.0/23"]}},
    }
    made = bundle("gke", "TPU v6e", 8, "gemma-4-31b", **more)
    asked = pod(made)
    chips = int(asked["containers"][0]["resources"]["limits"]["google.com/tpu"])
    shape = {1: "1x1", 4: "2x2", 8: "2x4"}[chips]
    assert asked["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert asked["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == shape
    (made_by,) = [one for one in built(made.files) if one["kind"] == "ComputeClass"]
    assert made_by["spec"]["priorities"][0]["tpu"] == {
        "type": "tpu-v6e-slice",
        "topology": shape,
        "count": chips,
    }
    pools = bundle("terraform", "TPU v6e", 8, "gemma-4-31b", cloud={"project": "acme"}).files["pools.tf"]
    assert "ct6e-standard" in pools and "nvidia.com/gpu" not in pools, (
        "a taint that no pod of a TPU tolerates"
    )
