"""An engine of which only the OpenAI API is known. Its metrics, if any, are read by the names that vLLM and
llama.cpp use; what is not there stays unknown."""

from __future__ import annotations

from gemstead.engines import llamacpp, reading, vllm
from gemstead.engines.reading import LogEvent
from gemstead.openai.dialect import Dialect
from gemstead.traffic.endpoint import Load

HEALTH_PATH = "/v1/models"  # the one question that every OpenAI-compatible engine answers
METRICS_PATH = "/metrics"
METRICS: reading.Metrics = {name: vllm.METRICS[name] + llamacpp.METRICS[name] for name in reading.GAUGES}
CAPABILITIES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/models",
    }
    | {"/tokenize"}
)  # unknown until asked: everything is passed on, and the engine's own 404 is the answer
# Whatever it is: thoughts are looked for under either name, and left marks are taken away, where a call may think.
DIALECT = Dialect(reasoning="reasoning", marks=True)
FATAL: tuple[str, ...] = ()
LOG_PATTERNS: reading.Patterns = ()


def read_load(text: str, at: float) -> Load:
    """What a metrics page says of the engine's load; what it does not say is None."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Our gauges (`reading.GAUGES`) on a metrics page."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """None: its log is not ours."""
    return None


def readiness(served_model: str) -> tuple[str, dict[str, object]]:
    """Path and body of a request whose answer proves that the model answers; fields that any engine takes."""
    body: dict[str, object] = {
        "model": served_model,
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
    }
    return "/v1/chat/completions", body
