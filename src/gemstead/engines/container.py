"""An engine in a container: the words that start one, as Docker or Podman expects them. Values in, words out.

`prefix` gives the words before the engine's own, with places left open; `fill` closes them for one replica: its
name, its port, its cards, the names of its variables and the folders that it reads. The container has its replica's
name, so that it can be found and removed however its client ended (`removal`), and removes itself when its engine
ends.

What is always so: the image is named by digest where one is known; the engine's port is published on 127.0.0.1 only;
what it reads is mounted read-only; it runs as the user who started it, may gain no rights, and is not on the host's
network. It shares memory of its own size with its workers (`--shm-size`), because NCCL needs it; `--ipc=host` would
share the host's with everybody. Cards are pinned by the container tool, not only by a variable that the engine may
ignore.

Sources: docs.docker.com "docker run" (`--gpus '"device=0,2"'`); podman-run(1) and the CDI names of the NVIDIA
container toolkit (`nvidia.com/gpu=0`); rocm.docs.amd.com "Running ROCm containers" (/dev/kfd, /dev/dri, groups video
and render); docs.vllm.ai "Using Docker" (shared memory). Read 2026-11; run only against a recorded stand-in, for
want of a container service and a card on the machine where this was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemstead.refused import Reason, Refused

NAME = "gemstead-{name}"
SHM = "8g"  # between an engine's workers; an upper bound, taken as it is used
INSIDE_CACHE = "/tmp/gemstead"  # noqa: S108  # where what the engine itself writes goes: a file system in memory
WITH_OWN_WORD = ("{env}", "{mounts}", "{gpus}")
PROGRAMS = {  # engine: the program in its image
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "/app/llama-server",
    "ollama": "ollama",
    "tgi": "text-generation-launcher",
    "tensorrt_llm": "trtllm-serve",
    "transformers": "transformers",
}
_IMAGES = {  # engine, vendor: its own published image
    ("vllm", "nvidia"): "vllm/vllm-openai:v{version}",
    ("vllm", "amd"): "vllm/vllm-openai-rocm:v{version}",
    ("sglang", "nvidia"): "lmsysorg/sglang:v{version}",
    ("llamacpp", "nvidia"): "ghcr.io/ggml-org/llama.cpp:server-cuda-b{version}",
    ("llamacpp", "amd"): "ghcr.io/ggml-org/llama.cpp:server-rocm-b{version}",
    ("llamacpp", "intel"): "ghcr.io/ggml-org/llama.cpp:server-intel-b{version}",
    ("llamacpp", "cpu"): "ghcr.io/ggml-org/llama.cpp:server-b{version}",
    ("ollama", "nvidia"): "ollama/ollama:{version}",
    ("ollama", "amd"): "ollama/ollama:{version}-rocm",
    ("ollama", "cpu"): "ollama/ollama:{version}",
    ("tgi", "nvidia"): "ghcr.io/huggingface/text-generation-inference:{version}",
    ("tgi", "amd"): "ghcr.io/huggingface/text-generation-inference:{version}-rocm",
    ("tensorrt_llm", "nvidia"): "nvcr.io/nvidia/tensorrt-llm/release:{version}",
}


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host that the engine sees under the same path."""

    path: str
    writable: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """`--mount`, and not `-v`: a path may hold a colon, and one that is missing is an error."""
        return (
            "--mount",
            f"type=bind,{_field('source', self.path)},{_field('target', self.path)}"
            + ("" if self.writable else ",readonly"),
        )


def image_of(engine: str, version: str, vendor: str) -> str:
    """The engine's own image for a kind of card.

    Raises:
        Refused: UNSUPPORTED, when it publishes none that is known.
    """
    form = _IMAGES.get((engine, vendor))
    if form is None or not version:
        known = sorted({vendor for one, vendor in _IMAGES if one == engine})
        where = f"; it has one for {', '.join(known)}" if known and form is None else ""
        what = f"name a version: {engine}==VERSION" if form else "name one yourself: --container IMAGE"
        raise Refused(Reason.UNSUPPORTED, f"no image of {engine} for {vendor} is known{where}; {what}")
    return form.format(version=version.removeprefix("b").removeprefix("v"))


