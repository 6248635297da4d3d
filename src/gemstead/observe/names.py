"""Every metric that Gemstead shows: one table, which code, dashboards, alerts and docs/metrics.md all read.

Times are in seconds, shares are 0 to 1. `model` is the pool that a call was routed to (never the text that
a caller wrote, which has no bound), `outcome` is "served", "cut" or a Reason's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gemstead.observe.metrics import Family

_CALL = ("tenant", "model")

# A thinking model with a long prompt may take minutes to its first token, a cached short one milliseconds.
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600)
# From 1,000 tokens per second down to a stalled stream.
_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    10,
)
_WHOLE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600, 1200, 3600)
_LAG = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
# Fine enough to tell a release that is half as slow again: each bound is 1.5 times the last, from 1 ms to 7 min.
_COMPARED = tuple(float(f"{0.001 * 1.5**n:.3g}") for n in range(33))


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(name=f"gemstead_{name}", kind="counter", help=help, labels=labels)


def _gauge(name: str, help: str, *labels: str, merge: str = "sum") -> Family:
    return Family(name=f"gemstead_{name}", kind="gauge", help=help, labels=labels, merge=merge)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Family:
    return Family(name=f"gemstead_{name}", kind="histogram", help=help, labels=labels, buckets=buckets)


REQUESTS = _counter("requests_total", "Calls, served or refused.", *_CALL, "route", "outcome")
TOKENS = _counter(
    "tokens_total",
    "Tokens. prompt counts all of the prompt; cached is the part of it that the engine had already computed.",
    *_CALL,
    "direction",
)
FIRST_TOKEN = _histogram(
    "time_to_first_token_seconds",
    "From the request's arrival to the first byte of its streamed answer.",
    _FIRST,
    *_CALL,
)
PER_OUTPUT_TOKEN = _histogram(
    "time_per_output_token_seconds", "Mean time per token of a stream after its first one.", _TOKEN, *_CALL
)
INTER_TOKEN = _histogram(
    "inter_token_seconds", "Pause between two reads of one stream from the engine.", _TOKEN
)
REQUEST_SECONDS = _histogram(
    "request_seconds", "From the request's arrival to the end of its answer.", _WHOLE, *_CALL
)
IN_FLIGHT = _gauge("in_flight", "Calls that are being worked on.")
QUEUE_WAITING = _gauge("queue_waiting", "Calls that wait in the gateway for a free place.")
DESIRED_REPLICAS = _gauge(
    "desired_replicas",
    "Replicas that the model's load asks for, from calls and tokens that run and wait; not shown while it sleeps.",
    "model",
    merge="max",
)
QUEUE_SECONDS = _histogram(
    "queue_seconds",
    "How long a call waited in the gateway before it was sent to an engine, of those that did.",
    _FIRST,
)
RETRIES = _counter(
    "upstream_retries_total", "Calls that were moved to another endpoint before their first byte."
)
HEDGES = _counter("hedges_total", "Second copies of late calls, sent to an idle endpoint (traffic.hedge).")
ENDPOINT_CALLS = _counter(
    "endpoint_calls_total",
    "Calls sent to this endpoint that it served, or failed: a 5xx, a lost connection, no answer in time. "
    "A call that failed here may have been served elsewhere.",
    "endpoint",
    "outcome",
)
ENDPOINT_FIRST_TOKEN = _histogram(
    "endpoint_time_to_first_token_seconds",
    "As gemstead_time_to_first_token_seconds, of calls that this endpoint got first.",
    _COMPARED,
    "endpoint",
)
ENDPOINT_PER_OUTPUT_TOKEN = _histogram(
    "endpoint_time_per_output_token_seconds",
    "Mean time per token: of a stream after its first one, of a whole answer all of it.",
    _COMPARED,
    "endpoint",
)
BREAKER_OPEN = _gauge(
    "breaker_open", "1 while calls avoid this endpoint because it failed.", "endpoint", merge="max"
)
ENGINE_RUNNING = _gauge(
    "engine_running", "Requests that the engine is working on.", "endpoint", "engine", merge="max"
)
ENGINE_WAITING = _gauge(
    "engine_waiting", "Requests that wait inside the engine.", "endpoint", "engine", merge="max"
)
ENGINE_KV_USED = _gauge(
    "engine_kv_used_ratio", "Share of the engine's key-value cache in use.", "endpoint", "engine", merge="max"
)
ENGINE_DRAFT_KEPT = _gauge(
    "engine_draft_kept_ratio",
    "Share of the drafter's tokens that the model kept in the last whole window; below 0.2 it is the wrong drafter.",
    "endpoint",
    "engine",
    merge="min",
)
REPLICA_STATE = _gauge(
    "replica_state", "1 for the state that a replica is in.", "replica", "state", merge="max"
)
REPLICA_RESTARTS = _counter(
    "replica_restarts_total", "Times that an engine process was started again.", "replica"
)
WORKER_RESTARTS = _counter("worker_restarts_total", "Gateway workers that died and were replaced.")
WORKER_UP = _gauge("worker_up", "1 while this gateway worker answers.", "worker", merge="max")
LEDGER_HELD = _gauge("ledger_held_records", "Audit records that are not on disk yet.")
LEDGER_HEALTHY = _gauge("ledger_healthy", "1 while audit records can be written.", merge="min")
STORE_UP = _gauge("store_up", "1 while the store that several gateways share answers.", merge="min")
STORE_WAITING = _gauge("store_waiting_records", "Audit records that the shared store does not have yet.")
BUDGET_WARNINGS = _counter(
    "budget_warnings_total",
    "Budgets that came to 80 or 100 percent of their limit, as seen by workers.",
    "rule",
    "limit",
    "level",
)
MEDIA_CALLS = _counter(
    "media_calls_total",
    "Calls that named media by address, where the gateway fetches them: fetched, failed, forbidden (not an address "
    "that the file allows), turned_away (too many at once), left (the caller went).",
    "outcome",
)
MEDIA_BYTES = _counter("media_fetched_bytes_total", "Bytes of media that were fetched for calls.")
LIMIT_STORE_HEALTHY = _gauge(
    "limit_store_healthy", "1 while the store of limits and budgets answers.", merge="min"
)
SHARING_HEALTHY = _gauge(
    "sharing_healthy", "1 while this gateway hears of the others (traffic.sharing).", merge="min"
)
SHARING_OTHERS = _gauge(
    "sharing_others", "Workers of this and of other gateways that one worker hears of.", merge="max"
)
ENDPOINT_OTHERS = _gauge(
    "endpoint_others", "Calls that other workers say they have at this endpoint.", "endpoint", merge="max"
)
SHARING_HEADS = _counter(
    "sharing_heads_total",
    "Prompts that other gateways said they sent (`taken`), and own ones that there was no room to say (`left_out`).",
    "what",
)
KV_EVENTS = _counter(
    "kv_events_total",
    "What an engine said of its prefix cache: messages, those that were said again, gaps that stayed, new beginnings "
    "(`restarts`), and calls whose prompts could (`placed`) or could not be found in them (`unplaced`).",
    "endpoint",
    "what",
)
KV_EVENTS_LIVE = _gauge(
    "kv_events_live", "1 while this engine's own word on its cache is heard.", "endpoint", merge="min"
)
KV_PROMPTS = _gauge("kv_prompts", "Prompts that this engine has, by its own word.", "endpoint", merge="max")
LOOP_LAG = _histogram("loop_lag_seconds", "How late the gateway's event loop ran a timer.", _LAG)
BUILD_INFO = _gauge("build_info", "Always 1; the version is in the label.", "version", merge="max")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        REQUESTS,
        TOKENS,
        FIRST_TOKEN,
        PER_OUTPUT_TOKEN,
        INTER_TOKEN,
        REQUEST_SECONDS,
        IN_FLIGHT,
        QUEUE_WAITING,
        DESIRED_REPLICAS,
        QUEUE_SECONDS,
        RETRIES,
        HEDGES,
        ENDPOINT_CALLS,
        ENDPOINT_FIRST_TOKEN,
        ENDPOINT_PER_OUTPUT_TOKEN,
        BREAKER_OPEN,
        ENGINE_RUNNING,
        ENGINE_WAITING,
        ENGINE_KV_USED,
        ENGINE_DRAFT_KEPT,
        REPLICA_STATE,
        REPLICA_RESTARTS,
        WORKER_RESTARTS,
        WORKER_UP,
        LEDGER_HELD,
        LEDGER_HEALTHY,
        STORE_UP,
        STORE_WAITING,
        BUDGET_WARNINGS,
        MEDIA_CALLS,
        MEDIA_BYTES,
        LIMIT_STORE_HEALTHY,
        SHARING_HEALTHY,
        SHARING_OTHERS,
        ENDPOINT_OTHERS,
        KV_EVENTS,
        KV_EVENTS_LIVE,
        KV_PROMPTS,
        SHARING_HEADS,
        LOOP_LAG,
        BUILD_INFO,
    )
}


def table(families: Mapping[str, Family] = FAMILIES) -> str:
    """docs/metrics.md: what each family means, its labels and its buckets."""
    return "\n".join(
        [*_HEAD, *_rows(families.values()), "", "## Buckets", "", *_buckets(families.values()), ""]
    )


_HEAD = (
    "# Metrics",
    "",
    "<!-- Written from src/gemstead/observe/names.py: change it there. -->",
    "",
    "`GET /metrics` answers in the Prometheus text format. Figures of all gateway workers are summed; gauges that",
    "every worker knows (such as an endpoint's breaker) show the highest, `gemstead_ledger_healthy` the lowest.",
    "",
    "Times are in seconds and shares from 0 to 1. `model` is the pool that a call was routed to, `outcome` is",
    "`served`, `cut` (the engine died in mid-answer) or the reason of the refusal. Label values are cut to 128",
    "characters; after 1,000 label sets in one family, further ones are counted under `other`.",
    "",
    "| metric | type | labels | meaning |",
    "| --- | --- | --- | --- |",
)


def _rows(families: Iterable[Family]) -> list[str]:
    return [f"| `{family.name}` | {family.kind} | {_labels(family)} | {family.help} |" for family in families]


def _labels(family: Family) -> str:
    return ", ".join(f"`{label}`" for label in family.labels) or "none"


def _buckets(families: Iterable[Family]) -> list[str]:
    return [
        f"- `{family.name}`: {', '.join(f'{bound:g}' for bound in family.buckets)}"
        for family in families
        if family.buckets
    ]
