"""vLLM, run by someone else: what its metrics are called, by version. How to start it comes with its own planning.

Names read from a running 0.32.0 and its metric constructors, 2026-11-20; the older ones are those of guides and
earlier releases, and are gone from 0.32.
"""

from __future__ import annotations

import re

from gemstead.engines import reading
from gemstead.engines.llamacpp import readiness
from gemstead.engines.reading import LogEvent
from gemstead.traffic.endpoint import Load

__all__ = ["CAPABILITIES", "FATAL", "HEALTH_PATH", "LOG_PATTERNS", "METRICS", "METRICS_PATH"]
__all__ += ["read_gauges", "read_load", "read_log", "readiness"]

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"

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

FATAL = ("memory", "port", "load")
LOG_PATTERNS: reading.Patterns = (
    (
        re.compile(r"Loading safetensors checkpoint shards:\s+(?P<percent>\d+)%"),
        "loading",
        r"loading the model, \g<percent> %",
    ),
    (
        re.compile(r"CUDA out of memory|torch\.OutOfMemoryError"),
        "memory",
        "the card has not enough memory for it",
    ),
    (re.compile(r"[Aa]ddress already in use"), "port", "its port is taken by another program"),
    (re.compile(r"Application startup complete"), "listening", "listening"),
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
