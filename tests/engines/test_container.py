"""The words that start an engine in a container."""

from __future__ import annotations

import csv
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.engines.container import BY_PATH, Mount, fill, gpus, image_of, prefix, removal, started
from gemstead.refused import Refused

IMAGE = "vllm/vllm-openai@sha256:" + "0" * 64


def words(tool="docker", vendor="nvidia", devices=("0", "2"), user="1000:1000", **more):
    made = prefix(tool, IMAGE, "vllm", vendor, user=user)
    return fill(
        made,
        name="big-0",
        port=8001,
        vendor=vendor,
        devices=devices,
        env=("VLLM_API_KEY",),
        mounts=(Mount("/models/gemma"),),
        **more,
    )


def after(line, flag):
    return [line[at + 1] for at, word in enumerate(line) if word == flag]


def test_docker_on_two_cards_of_nvidia():
    assert words() == (
        *("docker", "run", "--rm", "--pull=never", "--name", "gemstead-big-0", "--init"),
        *("--label", "gemstead.replica=big-0", "--publish", "127.0.0.1:8001:8001", "--shm-size", "8g"),
        *("--ulimit", "core=0", "--ulimit", "memlock=-1", "--ulimit", "nofile=65536:65536"),
        *("--security-opt", "no-new-privileges", "--cap-drop", "ALL", "--user", "1000:1000"),
        *("--tmpfs", "/tmp/gemstead:rw,exec,mode=1777", "--env", "HOME=/tmp/gemstead"),
        *("--gpus", '"device=0,2"', "--env", "VLLM_API_KEY"),
        *(
            "--mount",
            "type=bind,source=/models/gemma,target=/models/gemma,readonly",
            "--entrypoint",
            "vllm",
            IMAGE,
        ),
    )


@pytest.mark.parametrize(
    ("tool", "vendor", "devices", "said"),
    [
        ("docker", "nvidia", (), ("--gpus", "all")),
        ("docker", "nvidia", ("MIG-1-2",), ("--gpus", '"device=MIG-1-2"')),
        ("podman", "nvidia", ("0", "1"), ("--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1")),
        ("podman", "nvidia", (), ("--device", "nvidia.com/gpu=all")),
        (
            "docker",
            "amd",
            ("0", "1"),
            (
                *(
                    "--device",
                    "/dev/kfd",
                    "--device",
                    "/dev/dri/renderD128",
                    "--device",
                    "/dev/dri/renderD129",
                ),
            ),
        ),
        ("podman", "amd", (), ("--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "keep-groups")),
        ("docker", "intel", ("renderD130",), ("--device", "/dev/dri/renderD130", *BY_PATH)),
        ("docker", "cpu", (), ()),
    ],
)
def test_cards_are_given_by_the_tool(tool, vendor, devices, said):
    assert gpus(tool, vendor, devices) == said


@pytest.mark.parametrize("tool", ["docker", "podman"])
@pytest.mark.parametrize("vendor", ["nvidia", "amd", "intel", "cpu"])
def test_nothing_is_open_to_others_whatever_the_tool_and_the_card(tool, vendor):
    line = words(tool, vendor, devices=())
    assert after(line, "--publish") == ["127.0.0.1:8001:8001"]
    assert "--network" not in line and "--net" not in line and "--privileged" not in line
    assert "--ipc" not in line and "--ipc=host" not in line
    assert "no-new-privileges" in after(line, "--security-opt")
    assert all(mount.endswith(",readonly") for mount in after(line, "--mount"))
    assert "--group-add" not in line or tool == "podman"
    assert not any(word in line for word in ("{gpus}", "{env}", "{mounts}"))
    assert line[-1] == IMAGE


def test_docker_is_told_groups_by_their_numbers_and_podman_keeps_the_caller_s():
    """An image need not know the host's groups by name; llama.cpp's do not."""
    line = prefix("docker", IMAGE, "vllm", "amd", user="1000:1000", groups=("44", "992"))
    assert after(line, "--group-add") == ["44", "992"]
    line = fill(prefix("podman", IMAGE, "vllm", "amd", groups=("992",)), name="a", port=1, vendor="amd")
    assert after(line, "--group-add") == ["keep-groups"]


def test_intel_s_libraries_are_found_before_vllm_starts():
    line = prefix("docker", IMAGE, started("vllm", "intel"), "intel")
    at = line.index("--entrypoint")
    assert line[at + 1 : at + 4] == ("bash", IMAGE, "-c") and line[-1] == "vllm"
    said = subprocess.run(
        ["bash", *line[at + 3 : -1], "echo", "serve", "a b"], capture_output=True, text=True
    )
    assert said.stdout == "serve a b\n", "without oneAPI it starts all the same, with its words as they are"
    assert started("vllm", "nvidia") == ("vllm",) and started("llamacpp", "intel") == ("/app/llama-server",)


def test_podman_refuses_to_keep_the_id_of_root_so_root_is_not_asked_for():
    assert "--userns" not in words("podman", user="")
    assert after(words("podman"), "--userns") == ["keep-id"]


def test_a_secret_is_named_and_never_written():
    assert after(words(), "--env") == ["HOME=/tmp/gemstead", "VLLM_API_KEY"]


@given(st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=("Cs",)), min_size=1))
def test_a_path_arrives_as_it_is_whatever_is_in_it(text):
    [fields] = csv.reader([Mount("/" + text).words[1]])
    assert fields == ["type=bind", f"source=/{text}", f"target=/{text}", "readonly"]


def test_a_container_is_removed_by_its_name():
    assert removal(words()) == ("docker", "rm", "--force", "gemstead-big-0")
    assert removal(words("podman")) == ("podman", "rm", "--force", "--time", "0", "gemstead-big-0")
    assert removal(("/opt/vllm/bin/vllm", "serve", "--name", "x")) == ()
    assert removal(("docker", "run", "image")) == ()


def test_an_engine_has_its_image_for_each_card():
    assert image_of("vllm", "0.32.0", "nvidia") == "vllm/vllm-openai:v0.32.0"
    assert image_of("llamacpp", "b11549", "amd") == "ghcr.io/ggml-org/llama.cpp:server-rocm-b11549"
    assert image_of("llamacpp", "11549", "intel") == "ghcr.io/ggml-org/llama.cpp:server-intel-b11549"
    assert image_of("vllm", "v0.32.0", "intel") == "vllm/vllm-openai-xpu:v0.32.0"
    with pytest.raises(Refused, match=r"published from 0\.26\.0 on, not for 0\.25\.1"):
        image_of("vllm", "0.25.1", "intel")
    with pytest.raises(Refused, match="--container IMAGE"):
        image_of("sglang", "0.5.23", "intel")
    with pytest.raises(Refused, match=r"name ROCm's version.*--container IMAGE"):
        image_of("sglang", "0.5.23", "amd")
    with pytest.raises(Refused, match="name a version"):
        image_of("tgi", "", "nvidia")
