"""What is to be planned: one engine replica, with every choice that costs memory or time.

A choice that is left at None is the engine's own default, which depends on the card and on the version; `resolved`
says which it is. Defaults of vLLM: 0.20.2, 0.21.0, 0.26.0 and 0.32.0, `engine/arg_utils.py` and `config/cache.py`
(share of memory 0.92; batched tokens 16,384 from 160 GiB, 8,192 from 70 GiB but on A100, else 2,048). Defaults of
SGLang: 0.5.12, `srt/server_args.py`. Nothing is worked out here but defaults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.models import ModelFacts

GIB = 1 << 30
NEWEST = (999,)
# vLLM raises the batched tokens of 12B, 26B-A4B and 31B so that a whole video item (32 frames of 70 tokens and their
# markers) fits into one step: those attend in both directions inside pictures. Source: vllm 0.33.0, gemma4_mm.py.
VIDEO_TOKENS = 2496
# Bytes of one number of the cache. Block formats of llama.cpp: 34 bytes for 32 numbers, 18 for 32.
CACHE_BYTES = {"bf16": 2.0, "fp16": 2.0, "f16": 2.0, "fp8": 1.0, "int8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32,
               "nvfp4": 9 / 16}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setup:
    """One replica of an engine. Tokens are tokens, sizes are bytes, shares go from 0 to 1."""

    model: ModelFacts
    checkpoint: Checkpoint
    accelerator: Accelerator
    tp: int = 1  # cards that one replica is spread over
    engine: str = "vllm"  # vllm | sglang | llamacpp | embedded | ollama | transformers | tgi | tensorrt_llm
    version: str = ""  # empty: the newest that is known
    context: int = 0  # tokens of the longest request; 0: as long as the model can
    kv_dtype: str = "auto"  # auto: what the checkpoint asks for, else 16 bits
    batched_tokens: int | None = None  # --max-num-batched-tokens, --chunked-prefill-size, --ubatch-size
    utilisation: float | None = None  # --gpu-memory-utilization, --mem-fraction-static
    async_scheduling: bool | None = None
    requests: int | None = None  # at once: --max-num-seqs, --max-running-requests, --parallel
    drafter: bool = False
    drafter_kind: str = "assistant"  # assistant | eagle3
    draft_tokens: int = 0
    vision: bool = True
    connector: str = ""  # --kv-transfer-config's connector
    hybrid: bool = True  # False: --disable-hybrid-kv-cache-manager, --disable-hybrid-swa-memory, --swa-full
    swa_ratio: float | None = None  # SGLang: --swa-full-tokens-ratio
    graphs: bool = True  # False: --enforce-eager, --disable-cuda-graph
    weights_bytes: int | None = None  # read from the files (`plan.weights`); None: the catalogue's
    kv_pool_bytes: int | None = None  # of one card, when it is known; None: worked out
    overhead_correction_bytes: int = 0  # of one card: what this machine's logs taught (`operate.calibration`)

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare: 0.25.1 is (0, 25, 1). Empty or unread is newer than all."""
        found = re.match(r"v?(\d+(?:\.\d+)*)", self.version.strip())
        return tuple(int(part) for part in found[1].split(".")) if found else NEWEST

    @property
    def length(self) -> int:
        """Tokens of the longest request."""
        return self.context or self.model.context_tokens

    @property
    def cache_format(self) -> str:
        """The number format of the cache: bf16, fp8, int8_per_token_head, q8_0, ..."""
        asked = self.kv_dtype if self.kv_dtype not in ("", "auto") else self.checkpoint.kv_dtype or "bf16"
        return "fp8" if asked.startswith("fp8") else asked

    @property
    def element_bytes(self) -> float:
        """Bytes of one number of the cache, without scales."""
        return CACHE_BYTES.get(self.cache_format.partition("_per_")[0], 2.0)

    @property
    def in_steps_of(self) -> int:
        """Tokens that one step takes at most: as asked for, else the engine's default for the card."""
        if self.engine == "sglang":
            return self.batched_tokens or _sglang_chunk(self.accelerator)
        if self.engine in ("llamacpp", "embedded", "ollama"):
            return self.batched_tokens or 512
        asked = self.batched_tokens or _vllm_batch(self.accelerator)
        return max(asked, VIDEO_TOKENS) if self._pictures_raise else asked

    @property
    def _pictures_raise(self) -> bool:
        return self.vision and self.model.size in ("12B", "26B-A4B", "31B")

    @property
    def is_async(self) -> bool:
        """Whether the engine prepares a step while another runs. vLLM's default since 0.20."""
        return self.async_scheduling is not False

    @property
    def at_once(self) -> int:
        """Requests that the engine takes at once: as asked for, else its default for the card."""
        if self.requests:
            return self.requests
        if self.engine in ("llamacpp", "embedded", "ollama"):
            return 1
        return 1024 if _is_large(self.accelerator) else 256

    @property
    def share(self) -> float:
        """The share of the card's memory that the engine takes."""
        if self.utilisation is not None:
            return self.utilisation
        return 0.92 if self.release >= (0, 20, 2) else 0.9

    def with_(self, **changes: object) -> Setup:
        """The setup with some choices changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def visible_bytes(card: Accelerator) -> int:
    """What CUDA programs are given of a card, in bytes: less than the driver's total.

    Source: "total capacity" in PyTorch's messages against nvidia-smi's totals: 94.97 of 95.59 GiB (RTX PRO 6000),
    79.10 of 79.65 (H100), 23.56 of 24.00 (RTX 3090), 21.95 of 22.49 (L4), 178.35 of 179.06 (B200). The line through
    them is 0.37 GiB + 0.22 %. Elsewhere, and where memory is the processor's, nothing is taken off.
    """
    if card.vendor != "nvidia" or card.unified or card.is_slice:
        return card.memory_bytes  # a slice's own driver's share is off already
    return int(card.memory_bytes * 0.9978 - 0.37 * GIB)


def _is_large(card: Accelerator) -> bool:
    """vLLM's own line, which leaves A100 out for its slower prompts (its pull request #17885)."""
    return visible_bytes(card) >= 70 * GIB and not card.id.startswith("a100")


def _vllm_batch(card: Accelerator) -> int:
    if card.vendor == "google":
        return {"tpu-v6e": 1024, "tpu-v5e": 512}.get(card.id, 2048)
    if card.vendor == "cpu" or card.unified:
        return 2048
    return 16384 if visible_bytes(card) >= 160 * GIB else 8192 if _is_large(card) else 2048


def _sglang_chunk(card: Accelerator) -> int:
    steps = ((35, 2048), (60, 4096), (160, 8192))
    return next((chunk for gib, chunk in steps if card.memory_mib < gib * 1024), 16384)
