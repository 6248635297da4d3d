"""TGI (text-generation-inference), in maintenance since December 2025: how it is started and what it says of itself.

No sign was found that it serves Gemma 4; it is here for those who have it and must try. Not run here. Sources:
docs/source/reference/launcher.md and metrics.md, router/src/server.rs, at commit 032fc4c4, read 2026-11.
"""

from __future__ import annotations

import re
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
METRICS_PATH = "/metrics"
METRICS: reading.Metrics = {
    "running": ("tgi_batch_current_size",),
    "waiting": ("tgi_queue_size",),
    "kv_used": (),
    "tokens_in": ("tgi_request_input_length_sum",),
    "tokens_cached": (),
    "tokens_out": ("tgi_request_generated_tokens_sum",),
    "drafted": (),
    "accepted": (),
}
CAPABILITIES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models"})
DIALECT = Dialect()
FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (re.compile(r"Starting download process"), "fetching", "fetching the model"),
    (re.compile(r"Waiting for shard to be ready"), "loading", "loading the model"),
    (re.compile(r"Warming up model"), "warming", "warming the model up"),
    (
        re.compile(r"Setting max batch total tokens to (?P<tokens>\d+)"),
        "cache-size",
        r"the cache holds \g<tokens> tokens",
    ),
    (
        re.compile(r"Not enough memory to handle (\d+) (?:prefill|total) tokens"),
        "cache",
        r"the cache does not hold \1 tokens",
        "a shorter `context`, or smaller weights (`quantization`)",
    ),
    (
        re.compile(r"Unsupported model type|model_type .* not (?:supported|recognized)"),
        "version",
        "this TGI does not know the model",
        "use engine vllm or sglang",
    ),
    (
        re.compile(
            r"Shard (?:complete standard error|\d+ failed to start|process was signaled)|ShardCannotStart"
        ),
        "load",
        "a shard has ended",
        "the lines above say why",
    ),
    (re.compile(r"Connected$|router.*Connected"), "listening", "listening"),
    *faults.SHARED,
)


def launch(replica: Replica, *, installed: Installed | None = None, api_key: str = "") -> Launch:
    """The process that runs a replica.

    Raises:
        Refused: UNSUPPORTED, when it cannot be started like that.
    """
    from gemstead.engines.launching import start

    return start(replica, installed, api_key, _words)


def _words(placement: Placement) -> Words:
    from gemstead.engines.launching import Words

    return Words(key_variable="API_KEY", served_model=placement.setup.checkpoint.repo)


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
