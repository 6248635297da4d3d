"""The engines, by the name that a spec and an endpoint use. One file each; all answer the same questions.

Every adapter has `HEALTH_PATH`, `METRICS_PATH` (empty: it has none), `METRICS`, `CAPABILITIES` (routes), `DIALECT`
(what the gateway evens out), `LOG_PATTERNS`, `read_load`, `read_gauges`, `read_log` and `readiness`; those that we
start ourselves have `launch`. What each of them has been proven with is in docs/engines.md.
"""

from __future__ import annotations

from types import ModuleType

from gemstead.engines import (
    embedded,
    external,
    llamacpp,
    ollama,
    sglang,
    tensorrt_llm,
    tgi,
    transformers,
    vllm,
)

ENGINES: dict[str, ModuleType] = {
    "embedded": embedded,
    "vllm": vllm,
    "sglang": sglang,
    "llamacpp": llamacpp,
    "ollama": ollama,
    "tgi": tgi,
    "tensorrt_llm": tensorrt_llm,
    "transformers": transformers,
    "external": external,
}
