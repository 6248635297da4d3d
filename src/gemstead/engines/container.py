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

from gemstead.catalog.versions import within
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
# Repository and tag of each engine's own image, by engine and vendor of the card; `{version}` is without the `v` or `b`
# that it may be written with. Rendered files and `gemstead engines install --container` read the same lines.
# Sources, read 2026-11: docs.vllm.ai "Installation" (vllm-openai, -rocm, -cpu, -tpu; -xpu with vLLM's pull request
# #49148, which says from which version on); ggml-org/llama.cpp docs/docker.md and .github/workflows/docker.yml (a
# build's tag is `server[-backend]-bNUMBER`); hub.docker.com of lmsysorg and ollama; ghcr.io/huggingface; nvcr.io.
IMAGES = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v{version}",
    ("vllm", "amd"): "vllm/vllm-openai-rocm:v{version}",
    ("vllm", "intel"): "vllm/vllm-openai-xpu:v{version}",
    ("vllm", "google"): "vllm/vllm-tpu:v{version}",
    ("vllm", "cpu"): "vllm/vllm-openai-cpu:v{version}",
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
# The first version that was published there, where that is later than the first that serves Gemma 4.
SINCE = {("vllm", "intel"): "0.26.0"}
# Why nobody can be sure of a tag, though there are images.
UNSURE = {
    ("sglang", "amd"): "SGLang's tags for ROCm name ROCm's version and the card's family, as in "
    "`lmsysorg/sglang:v0.5.18-rocm720-mi30x`, and none was checked with Gemma 4",
}
# oneCCL finds Intel's cards by the names in this folder, which `--device` does not bring along: without it vLLM ends
# with "init_device_fds: condition dir failed" (seen by others with vllm-openai-xpu 0.28.0, 2026-09).
BY_PATH = ("--mount", "type=bind,source=/dev/dri/by-path,target=/dev/dri/by-path,readonly")
# Intel's oneAPI has libraries that its images find only after this; vLLM's own recipes for Intel's cards
# (vllm-project/recipes #753, 2026-08) source it, and where it is not there, nothing is missed.
ONEAPI = (
    "bash",
    "-c",
    '[ ! -r /opt/intel/oneapi/setvars.sh ] || . /opt/intel/oneapi/setvars.sh --force >&2; exec "$0" "$@"',
)


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


def published(engine: str, version: str, vendor: str) -> str:
    """The image that an engine's makers publish for a kind of card; empty: none is known.

    Raises:
        Refused: UNSUPPORTED, for a version before the first that was published for it.
    """
    form = IMAGES.get((engine, vendor), "")
    plain = version.removeprefix("b").removeprefix("v")
    first = SINCE.get((engine, vendor), "")
    if form and first and plain and not within(plain, f">={first}"):
        message = (
            f"{form.partition(':')[0]} is published from {first} on, not for {version}: name a later one"
        )
        raise Refused(Reason.UNSUPPORTED, message)
    return form.format(version=plain)


def image_of(engine: str, version: str, vendor: str) -> str:
    """The engine's own image for a kind of card.

    Raises:
        Refused: UNSUPPORTED, when it publishes none that is known.
    """
    if version and (found := published(engine, version, vendor)):
        return found
    known = sorted({kind for one, kind in IMAGES if one == engine})
    there = (engine, vendor) in IMAGES
    where = f"; it has one for {', '.join(known)}" if known and not there else ""
    what = f"name a version: {engine}==VERSION" if there else "name one yourself: --container IMAGE"
    why = UNSURE.get((engine, vendor), f"no image of {engine} for {vendor} is known{where}")
    raise Refused(Reason.UNSUPPORTED, f"{why}; {what}")


def started(engine: str, vendor: str) -> tuple[str, ...]:
    """The words that start an engine's program in its image, before its own."""
    program = PROGRAMS[engine]
    return (*ONEAPI, program) if (engine, vendor) == ("vllm", "intel") else (program,)


def prefix(
    tool: str,
    image: str,
    program: str | Sequence[str],
    vendor: str,
    *,
    user: str = "",
    groups: Sequence[str] = (),
    memory_bytes: int = 0,
    shm: str = SHM,
    pull: str = "never",
) -> tuple[str, ...]:
    """The words before the engine's own, with `{name}`, `{port}`, `{gpus}`, `{env}` and `{mounts}` left open.

    Args:
        tool: docker or podman.
        program: what is started in it; several words where one starts the other (`started`).
        user: `UID:GID` of the caller, as whom it runs; empty for root: then the image says as whom.
        groups: numbers of the groups that own AMD's and Intel's devices on this host. Docker reads names in the image,
            and llama.cpp's know neither `video` nor `render` (its docs/docker.md); Podman takes the caller's own.
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
    else:
        words += ["--user", user] if user else []
        for group in groups:
            words += ["--group-add", group]
    if memory_bytes:
        words += ["--memory", str(memory_bytes)]
    words += ["--tmpfs", f"{INSIDE_CACHE}:rw,exec,mode=1777", "--env", f"HOME={INSIDE_CACHE}"]
    first, *after = [program] if isinstance(program, str) else program
    words += ["{gpus}", "{env}", "{mounts}", "--entrypoint", first, image, *after]
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
    groups = ("--group-add", "keep-groups") if tool == "podman" else ()  # Docker's are in the prefix
    if vendor == "amd":
        return ("--device", "/dev/kfd", *_nodes(devices), *groups)
    if vendor == "intel":
        return (*_nodes(devices), *BY_PATH, *groups)
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
