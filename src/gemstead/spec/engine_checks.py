"""What the fields of a model's engine (`engines.py`) must agree on. Each check returns faults.

What needs an engine's flag list or the catalogue is refused where the launch is planned.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemstead.spec.fault import Fault, Path
from gemstead.spec.model import ModelSpec

GPU_ENGINES = ("vllm", "sglang", "llamacpp", "ollama", "tgi", "tensorrt_llm", "transformers")
SPREAD = (
    "vllm",
    "sglang",
    "llamacpp",
    "tgi",
    "tensorrt_llm",
)  # those that one replica of takes several cards
LORA = ("auto", "vllm", "sglang")
# Said by Gemstead alone: where the engine listens, who may call it, what it is called.
OURS = frozenset(
    [
        "--host",
        "--port",
        "--api-key",
        "--api-keys",
        "--served-model-name",
        "--alias",
        "--hostname",
        "--root-path",
        "--uds",
        "--ssl-keyfile",
        "--ssl-certfile",
        "--tensor-parallel-size",
        "--tp-size",
        "--tp",
        "--num-shard",
        "--tp_size",
        "--model",
        "--model-path",
        "--model-id",
        "--lora-modules",
        "--lora-paths",
        "--enable-lora",
    ]
)


def check(at: Path, model: ModelSpec) -> Iterator[Fault]:
    """Every disagreement; no fault, no entry."""
    if model.endpoints:
        yield from _elsewhere(at, model)
        return
    engine = model.engine
    if engine in ("vllm", "sglang", "tgi", "tensorrt_llm", "transformers") and model.file:
        yield Fault(
            (*at, "file"),
            f"is a GGUF file, which {engine} does not load",
            "use `checkpoint`, or engine llamacpp",
        )
    if engine == "embedded":
        yield from _only_planned(at, model)
    if model.checkpoint and model.quantization:
        yield Fault(
            (*at, "quantization"), "and `checkpoint` both say which weights", "leave out one of the two"
        )
    if model.python and model.image:
        yield Fault((*at, "image"), "and `python` both say where it runs", "leave out one of the two")
    if model.draft == "off" and model.draft_tokens:
        yield Fault((*at, "draft_tokens"), "has no effect with `draft: off`", "leave out one of the two")
    if model.tensor_parallel and model.tensor_parallel > 1 and engine not in ("auto", *SPREAD):
        yield Fault((*at, "tensor_parallel"), f"{engine} runs a replica on one card", "leave it out")
    if model.adapters and engine not in LORA:
        yield Fault((*at, "adapters"), f"are not loaded by {engine} here", "use engine vllm")
    if model.adapters_load == "on_demand" and engine not in ("auto", "vllm"):
        yield Fault((*at, "adapters_load"), "on_demand is vLLM's", "leave it out, or use engine vllm")
    yield from _flags(at, model)


def _elsewhere(at: Path, model: ModelSpec) -> Iterator[Fault]:
    for name in (
        "engine_version",
        "python",
        "image",
        "checkpoint",
        "quantization",
        "tensor_parallel",
        "draft_tokens",
    ):
        if getattr(model, name) is not None:
            yield Fault((*at, name), "has no effect on an engine that runs elsewhere", "leave it out")
    if model.flags:
        yield Fault((*at, "flags"), "has no effect on an engine that runs elsewhere", "leave it out")
    for j, endpoint in enumerate(model.endpoints):
        served = endpoint.served_model or model.name
        if endpoint.dialect == "ollama" and served.casefold().endswith("cloud"):
            yield Fault(
                (*at, "endpoints", j, "served_model"),
                f"`{served}` sends prompts to somebody else's machine",
                "use a local tag, such as gemma4:31b",
            )


def _only_planned(at: Path, model: ModelSpec) -> Iterator[Fault]:
    for name in ("python", "image", "checkpoint", "engine_version", "tensor_parallel", "draft_tokens"):
        if getattr(model, name) is not None:
            yield Fault(
                (*at, name), "has no effect on the embedded engine", "leave it out, or name another engine"
            )
    if model.flags:
        yield Fault(
            (*at, "flags"), "the embedded engine takes none", "use engine llamacpp for llama-server's own"
        )


def _flags(at: Path, model: ModelSpec) -> Iterator[Fault]:
    for j, flag in enumerate(model.flags):
        name = flag.replace("=", " ").split(" ", 1)[0]
        if name in OURS:
            yield Fault((*at, "flags", j), f"{name} is set by Gemstead", "leave it out")
        elif name == "--trust-remote-code":
            yield Fault(
                (*at, "flags", j),
                "--trust-remote-code runs whatever a repository holds",
                "Gemma 4 does not need it",
            )
