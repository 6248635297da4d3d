"""The Grafana dashboard: what a person looks at when an alert has come, from the whole down to one engine.

Rows follow a call: what callers see, what the gateway does, what the engines do. Every panel asks only for metrics of
`names.py`. The same content every time; Grafana's own form (schema 39, read by Grafana 10 and later).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
MODEL = 'model=~"$model"'
WIDTH, HEIGHT = 8, 8  # three panels to a row of 24
SCHEMA = 39


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `lines` are (expression, legend)."""

    title: str
    unit: str  # Grafana's name of it: s, percentunit, reqps, short
    lines: tuple[tuple[str, str], ...]
    means: str


def _quantiles(name: str, by: str = MODEL) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({share}, sum by (le) (rate({name}_bucket{{{by}}}[$__rate_interval])))",
            f"p{round(share * 100)}",
        )
        for share in (0.5, 0.95, 0.99)
    )


def _rate(name: str, by: str, labels: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{{labels}}}[$__rate_interval]))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "What callers see": (
        Panel(
            "Calls",
            "reqps",
            ((_rate("gemstead_requests_total", "outcome", MODEL), "{{outcome}}"),),
            "Calls a second by how they ended.",
        ),
        Panel(
            "Time to first token",
            "s",
            _quantiles("gemstead_time_to_first_token_seconds"),
            "Until a streamed answer begins.",
        ),
        Panel(
            "Time per output token",
            "s",
            _quantiles("gemstead_time_per_output_token_seconds"),
            "After the first one.",
        ),
        Panel(
            "Whole calls",
            "s",
            _quantiles("gemstead_request_seconds"),
            "From arrival to the end of the answer.",
        ),
        Panel(
            "Tokens",
            "short",
            ((_rate("gemstead_tokens_total", "direction", MODEL), "{{direction}}"),),
            "Tokens a second; cached ones are part of the prompt's.",
        ),
        Panel(
            "Prompt found in caches",
            "percentunit",
            (
                (
                    f'sum(rate(gemstead_tokens_total{{direction="cached",{MODEL}}}[$__rate_interval]))'
                    f' / sum(rate(gemstead_tokens_total{{direction="prompt",{MODEL}}}[$__rate_interval]))',
                    "share",
                ),
            ),
            "Share of prompt tokens that an engine had computed already.",
        ),
    ),
    "The gateway": (
        Panel(
            "In flight and waiting",
            "short",
            (("sum(gemstead_in_flight)", "in flight"), ("sum(gemstead_queue_waiting)", "waiting")),
            "Calls at this moment.",
        ),
        Panel(
            "Moved and kept away",
            "short",
            (
                ("sum(rate(gemstead_upstream_retries_total[$__rate_interval]))", "moved a second"),
                ("sum(gemstead_breaker_open)", "endpoints kept away from"),
            ),
            "Calls moved to another endpoint, and endpoints that calls avoid.",
        ),
        Panel(
            "Time in the queue",
            "s",
            _quantiles("gemstead_queue_seconds", ""),
            "Of calls that had to wait for a free place.",
        ),
        Panel(
            "Copies of slow calls",
            "short",
            (("sum(rate(gemstead_hedges_total[$__rate_interval]))", "sent"),),
            "Calls sent to a second engine as well because the first was silent.",
        ),
        Panel("Event loop", "s", _quantiles("gemstead_loop_lag_seconds", ""), "How late the gateway is."),
        Panel(
            "Tenants",
            "reqps",
            ((f"topk(10, {_rate('gemstead_requests_total', 'tenant', MODEL)})", "{{tenant}}"),),
            "The ten that send most.",
        ),
        Panel(
            "Records to be written",
            "short",
            (
                ("sum(gemstead_ledger_held_records)", "held"),
                ("min(gemstead_ledger_healthy)", "can be written"),
                ("sum(gemstead_store_waiting_records)", "wait for the store"),
                ("min(gemstead_store_up)", "the store answers"),
            ),
            "Audit records in memory; a few are normal.",
        ),
        Panel(
            "Limits",
            "short",
            (
                (
                    "sum by (rule, level) (increase(gemstead_budget_warnings_total[1h]))",
                    "{{rule}} came to {{level}} in the last hour",
                ),
                ("min(gemstead_limit_store_healthy)", "their store answers"),
            ),
            "Budgets that are nearly or wholly used, and whether counters can be had.",
        ),
        Panel(
            "Media by address",
            "short",
            (
                (
                    "sum by (outcome) (rate(gemstead_media_calls_total[$__rate_interval]))",
                    "{{outcome}} a second",
                ),
                ("sum(rate(gemstead_media_fetched_bytes_total[$__rate_interval]))", "bytes a second"),
            ),
            "Calls whose images, sounds or videos the gateway fetches (gateway.media: fetch).",
        ),
        Panel(
            "Other gateways",
            "short",
            (
                ("min(gemstead_sharing_healthy)", "are heard"),
                ("max(gemstead_sharing_others)", "workers heard"),
                ("sum(gemstead_endpoint_others)", "calls of others"),
                (
                    "sum by (what) (rate(gemstead_sharing_heads_total[$__rate_interval]))",
                    "prompts {{what}} a second",
                ),
            ),
            "What gateways tell each other of their calls (traffic.sharing).",
        ),
        Panel(
            "Workers",
            "short",
            (
                ("sum(gemstead_worker_up)", "up"),
                ("sum(increase(gemstead_worker_restarts_total[1h]))", "replaced in the last hour"),
            ),
            "Gateway processes.",
        ),
    ),
    "The engines": (
        Panel(
            "Requests in engines",
            "short",
            (
                ("sum by (endpoint) (gemstead_engine_running)", "{{endpoint}} running"),
                ("sum by (endpoint) (gemstead_engine_waiting)", "{{endpoint}} waiting"),
            ),
            "As the engines say.",
        ),
        Panel(
            "Caches by the engines' own word",
            "short",
            (
                ("min by (endpoint) (gemstead_kv_events_live)", "{{endpoint}} is heard"),
                ("max by (endpoint) (gemstead_kv_prompts)", "{{endpoint}} prompts"),
                (
                    'sum by (endpoint, what) (increase(gemstead_kv_events_total{what=~"gaps|restarts|unplaced"}[5m]))',
                    "{{endpoint}} {{what}}",
                ),
            ),
            "Prefix caches as KV events tell them (traffic.kv_events).",
        ),
        Panel(
            "Cache in use",
            "percentunit",
            (("max by (endpoint) (gemstead_engine_kv_used_ratio)", "{{endpoint}}"),),
            "Share of the key-value cache; above 0.95 requests are put off.",
        ),
        Panel(
            "Replicas",
            "short",
            (("sum by (state) (gemstead_replica_state)", "{{state}}"),),
            "How many are in which state.",
        ),
        Panel(
            "Replicas wanted",
            "short",
            ((f"max by (model) (gemstead_desired_replicas{{{MODEL}}})", "{{model}}"),),
            "As many as the load asks for; more than there are: callers wait, or will.",
        ),
        Panel(
            "First token by endpoint",
            "s",
            (
                (
                    "histogram_quantile(0.95, sum by (le, endpoint) "
                    "(rate(gemstead_endpoint_time_to_first_token_seconds_bucket[$__rate_interval])))",
                    "{{endpoint}}",
                ),
            ),
            "p95; one that stands apart is the one to look at.",
        ),
        Panel(
            "Calls by endpoint",
            "reqps",
            ((_rate("gemstead_endpoint_calls_total", "endpoint, outcome"), "{{endpoint}} {{outcome}}"),),
            "Served and failed.",
        ),
        Panel(
            "Drafts kept",
            "percentunit",
            (("max by (endpoint) (gemstead_engine_draft_kept_ratio)", "{{endpoint}}"),),
            "Share of drafted tokens that the model kept; below 0.2 the drafter is the wrong one.",
        ),
        Panel(
            "Started again",
            "short",
            (("sum by (replica) (increase(gemstead_replica_restarts_total[1h]))", "{{replica}}"),),
            "In the last hour.",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard's content, to be written as JSON."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "type": "row",
                "title": title,
                "id": len(panels) + 1,
                "gridPos": _place(0, y, 24, 1),
                "panels": [],
            }
        )
        y += 1
        for number, panel in enumerate(row):
            x, down = number % 3 * WIDTH, number // 3 * HEIGHT
            panels.append(_panel(panel, len(panels) + 1, _place(x, y + down, WIDTH, HEIGHT)))
        y += -(-len(row) // 3) * HEIGHT
    return {
        "uid": "gemstead",
        "title": "Gemstead",
        "tags": ["gemstead"],
        "schemaVersion": SCHEMA,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _models()]},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.means,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for at, (expression, legend) in enumerate(panel.lines)
        ],
    }


def _place(x: int, y: int, wide: int, high: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": wide, "h": high}


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source", "hide": 0}


def _models() -> dict[str, Any]:
    return {
        "name": "model",
        "type": "query",
        "label": "Model",
        "datasource": SOURCE,
        "query": {"query": "label_values(gemstead_requests_total, model)", "refId": "models"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
