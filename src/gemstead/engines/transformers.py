"""Transformers (`transformers serve`): how it is started and what it says of itself. For trying a checkpoint out.

It answers one request at a time, has no metrics, no limit on prompts, no `[DONE]`, and ignores `response_format` (run
with 5.22.2 and 5.23.0, 2026-11-20). The model is called as it was started, and answers carry `@main` behind the name.
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
METRICS_PATH = ""  # none
METRICS: reading.Metrics = dict.fromkeys(reading.GAUGES, ())
CAPABILITIES = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/models"})
DIALECT = Dialect(marks=True, done=False)
FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (re.compile(r"Loading weights:\s+(?P<percent>\d+)%"), "loading", r"loading the model, \g<percent> %"),
    (
        re.compile(r"does not support continuous batching"),
        "serial",
        "it answers one request at a time",
        "use engine vllm or llamacpp for more than a trial",
    ),
    (
        re.compile(r"set of layer types producing a cache is different"),
        "version",
        "Transformers 5.23.0 cannot build the drafter",
        "`draft: off`, or another version",
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

    return Words(served_model=placement.setup.checkpoint.repo, metrics_path=METRICS_PATH)


readiness = external.readiness


def read_load(text: str, at: float) -> Load:
    """Nothing: it reports no load."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Nothing: it has no metrics."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """What a line of the engine's log means; None for the many that mean nothing to a user."""
    return reading.log_event(line, LOG_PATTERNS, FATAL)
