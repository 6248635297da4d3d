"""SGLang: what its metrics and logs are called, and how it is started.

Not run here: its wheels need CUDA. Names of metrics: sglang 0.5.x, srt/metrics/collector.py, and the production
metrics page of its documentation (read 2026-11); later versions write `sglang_` for `sglang:`. Every tensor-parallel
rank may report the same figure, and a priority scheduler one for each priority: `prometheus.py` counts those once.
Log lines: sglang 0.5.12, model_executor/model_runner.py and managers/scheduler.py.
"""

from __future__ import annotations

import re
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
METRICS_PATH = "/metrics"  # only with --enable-metrics


def _names(*names: str) -> tuple[str, ...]:
    return tuple(f"sglang{mark}{name}" for name in names for mark in (":", "_"))


METRICS: reading.Metrics = {
    "running": _names("num_running_reqs"),
    "waiting": _names("num_queue_reqs"),
    "kv_used": _names("token_usage"),
    "tokens_in": _names("prompt_tokens_total"),
    "tokens_cached": _names("cached_tokens_total"),
    "tokens_out": _names("generation_tokens_total"),
    # It reports a rate and a length of acceptance, and counts neither drafts nor what was kept of them.
    "drafted": (),
    "accepted": (),
}
ACCEPTED_SHARE = _names("spec_accept_rate")  # of the drafts of the last steps, 0 to 1

CAPABILITIES = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/models", "/tokenize"}
)
# Thoughts as `reasoning_content`; the name of the model is whatever was asked for.
DIALECT = Dialect()

FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (
        re.compile(r"Loading safetensors checkpoint shards:\s+(?P<percent>\d+)%"),
        "loading",
        r"loading the model, \g<percent> %",
    ),
    (re.compile(r"Capturing batches .*?(?P<percent>\d+)%\|"), "graphs", r"capturing graphs, \g<percent> %"),
    (
        re.compile(r"(?:max_total_num_tokens=|KV Cache is allocated\. #tokens: )(?P<tokens>\d+)"),
        "cache-size",
        r"the cache holds \g<tokens> tokens",
    ),
    (
        re.compile(r"Not enough memory\. Please try (?:to increase|increasing) --mem-fraction-static"),
        "cache",
        "nothing of the card's memory is left for the cache",
        "smaller weights (`quantization`), more cards (`tensor_parallel`), or `flags: [--mem-fraction-static 0.9]`",
    ),
    (
        re.compile(r"Capture cuda graph failed|Capturing CUDA graphs? failed"),
        "memory",
        "capturing graphs failed, most often for want of memory",
        "`flags: [--mem-fraction-static 0.8]` or a lower `slots`",
    ),
    (
        re.compile(r"Scheduler hit an exception|Received sigquit from a child process"),
        "load",
        "its scheduler has ended",
        "the lines above say why",
    ),
    (
        re.compile(r"Watchdog timeout|watchdog_timeout"),
        "hang",
        "its own watchdog found it stuck",
        "it is started anew",
    ),
    (re.compile(r"Load weight begin"), "loading", "loading the model"),
    (re.compile(r"The server is fired up and ready to roll"), "listening", "listening"),
    *faults.SHARED,
)


def launch(replica: Replica, *, installed: Installed | None = None, api_key: str = "") -> Launch:
    """The process that runs a replica.

    Raises:
        Refused: UNSUPPORTED, when this version cannot be started like that.
    """
    from gemstead.engines.launching import start
    from gemstead.refused import Reason, Refused

    if replica.adapters:
        message = "stock builds of SGLang load no LoRA adapter for Gemma 4; use engine vllm"
        raise Refused(Reason.UNSUPPORTED, message)
    return start(replica, installed, api_key, _words)


def _words(placement: Placement) -> Words:
    from gemstead.engines.launching import Words

    return Words(key_flag="--api-key", served_model=placement.name or placement.setup.checkpoint.repo)


def read_load(text: str, at: float) -> Load:
    """What a metrics page says of the engine's load; what it does not say is None."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Our gauges (`reading.GAUGES`) on a metrics page."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """What a line of the engine's log means; None for the many that mean nothing to a user."""
    return reading.log_event(line, LOG_PATTERNS, FATAL)
