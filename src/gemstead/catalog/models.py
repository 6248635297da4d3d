"""The Gemma 4 models as typed facts, read once from `models.yaml` beside this file, where the sources are named.

Numbers only; what to do with them is decided in `plan`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache
from typing import Any

from gemstead.catalog import data


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A model's 4-bit file on the hub, and its projector for images. Sizes in bytes."""

    repo: str
    revision: str  # a commit of the repository
    file: str
    bytes: int
    sha256: str | None  # None: not known here; the hub's own is checked at download
    projector_file: str | None = None
    projector_bytes: int = 0
    projector_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Moe:
    """The mixture of experts that runs beside the dense MLP in every layer."""

    experts: int
    top_k: int  # experts that one token runs through
    expert_intermediate: int  # width of one expert
    experts_b: float  # parameters of all experts together, billions


@dataclass(frozen=True, slots=True)
class Assistant:
    """The drafter for multi-token prediction: a checkpoint of its own, four layers, which reads the target's cache."""

    repo: str
    qat_repo: str  # the one to pair with a quantisation-aware-trained target
    parameters_m: float  # millions
    mib_bf16: int  # as its tensors sum up, in MiB
    draft_tokens: tuple[int, int]  # the depths that are recommended, least and most
    hidden: int
    layers: int = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is made of. Counts are exact; parameters are in billions, of which 1 is 1e9.

    Only some layers own a key-value cache: in E2B and E4B the last ones read that of an earlier layer.
    """

    layers_sliding: int
    layers_full: int
    kv_layers_sliding: int  # layers that own a cache, of the sliding ones
    kv_layers_full: int
    hidden: int
    intermediate: int  # of the MLP; on E2B layers without a cache of their own it is `intermediate_shared`
    intermediate_shared: int
    heads: int
    kv_heads_sliding: int
    kv_heads_full: int
    head_dim_sliding: int
    head_dim_full: int
    window: int  # tokens
    vocabulary: int
    k_eq_v: bool  # full layers compute V from K's weights; the cache still stores both
    per_layer_embedding: int  # width of the embedding table of each layer; 0: none
    all_b: float
    text_b: float
    embed_b: float
    per_layer_embedding_b: float  # a table that is read a row at a time
    active_no_embed_b: float  # read for every token, without the output head
    active_with_lm_head_b: float
    vision_b: float
    audio_b: float
    moe: Moe | None

    @property
    def layers(self) -> int:
        """All layers."""
        return self.layers_sliding + self.layers_full

    @property
    def kv_layers(self) -> int:
        """All layers that own a cache."""
        return self.kv_layers_sliding + self.kv_layers_full


@dataclass(frozen=True, slots=True)
class Weights:
    """Size of the 16-bit checkpoint in GiB: as its tensors sum up, and as vLLM reports it."""

    computed_gib: float
    vllm_log_gib: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One size of Gemma 4."""

    size: str  # as Google writes it: "26B-A4B"
    name: str  # ours: "gemma-4-26b-a4b"
    repo: str  # the instruction-tuned checkpoint
    base_repo: str
    released: datetime.date
    licence: str
    modalities: tuple[str, ...]
    context_tokens: int
    parameters_b: float  # billions
    active_parameters_b: float  # billions, read for every token
    cache_bytes_per_token: int  # 16-bit; grows with every token
    windowed_cache_bytes_per_token: int  # 16-bit; stops growing at `window_tokens`
    window_tokens: int
    gguf: GgufFile
    shape: Shape
    assistant: Assistant
    weights_bf16: Weights

    @property
    def title(self) -> str:
        """As people say it: "Gemma 4 E2B"."""
        return f"Gemma 4 {self.size}"


@cache
def models() -> tuple[ModelFacts, ...]:
    """Every size, smallest first. The first is the default."""
    return tuple(_facts(entry) for entry in data.read("models")["models"])


def _facts(entry: dict[str, Any]) -> ModelFacts:
    built = ("gguf", "modalities", "cache", "shape", "assistant", "weights_bf16")
    cache_of, shape = entry["cache"], entry["shape"]
    moe = Moe(**shape["moe"]) if shape.get("moe") else None
    drafter = entry["assistant"]
    return ModelFacts(
        **{name: value for name, value in entry.items() if name not in built},
        modalities=tuple(entry["modalities"]),
        cache_bytes_per_token=cache_of["per_token"],
        windowed_cache_bytes_per_token=cache_of["windowed_per_token"],
        window_tokens=cache_of["window_tokens"],
        gguf=GgufFile(**entry["gguf"]),
        shape=Shape(**{**shape, "moe": moe}),
        assistant=Assistant(**{**drafter, "draft_tokens": tuple(drafter["draft_tokens"])}),
        weights_bf16=Weights(**entry["weights_bf16"]),
    )
