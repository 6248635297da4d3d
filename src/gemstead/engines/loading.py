"""How an engine is to read a checkpoint's weights, from their size, where they lie and what is installed.

The default loader maps the files into memory and touches them page by page, which is fine from a local disk or from
the page cache and slow from anything with latency. What helps where (facts of vLLM 0.33's loaders, read 2026-11-21;
times measured by others: a streamed start of 14.3 s against 48.0 on a network volume of AWS's gp3 kind):

- a bucket: only a streaming loader reads it without a copy;
- a network or FUSE file system: a streaming loader, else files read ahead whole (`--safetensors-load-strategy`);
- a local disk and an NVIDIA card: `fastsafetensors`, which reads many files at once past the page cache;
- GGUF, small checkpoints, memory-backed storage: nothing to win.

A loader is chosen only when it is installed in a version that works; the versions are those below which
`catalog/known_bad.yaml` warns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

STREAMER, STREAMER_LEAST = "runai-model-streamer", (0, 15, 7)
FAST, FAST_LEAST = "fastsafetensors", (0, 3, 3)
WORTH_BYTES = (
    8_000_000_000  # below, the engine's own start takes longer than reading: a guess, not a measurement
)
_ENGINES = ("vllm", "sglang")  # what else there is has one way to load
_STORAGE = ("local", "memory", "network", "fuse", "bucket")


@dataclass(frozen=True, slots=True)
class Weights:
    """The checkpoint that is to be loaded."""

    bytes: int
    storage: str  # one of local, memory, network, fuse, bucket
    gguf: bool = False


@dataclass(frozen=True, slots=True)
class Loading:
    """The choice: options to add to the launch line, perhaps none, and why in words."""

    flags: tuple[str, ...]
    why: str


def loading(
    engine: str,
    weights: Weights,
    *,
    installed: Mapping[str, str],
    vendor: str = "nvidia",
    tensor_parallel: int = 1,
) -> Loading:
    """How an engine should load these weights.

    Args:
        engine: a key of ENGINES.
        weights: what is to be loaded, and from where.
        installed: versions of the packages beside the engine.
        vendor: of the cards; "cpu" for none.
        tensor_parallel: cards of one replica.

    Raises:
        ValueError: the weights lie in a bucket and nothing installed reads one; the text says what to do.
    """
    assert weights.storage in _STORAGE
    streams, fast = _has(installed, STREAMER, STREAMER_LEAST), _has(installed, FAST, FAST_LEAST)
    if weights.storage == "bucket":
        if engine not in _ENGINES or weights.gguf or not streams:
            raise ValueError(_no_bucket(engine))
        return _streamed(engine, tensor_parallel, "read from the bucket without a copy on the disk")
    if engine not in _ENGINES:
        return Loading((), f"{engine} has one way to load")
    if weights.gguf:
        return Loading(("--load-format", "gguf"), "GGUF has a loader of its own")
    if weights.storage == "memory" or weights.bytes < WORTH_BYTES or vendor == "cpu":
        return Loading((), "nothing to win over the engine's own loader")
    if weights.storage in ("network", "fuse"):
        if streams:
            return _streamed(engine, 1, "many reads at once hide the network's latency")
        if engine == "vllm":
            return Loading(
                ("--safetensors-load-strategy", "prefetch"),
                "files are read ahead whole, which a network file system does faster than page by page; "
                "`vllm[runai]` beside the engine would be faster still",
            )
        return Loading((), "no streaming loader is installed beside the engine")
    if fast and vendor == "nvidia":
        return Loading(("--load-format", "fastsafetensors"), "many files at once, past the page cache")
    return Loading((), "from a local disk the engine's own loader is good enough")


def _streamed(engine: str, tensor_parallel: int, why: str) -> Loading:
    flags: tuple[str, ...] = ("--load-format", "runai_streamer")
    if (
        engine == "vllm" and tensor_parallel > 1
    ):  # each rank reads its part and they exchange; else all read all
        flags += ("--model-loader-extra-config", '{"distributed":true}')
    return Loading(flags, why)


def _no_bucket(engine: str) -> str:
    if engine in _ENGINES:
        return (
            f"{engine} reads weights from a bucket with {STREAMER} {'.'.join(map(str, STREAMER_LEAST))} or newer "
            "beside it (vllm[runai]) and only as safetensors: install it, or fetch the model first with "
            "`gemstead models pull`"
        )
    return f"{engine} reads no bucket: fetch the model first with `gemstead models pull`"


def _has(installed: Mapping[str, str], package: str, least: tuple[int, ...]) -> bool:
    version = installed.get(package) or installed.get(package.replace("-", "_")) or ""
    numbers = tuple(int(word) for word in re.findall(r"\d+", version)[:3])
    return bool(numbers) and numbers >= least
