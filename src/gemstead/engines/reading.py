"""What an engine says about itself, in our words: the gauges that every adapter maps to, and its log's news.

An adapter's `METRICS` names, for each of our gauges, the engine's metrics that carry it, newest name first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemstead.engines import prometheus
from gemstead.traffic.endpoint import Load

GAUGES = (
    "running",  # requests being served
    "waiting",  # requests accepted and queued
    "kv_used",  # share of the cache in use, 0 to 1
    "tokens_in",  # prompt tokens since start
    "tokens_cached",  # of these, found in the prefix cache
    "tokens_out",  # generated tokens since start
    "drafted",  # tokens proposed by the draft model since start
    "accepted",  # of these, kept
)
Metrics = Mapping[str, tuple[str, ...]]
Patterns = Sequence[tuple[re.Pattern[str], str, str]]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of news. `done` is a share, 0 to 1, where the line says how far loading is."""

    kind: str
    sentence: str
    fatal: bool = False
    done: float | None = None


def gauges(text: str, metrics: Metrics) -> dict[str, float]:
    """Our gauges on an engine's metrics page; what the page does not have is left out."""
    found = prometheus.read(text, {name for names in metrics.values() for name in names})
    chosen = {ours: next((n for n in names if n in found), None) for ours, names in metrics.items()}
    return {ours: found[name] for ours, name in chosen.items() if name is not None}


def load(text: str, at: float, metrics: Metrics) -> Load:
    """The figures that routing uses. `at` is the scrape's time, monotonic seconds."""
    found = gauges(text, metrics)
    running, waiting = found.get("running"), found.get("waiting")
    return Load(
        at=at,
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_used=found.get("kv_used"),
    )


def log_event(line: str, patterns: Patterns, fatal: Sequence[str]) -> LogEvent | None:
    """What a log line means; None for the many that mean nothing to a user."""
    for pattern, kind, sentence in patterns:
        if match := pattern.search(line):
            percent = match.groupdict().get("percent")
            done = None if percent is None else int(percent) / 100
            return LogEvent(kind, match.expand(sentence), kind in fatal, done)
    return None
