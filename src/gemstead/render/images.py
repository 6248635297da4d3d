"""Container images: which one each engine runs in, and how it is pinned.

A tag can be moved by whoever owns it; a digest cannot. Digests that are known come from the lock file (`pins.py`) and
are used; where none is, the tag of an exact version is, and the reader is told how to pin it. `deploy.images` wins over
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gemstead.catalog.engine_versions import engine_facts
from gemstead.engines.container import PROGRAMS
from gemstead.engines.flag import Command
from gemstead.plan.setup import Setup
from gemstead.refused import Reason, Refused

# Repository and tag of each engine's own image, by vendor of the card; `{version}` is the engine's.
IMAGES: dict[tuple[str, str], str] = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v{version}",
    ("vllm", "amd"): "vllm/vllm-openai-rocm:v{version}",
    ("vllm", "google"): "vllm/vllm-tpu:v{version}",
    ("vllm", "cpu"): "vllm/vllm-openai-cpu:v{version}",
    ("sglang", "nvidia"): "lmsysorg/sglang:v{version}",
    ("llamacpp", "nvidia"): "ghcr.io/ggml-org/llama.cpp:server-cuda-{version}",
    ("llamacpp", "amd"): "ghcr.io/ggml-org/llama.cpp:server-rocm-{version}",
    ("llamacpp", "cpu"): "ghcr.io/ggml-org/llama.cpp:server-{version}",
    ("ollama", "nvidia"): "ollama/ollama:{version}",
    ("ollama", "amd"): "ollama/ollama:{version}-rocm",
    ("ollama", "cpu"): "ollama/ollama:{version}",
    ("tgi", "nvidia"): "ghcr.io/huggingface/text-generation-inference:{version}",
    ("tensorrt_llm", "nvidia"): "nvcr.io/nvidia/tensorrt-llm/release:{version}",
}
# What no image can be vouched for, by vendor, or by engine and vendor.
UNKNOWN = {
    "intel": "nobody is known to have run Gemma 4 on Intel's cards (Gaudi, Arc, Max), so no image was checked",
    "sglang amd": "SGLang's tags for ROCm name ROCm's version and the card's family, and none was checked with Gemma 4",
}
Digests = Mapping[str, str]  # "repository:tag" -> "sha256:..."
NONE: Digests = {}


@dataclass(frozen=True, slots=True)
class Image:
    """One image: how it is written in a file, and why it is this one."""

    reference: str
    reason: str

    @property
    def pinned(self) -> bool:
        """Whether nobody can change what it stands for."""
        return "@sha256:" in self.reference


def engine_image(setup: Setup, own: str = "", digests: Digests = NONE) -> Image:
    """The image that a replica runs in; `own` is the user's choice.

    Raises:
        Refused: nobody has said which, and no version is known that serves Gemma 4.
    """
    if own:
        return chosen(own, digests)
    facts = engine_facts(setup.engine)
    if why := UNKNOWN.get(setup.accelerator.vendor) or UNKNOWN.get(
        f"{setup.engine} {setup.accelerator.vendor}"
    ):
        raise Refused(
            Reason.BAD_REQUEST,
            f"{setup.accelerator.name}: {why}; name an image: deploy.images.{setup.engine}",
        )
    version = setup.version or facts.latest_seen
    if not version:
        raise Refused(
            Reason.BAD_REQUEST,
            f"no version of {facts.title} is known to serve it: name one that does, `deploy.images.{setup.engine}`",
        )
    form = IMAGES.get((setup.engine, setup.accelerator.vendor))
    if form is None:
        return Image(
            f"gemstead/{setup.engine}:{version}",
            f"{facts.title} publishes none: build ours, `gemstead render docker`",
        )
    return pinned(
        form.format(version=version),
        f"{facts.title} {version}, the version that the flags were checked against",
        digests,
    )


def in_image(command: Command) -> Command:
    """The command as the engine's own image has it: llama.cpp's server lies in /app there, which is on no PATH."""
    if command.engine != "llamacpp":
        return command
    return replace(command, program=(PROGRAMS["llamacpp"], *command.program[1:]))


def gateway_image(built: str, digests: Digests = NONE) -> Image:
    """Our image of the gateway, which is named by what is in it."""
    return pinned(built, "built by `gemstead render docker`", digests)


def content(*texts: str) -> str:
    """Eight hex digits of what an image is built from."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def chosen(own: str, digests: Digests = NONE) -> Image:
    """The user's image, by its digest where it names none and the lock file does."""
    digest = digests.get(own, "") if own and "@" not in own else ""
    return Image(f"{own}@{digest}" if digest else own, "as the file says")


def pinned(reference: str, reason: str, digests: Digests = NONE) -> Image:
    """The image by its digest where that is known."""
    if digest := digests.get(reference):
        return Image(f"{reference}@{digest}", reason)
    return Image(reference, f"{reason}; by tag only: gemstead render --pin")
