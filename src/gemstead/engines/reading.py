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
SHARES = ("kv_used",)  # over several cores the mean counts, not the sum
# What a line looks like, its kind, the sentence, and what to do about it where there is something.
Patterns = Sequence[tuple[re.Pattern[str], str, str] | tuple[re.Pattern[str], str, str, str]]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of news. `done` is a share, 0 to 1, where the line says how far loading is.

    `remedy` says what to do, where anything helps. `kv_tokens` and `concurrency` are what an engine reports of its
    cache once it is laid out: tokens that it holds, and longest requests that fit at once.
    """

    kind: str
    sentence: str
    fatal: bool = False
    done: float | None = None
    remedy: str = ""
    kv_tokens: int | None = None
    concurrency: float | None = None


def gauges(text: str, metrics: Metrics) -> dict[str, float]:
    """Our gauges on an engine's metrics page; what the page does not have is left out."""
    wanted = {name for names in metrics.values() for name in names}
    found = prometheus.read(text, wanted, {name for ours in SHARES for name in metrics.get(ours, ())})
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
    """What a log line means; None for the many that mean nothing to a user.

    A pattern's groups may be `percent` (or `done` of `all` pieces), `tokens` and `times`.
    """
    for pattern, kind, sentence, *remedy in patterns:
        if match := pattern.search(line):
            named = match.groupdict()
            tokens, times = named.get("tokens"), named.get("times")
            return LogEvent(
                kind,
                match.expand(sentence),
                kind in fatal,
                _done(named),
                match.expand(remedy[0]) if remedy else "",
                None if tokens is None else int(tokens.replace(",", "")),
                None if times is None else float(times),
            )
    return None


def _done(named: Mapping[str, str | None]) -> float | None:
    percent, done, of = named.get("percent"), named.get("done"), named.get("all")
    if percent is not None:
        return int(percent) / 100
    return int(done) / int(of) if done and of and int(of) else None