def prefix(
    tool: str,
    image: str,
    program: str,
    vendor: str,
    *,
    user: str = "",
    memory_bytes: int = 0,
    shm: str = SHM,
    pull: str = "never",
) -> tuple[str, ...]:
    """The words before the engine's own, with `{name}`, `{port}`, `{gpus}`, `{env}` and `{mounts}` left open.

    Args:
        tool: docker or podman.
        user: `UID:GID` of the caller, as whom it runs; empty for root: then the image says as whom.
        memory_bytes: the most memory it may take; 0: no bound.
        pull: whether the tool may fetch the image: `never` for one that was installed, `missing` else.
    """
    words = [tool, "run", "--rm", f"--pull={pull}", "--name", NAME]
    if tool != "podman":  # for which it is a package that may be missing, and then nothing starts
        words.append("--init")
    words += ["--label", "gemstead.replica={name}"]
    words += ["--publish", "127.0.0.1:{port}:{port}"]
    words += ["--shm-size", shm]
    if (
        tool != "podman"
    ):  # its containers inherit ours, and one word of `--ulimit` brings in others that may be refused
        words += ["--ulimit", "core=0", "--ulimit", "memlock=-1", "--ulimit", "nofile=65536:65536"]
    words += ["--security-opt", "no-new-privileges", "--cap-drop", "ALL"]
    if tool == "podman":
        words += ["--userns", "keep-id"] if user else []  # Podman refuses it to root
        if vendor in ("nvidia", "amd", "intel"):
            words += [
                "--security-opt",
                "label=disable",
            ]  # SELinux: devices, and folders that are mounted read-only
    elif user:
        words += ["--user", user]
    if memory_bytes:
        words += ["--memory", str(memory_bytes)]
    words += ["--tmpfs", f"{INSIDE_CACHE}:rw,exec,mode=1777", "--env", f"HOME={INSIDE_CACHE}"]
    words += ["{gpus}", "{env}", "{mounts}", "--entrypoint", program, image]
    return tuple(words)


def fill(
    words: Sequence[str],
    *,
    name: str,
    port: int,
    vendor: str = "cpu",
    devices: Sequence[str] = (),
    env: Sequence[str] = (),
    mounts: Sequence[Mount] = (),
) -> tuple[str, ...]:
    """The prefix of one replica. `env` are names only: their values come from the client's own environment, and so
    stand in no list of processes."""
    tool = words[0].rpartition("/")[2]
    open_: dict[str, tuple[str, ...]] = {
        "{gpus}": gpus(tool, vendor, devices),
        "{env}": tuple(word for one in env for word in ("--env", one)),
        "{mounts}": tuple(word for one in mounts for word in one.words),
    }
    filled: list[str] = []
    for word in words:
        filled += open_.get(word, (word.replace("{name}", name).replace("{port}", str(port)),))
    return tuple(filled)


def gpus(tool: str, vendor: str, devices: Sequence[str]) -> tuple[str, ...]:
    """The words that give a container its cards and no others; none of `devices` means all there are.

    A card of NVIDIA's is an index, a `GPU-` or a `MIG-` UUID; of AMD's and Intel's the number of its render node
    (`renderD128` or 128) or an index, which counts from there.
    """
    if vendor == "nvidia":
        if tool == "podman":
            return tuple(
                word for one in devices or ("all",) for word in ("--device", f"nvidia.com/gpu={one}")
            )
        which = f'"device={",".join(devices)}"' if devices else "all"
        return ("--gpus", which)
    if vendor == "amd":
        groups = (
            ("--group-add", "keep-groups")
            if tool == "podman"
            else ("--group-add", "video", "--group-add", "render")
        )
        return ("--device", "/dev/kfd", *_nodes(devices), *groups)
    if vendor == "intel":
        groups = ("--group-add", "keep-groups") if tool == "podman" else ("--group-add", "render")
        return (*_nodes(devices), *groups)
    return ()


def _nodes(devices: Sequence[str]) -> tuple[str, ...]:
    if not devices:
        return ("--device", "/dev/dri")
    numbers = [int(one.removeprefix("renderD")) for one in devices]
    # The kernel numbers render nodes from 128 (drivers/gpu/drm/drm_file.c).
    return tuple(
        word
        for number in numbers
        for word in ("--device", f"/dev/dri/renderD{number if number >= 128 else number + 128}")
    )


def removal(argv: Sequence[str]) -> tuple[str, ...]:
    """The command that removes the container of `argv`, whatever became of its client; empty: it starts none."""
    words = list(argv)
    if len(words) < 3 or words[0].rpartition("/")[2] not in ("docker", "podman") or words[1] != "run":
        return ()
    at = words.index("--name") if "--name" in words else len(words)
    if at + 1 >= len(words):
        return ()
    at_once = (
        ("--time", "0") if words[0].endswith("podman") else ()
    )  # it was asked before; Podman waits 10 s by itself
    return (words[0], "rm", "--force", *at_once, words[at + 1])


def visible(env: Mapping[str, str]) -> tuple[str, ...]:
    """The cards that a launch's variables name."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        if env.get(name):
            return tuple(env[name].split(","))
    return ()


def _field(name: str, value: str) -> str:
    """One field of a `--mount`, which is read as CSV: a comma or a quote in it is quoted."""
    text = f"{name}={value}"
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
