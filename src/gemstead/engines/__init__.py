"""The engines, by the name that a spec and an endpoint use. One file each; all answer the same questions.

Every adapter has `HEALTH_PATH`, `METRICS_PATH`, `METRICS`, `CAPABILITIES` (routes), `LOG_PATTERNS`, `read_load`,
`read_gauges`, `read_log` and `readiness`; those that we start ourselves have `launch`.
"""

from __future__ import annotations

from types import ModuleType

from gemstead.engines import embedded, external, llamacpp, vllm

ENGINES: dict[str, ModuleType] = {
    "embedded": embedded,
    "llamacpp": llamacpp,
    "vllm": vllm,
    "external": external,
}
