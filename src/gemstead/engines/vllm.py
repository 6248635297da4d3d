"""vLLM: what its metrics and logs are called, by version, and how it is started.

Names read from a running 0.32.0 and its metric constructors, 2026-11-20; the older ones are those of guides and
earlier releases, and are gone from 0.32. With data parallelism every series is there once for each core (`engine`):
counts are added up, shares averaged. Log lines: vllm 0.19 to 0.32 (v1/engine/core.py, v1/core/kv_cache_utils.py,
v1/worker/gpu_worker.py, model_executor/model_loader) and the issues that are named.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from gemstead.engines import faults, reading
from gemstead.engines.llamacpp import readiness
from gemstead.engines.reading import LogEvent
from gemstead.openai.dialect import Dialect
from gemstead.traffic.endpoint import Load

if TYPE_CHECKING:
    from gemstead.engines.installed import Installed
    from gemstead.engines.launching import Words
    from gemstead.plan.placement import Placement
    from gemstead.plan.values import Launch, Replica

__all__ = ["CAPABILITIES", "DIALECT", "FATAL", "HEALTH_PATH", "LOG_PATTERNS", "METRICS", "METRICS_PATH"]
__all__ += ["launch", "read_gauges", "read_load", "read_log", "readiness"]

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes, 0.32.0

METRICS: reading.Metrics = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_used": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "tokens_in": ("vllm:prompt_tokens_total",),
    "tokens_cached": ("vllm:prompt_tokens_cached_total",),
    "tokens_out": ("vllm:generation_tokens_total",),
    "drafted": ("vllm:spec_decode_num_draft_tokens_total",),
    "accepted": ("vllm:spec_decode_num_accepted_tokens_total",),
}

CAPABILITIES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/models",
        "/tokenize",
    }
)
# `message.reasoning` is called so since 0.11; everything else is as the gateway speaks (run with 0.32.0, 2026-11-20).
DIALECT = Dialect(reasoning="reasoning")

FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (
        re.compile(r"Loading safetensors checkpoint shards:\s+(?P<percent>\d+)%"),
        "loading",
        r"loading the model, \g<percent> %",
    ),
    (
        re.compile(r"Capturing CUDA graphs[^:]*:\s+(?P<percent>\d+)%"),
        "graphs",
        r"capturing graphs, \g<percent> %",
    ),
    (
        re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens"),
        "cache-size",
        r"the cache holds \g<tokens> tokens",
    ),
    (
        re.compile(r"Maximum concurrency for [\d,]+ tokens per request: (?P<times>[\d.]+)x"),
        "concurrency",
        r"\g<times> of the longest requests fit at once",
    ),
    (
        re.compile(r"No available memory for the cache blocks|Available KV cache memory: -"),
        "cache",
        "nothing of the card's memory is left for the cache",
        "smaller weights (`quantization`), more cards (`tensor_parallel`), or smaller steps "
        "(`flags: [--max-num-batched-tokens 2048]`)",
    ),
    (
        re.compile(
            r"[Tt]o serve at least one request with the models?'s max seq len|larger than the maximum number of tokens"
        ),
        "cache",
        "the cache does not hold one longest request",
        "a shorter `context`, an 8-bit cache (`flags: [--kv-cache-dtype fp8]`, not on sm_86), or smaller steps "
        "(`flags: [--max-num-batched-tokens 2048]`)",
    ),
    (
        re.compile(
            r"Free memory on device.*is less than desired GPU memory utilization|Error in memory profiling"
        ),
        "free",
        "another program holds part of the card's memory",
        "see `nvidia-smi`; engines that share a card start one after another",
    ),
    (
        re.compile(
            r"fp8e4nv not supported in this architecture|nvfp4.*(?:not supported|unsupported).*sm_?1[02]"
        ),
        "kernel",
        "this card does not compute in the format of the weights or of the cache",
        "a 16-bit cache (leave out `--kv-cache-dtype`), or weights in int4 (`quantization: int4`)",
    ),
    (
        re.compile(r"AmbiguousGlobalPerLayerAttributeError"),
        "version",
        "Transformers 5.15 does not fit vLLM 0.27.1",
        "install transformers 5.8.1 beside it, or another vLLM",
    ),
    (
        re.compile(r"Tried to instantiate dummy base class CUDAGraph"),
        "drafter",
        "this drafter does not run on a processor",
        "`draft: off`",
    ),
    (
        re.compile(r"Unknown vLLM environment variable detected: (\w+)"),
        "variable",
        r"vLLM does not read \1",
        "take it out of the environment: vLLM is set by flags",
    ),
    (re.compile(r"Starting to load model"), "loading", "loading the model"),
    (re.compile(r"torch\.compile takes|Dynamo bytecode transform time"), "compiling", "compiling"),
    (
        re.compile(r"EngineCore (?:failed to start|encountered a fatal error)|EngineDeadError"),
        "load",
        "its core has ended",
    ),
    (re.compile(r"Application startup complete"), "listening", "listening"),
    *faults.SHARED,
)


def launch(replica: Replica, *, installed: Installed | None = None, api_key: str = "") -> Launch:
    """The process that runs a replica.

    Raises:
        Refused: UNSUPPORTED, when this version cannot be started like that.
    """
    from gemstead.engines.launching import start

    if installed is not None and installed.runner == "container":  # its sockets would be in the container
        replica = replace(replica, kv_events="")
    return start(replica, installed, api_key, lambda placement: _words(replica, placement))


def _words(replica: Replica, placement: Placement) -> Words:
    from gemstead.engines.flag import Flag, Variable
    from gemstead.engines.launching import Words

    more, variables = [], []
    on_demand: dict[str, str] = {}
    if replica.adapters:
        rank = next((one for one in RANKS if one >= max(a.rank for a in replica.adapters)), RANKS[-1])
        source = "vLLM docs, LoRA adapters"
        at_once = len(replica.adapters)
        if replica.adapters_on_demand and replica.adapters_most:
            at_once = min(at_once, replica.adapters_most)
        more += [
            Flag("--enable-lora", None, "adapters that callers can name", source),
            Flag("--max-lora-rank", str(rank), "the largest rank of an adapter", source),
            Flag("--max-loras", str(at_once), "adapters in one step", source),
        ]
        if replica.adapters_on_demand:
            why = "asked for: adapters are loaded while it runs"
            variables.append(Variable("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True", why, source))
            on_demand = {one.name: one.path for one in replica.adapters}
        else:
            named = tuple(f"{one.name}={one.path}" for one in replica.adapters)
            more.append(Flag("--lora-modules", named, "loaded as it starts", source))
    if replica.sleeps:
        why = "it can be put to sleep and woken; the switch also opens other doors, on loopback alone"
        more.append(Flag("--enable-sleep-mode", None, why, "vLLM docs, sleep mode"))
        variables.append(Variable("VLLM_SERVER_DEV_MODE", "1", why, "vLLM docs, sleep mode"))
    events = replay = ""
    if replica.kv_events:
        events, replay = (f"ipc://{replica.kv_events}/{replica.port}{end}" for end in ("", "r"))
        said = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": events,
            "replay_endpoint": replay,
        }
        why = "it says what its prefix cache stores and drops, so that the gateway need not guess"
        more.append(Flag("--kv-events-config", json.dumps(said), why, "run with vLLM 0.32.0 on 2026-11-21"))
    return Words(
        kv_events=events,
        kv_replay=replay,
        key_variable="VLLM_API_KEY",
        served_model=placement.name or placement.setup.checkpoint.repo,
        more=tuple(more),
        variables=tuple(variables),
        adapters=on_demand,
    )


def read_load(text: str, at: float) -> Load:
    """What a metrics page says of the engine's load; what it does not say is None."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Our gauges (`reading.GAUGES`) on a metrics page."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """What a line of the engine's log means; None for the many that mean nothing to a user."""
    return reading.log_event(line, LOG_PATTERNS, FATAL)
