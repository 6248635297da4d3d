"""The fields of a model that say which engine runs it here, and how: a part of `models[]`, in a file of its own.

Everything is optional. Left out, the engine, the weights and the number of cards are planned from the machine; what is
said here is taken at its word or refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gemstead.spec.part import FilePath, Name, Part

EngineName = Literal[
    "auto",
    "vllm",
    "sglang",
    "llamacpp",
    "ollama",
    "tgi",
    "tensorrt_llm",
    "transformers",
    "embedded",
    "external",
]
Option = Annotated[
    str, Field(pattern=r"^-{1,2}[A-Za-z][A-Za-z0-9_.-]*([ =][^\x00]*)?$", max_length=4096)
]  # as it stands on a command line


class LoraSpec(Part):
    """A LoRA adapter of a model, which callers name like a model of its own."""

    name: Name = Field(description="What callers write as `model`", examples=["support-bot"])
    path: FilePath = Field(
        description="Folder of the adapter (PEFT), its GGUF file for llama.cpp, or a repository on the hub",
        examples=["/models/support-lora", "acme/gemma-4-31b-support-lora"],
    )
    rank: int = Field(16, ge=1, le=512, description="Its rank (`r` in adapter_config.json), or a higher one")


class EngineFields(Part):
    """What a model's entry says of its engine."""

    engine: EngineName = Field(
        "auto",
        description="What runs it. `auto`: `external` when `endpoints` are given, `embedded` for a `file` or without "
        "a GPU, else what suits the cards",
    )
    engine_version: str | None = Field(
        None,
        pattern=r"^[A-Za-z]?[0-9][A-Za-z0-9.+-]*$",
        description="Version of the engine; default: the newest that is installed",
        examples=["0.32.0"],
    )
    python: FilePath | None = Field(
        None,
        description="Folder of a virtual environment that holds the engine; default: one that "
        "`gemstead engines install` made, else the engine on the PATH",
        examples=["/opt/vllm"],
    )
    image: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
        description="Container image to run the engine in, with Docker or Podman",
        examples=["vllm/vllm-openai:v0.32.0"],
    )
    checkpoint: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Which weights: a repository on the hub or a folder; default: the most precise that fits",
        examples=["RedHatAI/gemma-4-31B-it-FP8-block"],
    )
    quantization: Literal["bf16", "fp8", "int8", "int4", "nvfp4"] | None = Field(
        None,
        description="Width of the weights, when `checkpoint` is not said; default: the most precise that fits",
    )
    tensor_parallel: int | None = Field(
        None, ge=1, le=64, description="Cards of one replica; default: the fewest that are comfortable"
    )
    adapters: tuple[LoraSpec, ...] = Field((), description="LoRA adapters that callers can name")
    adapters_load: Literal["start", "on_demand"] = Field(
        "start",
        description="When adapters are loaded: as the engine starts, or when a call first names one (vLLM), which lets "
        "whoever reaches the engine load others",
    )
    adapters_most: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="With `on_demand`: so many at once in an engine; one more takes the place of the longest unused. "
        "Default: all",
    )
    draft: Literal["auto", "off"] = Field(
        "auto", description="Whether a small drafter (MTP) writes ahead; `auto`: where it helps, and watched"
    )
    draft_tokens: int | None = Field(
        None, ge=1, le=16, description="Tokens that the drafter writes ahead; default: what suits the load"
    )
    flags: tuple[Option, ...] = Field(
        (),
        description="Further options of the engine's own, checked against its version; they win over planned ones",
        examples=[["--max-num-seqs 64", "--enable-prefix-caching"]],
    )
