"""llama.cpp's server: what its metrics and logs are called. Which one starts it makes no difference.

Names read from build 11549 (xllamacpp 2026.10.11549), 2026-11-21; log lines were provoked there with a missing,
a truncated and a foreign file, a taken port and too little memory. There is no gauge of cache use: `/slots` would
say it per slot, so `kv_used` stays unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gemstead.engines import reading
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
    "running": ("llamacpp:requests_processing",),
    "waiting": ("llamacpp:requests_deferred",),
    "kv_used": ("llamacpp:kv_cache_usage_ratio",),  # until mid-2025
    "tokens_in": ("llamacpp:prompt_tokens_total",),
    "tokens_cached": ("llamacpp:prompt_tokens_cached_total",),
    "tokens_out": ("llamacpp:tokens_predicted_total",),
    "drafted": ("llamacpp:spec_decode_num_draft_tokens_total",),
    "accepted": ("llamacpp:spec_decode_num_accepted_tokens_total",),
}

CAPABILITIES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/models",
        "/tokenize",
    }
)

# Run with build 11549, 2026-11-21: whole answers that end inside a thought leak its mark, and Responses events lack
# their indexes. Thinking is on by default; ours are started with it said either way.
DIALECT = Dialect(thinks=True, marks=True, indexes=False)

# The most telling first: an unknown architecture is also "failed to load".
FATAL = ("architecture", "corrupt", "missing", "memory", "port", "projector", "load")
LOG_PATTERNS: reading.Patterns = (
    (re.compile(r"^gemstead: loading (?P<percent>\d+) %"), "loading", r"loading the model, \g<percent> %"),
    (
        re.compile(r"unknown model architecture: '([^']*)'"),
        "architecture",
        r"this version of llama.cpp does not know the architecture `\1`; use a Gemma 4 GGUF, or upgrade gemstead",
    ),
    (
        re.compile(
            r"invalid magic|not within the file bounds|corrupted or incomplete|failed to read (?:tensor|magic|"
            r"header|key)|gguf_init_from\w+: failed"
        ),
        "corrupt",
        "the file is damaged or incomplete; delete it and fetch it again",
    ),
    (re.compile(r"failed to open GGUF file|No such file or directory"), "missing", "there is no such file"),
    (
        re.compile(
            r"failed to allocate|unable to allocate|bad_alloc|[Cc]annot allocate memory|out of memory|"
            r"[Oo]utOfMemory|failed to create.context|failed to initialize the context|failed to mmap"
        ),
        "memory",
        "there is not enough memory for it; choose a smaller model, `context` or `slots`",
    ),
    (
        re.compile(r"couldn't bind HTTP server socket, hostname: (\S+), port: (\d+)"),
        "port",
        r"\1:\2 is taken by another program; choose another port",
    ),
    (
        re.compile(r"failed to load (?:multimodal|mmproj|CLIP) model|clip_init: failed|mtmd_init\w*: error"),
        "projector",
        "its projector file does not fit it; leave `projector` out or name the model's own",
    ),
    (re.compile(r"exiting due to model loading error"), "load", "llama.cpp could not load it"),
    (
        re.compile(r"load_tensors: loading model tensors|load_model: loading model"),
        "loading",
        "loading the model",
    ),
    (re.compile(r"warming up the model"), "warming", "warming the model up"),
    (re.compile(r"(?:server is )?listening on (\S+)"), "listening", r"listening on \1"),
    (re.compile(r"model loaded"), "loaded", "the model is loaded"),
)


def launch(replica: Replica, *, installed: Installed | None = None, api_key: str = "") -> Launch:
    """The process that runs a replica: `llama-server`.

    Raises:
        Refused: UNSUPPORTED, when this version cannot be started like that.
    """
    from gemstead.engines.launching import start

    return start(replica, installed, api_key, lambda placement: _words(replica, placement))


def _words(replica: Replica, placement: Placement) -> Words:
    from gemstead.engines.flag import Flag
    from gemstead.engines.launching import Words

    projector = replica.model.projector
    more = [Flag("--mmproj", projector, "pictures, by the model's projector", "README")] if projector else []
    return Words(
        key_variable="LLAMA_API_KEY",
        served_model=placement.name or placement.setup.model.name,
        more=tuple(more),
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


def readiness(served_model: str) -> tuple[str, dict[str, object]]:
    """Path and body of a request whose answer proves that the model answers. Thinking off keeps it short."""
    body: dict[str, object] = {
        "model": served_model or "default",
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    return "/v1/chat/completions", body
