"""The Gemma 4 models as typed facts, read once from `models.yaml` beside this file, where the sources are named.

Numbers only; what to do with them is decided in `plan`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


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

    @property
    def title(self) -> str:
        """As people say it: "Gemma 4 E2B"."""
        return f"Gemma 4 {self.size}"

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a sequence of this length holds, at 16 bits."""
        windowed = self.windowed_cache_bytes_per_token * min(tokens, self.window_tokens)
        return self.cache_bytes_per_token * tokens + windowed


@cache
def models() -> tuple[ModelFacts, ...]:
    """Every size, smallest first. The first is the default."""
    text = resources.files("gemstead.catalog").joinpath("models.yaml").read_text(encoding="utf-8")
    return tuple(_facts(entry) for entry in yaml.safe_load(text)["models"])


def _facts(entry: dict[str, Any]) -> ModelFacts:
    cache_of = entry.pop("cache")
    return ModelFacts(
        **{name: value for name, value in entry.items() if name not in ("gguf", "modalities")},
        modalities=tuple(entry["modalities"]),
        cache_bytes_per_token=cache_of["per_token"],
        windowed_cache_bytes_per_token=cache_of["windowed_per_token"],
        window_tokens=cache_of["window_tokens"],
        gguf=GgufFile(**entry["gguf"]),
    )
