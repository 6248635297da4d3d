"""How long an engine takes from nothing to its first answer, and how long it has to be allowed.

Four phases follow one another: the image is pulled, the weights are read, kernels are compiled and tuned and graphs
captured, and the first request runs. Reading is the weights' bytes over the storage's rate. What comes after it is the
engine's own work, which a warm cache (torch.compile, Triton, FlashInfer) shortens a great deal, and which differs by
minutes between cards that nobody has published a formula for. So likely figures are what was published, and the
*allowance* that probes and supervisors are given is several times them: a probe that ends a healthy engine while it
compiles starts it again from the beginning, for ever, while one that waits too long costs minutes once.

Sources (cold start of Gemma 4 31B unless said otherwise, compiled 2026-11-20): 780 s cold and 40 s warm, NVFP4 on GB10
(robotmunki.com); 951 s, of which 117 reading 23 GB, 82 compiling and 780 tuning, NVFP4 on B200 with vLLM 0.24; 300 to
420 s first and 180 s later, int4 on four RTX 3090; 240.8 s for reading 25.67 GiB on GB10; a minute with and three
minutes without the compile cache, FP8 on DGX Spark; Google's GCS FUSE guide, 1,200 s for 141 GB untuned, 35 s tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.plan.setup import GIB, Setup

# Bytes a second at which weights are read. The last two: 141 GB in 1,200 s and in 35 s (GCS FUSE guide).
STORAGE = {
    "nvme": 3.0e9,  # one local drive; the doctor measures the real one
    "network-disk": 0.6e9,  # 26 GB in 48 s from a gp3 volume (Run:ai's streamer benchmark)
    "bucket-stream": 2.0e9,  # the same 26 GB from an object store or a fast volume with the streamer: 7.5 to 14.3 s
    "bucket-fuse": 4.0e9,
    "bucket-fuse-untuned": 0.12e9,
    "memory": 10e9,
}
# Seconds of compiling, tuning and capturing: (cold, with a warm cache).
PREPARING = {
    "vllm": (300.0, 40.0),
    "sglang": (180.0, 60.0),
    "tensorrt_llm": (600.0, 60.0),
    "tgi": (60.0, 30.0),
}
EAGER = (10.0, 5.0)  # llama.cpp, Ollama, Transformers: nothing is compiled
LEAST_ALLOWANCE_S = 300.0
TIMES = 3.0  # the slowest published start (951 s on B200) is 3 times what its card's figures let one expect
IMAGE_BYTES_S = 0.1e9  # a 10 GB image in 100 s: pulling and unpacking, our guess; a cached image takes none


@dataclass(frozen=True, slots=True)
class Startup:
    """Seconds from the process's start to its first answer; the image comes before it."""

    image_s: float
    read_s: float
    prepare_cold_s: float
    prepare_warm_s: float
    allowance_s: int  # for start-up probes and supervisors
    reason: str  # how the allowance came about

    @property
    def cold_s(self) -> float:
        """With nothing cached, the image apart."""
        return self.read_s + self.prepare_cold_s

    @property
    def warm_s(self) -> float:
        """With compiled kernels cached."""
        return self.read_s + self.prepare_warm_s


def startup(setup: Setup, storage: str = "network-disk", image_bytes: int = 0) -> Startup:
    """What a start of this replica takes when its weights come from a kind of storage (a key of `STORAGE`)."""
    weights = setup.weights_bytes or setup.checkpoint.weights_bytes
    read_s = weights / STORAGE[storage]
    cold, warm = PREPARING.get(setup.engine, EAGER) if setup.graphs else EAGER
    cold *= max(1.0, weights / (24 * GIB)) if cold > EAGER[0] else 1.0
    allowance = max(LEAST_ALLOWANCE_S, TIMES * (read_s + cold))
    allowance_s = int(-(-allowance // 60) * 60)
    reason = (
        f"reading {weights / 1e9:.1f} GB at {STORAGE[storage] / 1e9:g} GB/s takes {read_s:.0f} s and a first start "
        f"about {cold:.0f} s more; {TIMES:g} times that, because a start cut short begins again from nothing"
    )
    return Startup(image_bytes / IMAGE_BYTES_S, read_s, cold, warm, allowance_s, reason)
