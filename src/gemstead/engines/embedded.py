"""The embedded engine: llama.cpp in a process of ours. Everything that is heard of it is llama.cpp's; here is how
it is started."""

from __future__ import annotations

import sys
from pathlib import PurePath

from gemstead.engines.llamacpp import (
    CAPABILITIES,
    DIALECT,
    FATAL,
    HEALTH_PATH,
    LOG_PATTERNS,
    METRICS,
    METRICS_PATH,
    read_gauges,
    read_load,
    read_log,
    readiness,
)
from gemstead.plan.values import Launch, Replica

__all__ = [
    "CAPABILITIES",
    "DIALECT",
    "FATAL",
    "HEALTH_PATH",
    "KEY_VARIABLE",
    "LOG_PATTERNS",
    "METRICS",
    "METRICS_PATH",
    "launch",
    "read_gauges",
    "read_load",
    "read_log",
    "readiness",
]

KEY_VARIABLE = "GEMSTEAD_ENGINE_KEY"  # in the engine's environment: the bearer token that it asks for


def launch(
    replica: Replica, *, python: str = sys.executable, installed: object = None, api_key: str = ""
) -> Launch:
    """The process that runs a replica. With `api_key` only those who know it get answers. It comes with Gemstead, so
    `installed` says nothing."""
    model = replica.model
    argv = [python, "-m", "gemstead.embedded", "--model", model.path]
    if model.projector:
        argv += ["--projector", model.projector]
    argv += ["--host", replica.host, "--port", str(replica.port)]
    argv += ["--context", str(replica.context_tokens), "--slots", str(replica.slots)]
    argv += ["--threads", str(replica.threads), "--thinking", "on" if replica.thinking else "off"]
    argv += ["--alias", replica.pool, "--api-key-env", KEY_VARIABLE, "--log-level", replica.log_level]
    return Launch(
        name=replica.name,
        pool=replica.pool,
        engine=replica.engine,
        argv=tuple(argv),
        host=replica.host,
        port=replica.port,
        env={KEY_VARIABLE: api_key},
        health_path=HEALTH_PATH,
        metrics_path=METRICS_PATH,
        served_model=replica.pool,
        version=PurePath(model.path).name,
        context_tokens=replica.context_tokens,
        slots=replica.slots,
        api_key=api_key,
        start_s=replica.start_s,
        demonstration=model.demonstration,
        foreseen=replica.foreseen,
        thinking=replica.thinking,
    )
