"""Whether an engine gets on: one figure that grows with every step of its work.

llama.cpp counts a request's tokens only when the request has ended (build 11549), so a long answer would
look like a hang; its count of decode steps grows all the while, during prefill too. vLLM counts tokens at
each iteration.
"""

from __future__ import annotations

from gemstead.engines import prometheus

COUNTERS = frozenset(
    {
        "llamacpp:n_decode_total",
        "llamacpp:tokens_predicted_total",
        "llamacpp:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:iteration_tokens_total_count",
    }
)


def progress(text: str) -> float | None:
    """The sum of what an engine's metrics page counts; None when it counts nothing we know."""
    found = prometheus.read(text, COUNTERS)
    return sum(found.values()) if found else None
