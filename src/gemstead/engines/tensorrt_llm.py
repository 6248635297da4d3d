"""TensorRT-LLM (`trtllm-serve`): how it is started and what it says of itself. An experiment for Gemma 4.

Not run here. Its `/metrics` is a list of JSON statistics; Prometheus text is at `/prometheus/metrics`. Names: the table
of the Gateway API inference extension's model server protocol and tensorrt_llm/metrics/collector.py, read 2026-11.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gemstead.engines import external, faults, reading
from gemstead.engines.reading import LogEvent
from gemstead.openai.dialect import Dialect
from gemstead.traffic.endpoint import Load

if TYPE_CHECKING:
    from gemstead.engines.installed import Installed
    from gemstead.engines.launching import Words
    from gemstead.plan.placement import Placement
    from gemstead.plan.values import Launch, Replica

HEALTH_PATH = "/health"
METRICS_PATH = "/prometheus/metrics"
METRICS: reading.Metrics = {
    "running": ("trtllm_num_requests_running",),
    "waiting": ("trtllm_num_requests_waiting",),
    "kv_used": ("trtllm_kv_cache_utilization",),
    "tokens_in": ("trtllm_prompt_tokens_total",),
    "tokens_cached": (),
    "tokens_out": ("trtllm_generation_tokens_total",),
    "drafted": (),
    "accepted": (),
}
CAPABILITIES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"})
DIALECT = Dialect()
FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (
        re.compile(r"Loading (?:weights|checkpoint).*?(?P<percent>\d+)%"),
        "loading",
        r"loading the model, \g<percent> %",
    ),
    (
        re.compile(r"\[MemUsageChange\] Allocated .* for max tokens in paged KV cache \((?P<tokens>\d+)\)"),
        "cache-size",
        r"the cache holds \g<tokens> tokens",
    ),
    (
        re.compile(
            r"max tokens in paged KV cache .* (?:is|are) (?:too small|insufficient)|KV cache .*not enough"
        ),
        "cache",
        "the cache does not hold one longest request",
        "a shorter `context`, or smaller weights (`quantization`)",
    ),
    (
        re.compile(r"Executor worker died|MPI_ABORT was invoked|Executor creation failed"),
        "load",
        "its executor has ended",
        "the lines above say why; Gemma 4 is experimental here, engine vllm is not",
    ),
    (re.compile(r"Application startup complete"), "listening", "listening"),
    *faults.SHARED,
)


def launch(replica: Replica, *, installed: Installed | None = None, api_key: str = "") -> Launch:
    """The process that runs a replica. It knows no key: nothing but loopback is in front of it.

    Raises:
        Refused: UNSUPPORTED, when it cannot be started like that.
    """
    from gemstead.engines.launching import start

    return start(replica, installed, api_key, _words)


def _words(placement: Placement) -> Words:
    from gemstead.engines.launching import Words

    # It calls the model by the last part of its path (tensorrt_llm/serve/openai_server.py).
    name = PurePosixPath(placement.setup.checkpoint.repo).name
    return Words(served_model=name, metrics_path=METRICS_PATH)


readiness = external.readiness


def read_load(text: str, at: float) -> Load:
    """What a metrics page says of the engine's load; what it does not say is None."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Our gauges (`reading.GAUGES`) on a metrics page."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """What a line of the engine's log means; None for the many that mean nothing to a user."""
    return reading.log_event(line, LOG_PATTERNS, FATAL)
