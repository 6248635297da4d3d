"""When somebody has to look: alerts for Prometheus, each with what it means and what to do about it.

Every alert asks for something a person can do; what mends itself (one restart, one retry) is not among them. A missing
metric is an alert, never a silent zero. The error budget follows the multi-window scheme of the Site Reliability
Workbook (chapter 5): 14.4 times the budgeted rate over an hour burns 2 % of a month's, 6 times over six hours 5 %; the
shorter window beside each ends the alert soon after the trouble has. A client's own mistakes (4xx) burn nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GOAL = 0.995  # of calls that are not the caller's fault; 3.6 hours a month
OURS = "upstream_failed|no_endpoint|deadline|internal|ledger_unavailable|cut"  # outcomes that are our fault
RUNBOOKS = "docs/runbooks.md"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `wait` is how long the expression has to hold, as Prometheus writes it."""

    name: str
    expression: str
    wait: str
    severity: str  # "critical": somebody is woken; "warning": somebody looks today
    summary: str
    means: str
    do: str


def _burn(long: str, short: str, times: float) -> str:
    limit = f"{times:g} * {1 - GOAL:g}"
    return " and ".join(f"{_bad_share(window)} > {limit}" for window in (long, short))


def _bad_share(window: str) -> str:
    bad = f'sum(rate(gemstead_requests_total{{outcome=~"{OURS}"}}[{window}]))'
    return f"({bad} / sum(rate(gemstead_requests_total[{window}])))"


ALERTS: tuple[Alert, ...] = (
    Alert(
        "GemsteadMissing",
        "absent(gemstead_build_info)",
        "5m",
        "critical",
        "No Gemstead is being scraped",
        "The gateway is down, or Prometheus cannot reach its admin port (4368).",
        "`gemstead ps` on its host; `curl http://HOST:4368/healthz` from Prometheus' host; then the service's log.",
    ),
    Alert(
        "GemsteadNoEndpoint",
        'sum by (model) (rate(gemstead_requests_total{outcome="no_endpoint"}[5m])) > 0',
        "2m",
        "critical",
        "Calls for {{ $labels.model }} find no engine that is ready",
        "Every replica of the model is starting, draining or failing.",
        "`gemstead ps` says which state each is in and why; `gemstead logs NAME` shows its last words.",
    ),
    Alert(
        "GemsteadErrorsFast",
        _burn("1h", "5m", 14.4),
        "2m",
        "critical",
        "A month's error budget would be gone in two days",
        f"More than {14.4 * (1 - GOAL):.1%} of calls fail by our fault.",
        "`gemstead audit tail --where outcome=upstream_failed` shows which endpoint and model; then its log.",
    ),
    Alert(
        "GemsteadErrorsSlow",
        _burn("6h", "30m", 6),
        "15m",
        "warning",
        "A month's error budget would be gone in five days",
        f"More than {6 * (1 - GOAL):.1%} of calls have failed by our fault for hours.",
        "As for GemsteadErrorsFast; nobody need get up for it.",
    ),
    Alert(
        "GemsteadFirstTokenSlow",
        "histogram_quantile(0.95, sum by (le, model) (rate(gemstead_time_to_first_token_seconds_bucket[5m]))) > 5",
        "10m",
        "warning",
        "One answer in twenty of {{ $labels.model }} begins after more than 5 s",
        "Prompts are long, the engines are full, or their prefix cache has stopped helping.",
        "Look at gemstead_engine_waiting and gemstead_engine_kv_used_ratio: full engines want replicas "
        "(`gemstead plan --users N`), idle ones with slow answers a look at their log.",
    ),
    Alert(
        "GemsteadTokensSlow",
        "histogram_quantile(0.95, sum by (le, model) (rate(gemstead_time_per_output_token_seconds_bucket[5m]))) > 0.25",
        "10m",
        "warning",
        "One answer in twenty of {{ $labels.model }} comes at less than four tokens a second",
        "Too many requests run at once in one engine, or a card is throttled.",
        "`gemstead doctor` names throttled cards; fewer requests at once (`slots`) make each quicker.",
    ),
    Alert(
        "GemsteadQueueLong",
        "sum(gemstead_queue_waiting) > 20",
        "5m",
        "warning",
        "More than 20 calls wait for an engine",
        "The engines are full and callers wait.",
        "More replicas, or a lower priority for those who can wait; `gemstead usage` shows who sends most.",
    ),
    Alert(
        "GemsteadCacheFull",
        "max by (endpoint) (gemstead_engine_kv_used_ratio) > 0.95",
        "10m",
        "warning",
        "The cache of {{ $labels.endpoint }} has been full for ten minutes",
        "The engine puts requests off and computes parts of them twice.",
        "A shorter context, fewer requests at once, an 8-bit cache, or another replica: `gemstead plan` compares them.",
    ),
    Alert(
        "GemsteadDrafterWrong",
        "max by (endpoint) (gemstead_engine_draft_kept_ratio) < 0.2",
        "10m",
        "warning",
        "{{ $labels.endpoint }} throws away four of five drafted tokens",
        "Its drafter does not belong to its weights, or the traffic cannot be drafted: it costs time and gains none.",
        '`gemstead ps` says which one it has; take the model\'s own (`draft: auto`) or none (`draft: "off"`).',
    ),
    Alert(
        "GemsteadReplicaRestarting",
        "increase(gemstead_replica_restarts_total[30m]) > 3",
        "0m",
        "critical",
        "{{ $labels.replica }} has been started more than three times in half an hour",
        "It dies or hangs again and again.",
        "`gemstead ps` gives the reason with its remedy; `gemstead logs` the engine's own words.",
    ),
    Alert(
        "GemsteadBreakerOpen",
        "max by (endpoint) (gemstead_breaker_open) == 1",
        "5m",
        "warning",
        "Calls have been kept away from {{ $labels.endpoint }} for five minutes",
        "Its calls fail although it says that it is ready.",
        "Ask it directly (`curl http://HOST:PORT/v1/models`), then restart it: `gemstead restart NAME`.",
    ),
    Alert(
        "GemsteadWorkerRestarting",
        "increase(gemstead_worker_restarts_total[30m]) > 1",
        "0m",
        "critical",
        "A gateway worker has died more than once in half an hour",
        "Streams that ran in it were cut.",
        "The service's log has its last words; a bug report with them is welcome.",
    ),
    Alert(
        "GemsteadLedgerFailing",
        "min(gemstead_ledger_healthy) == 0",
        "1m",
        "critical",
        "Audit records cannot be written",
        "The disk is full or read-only; records are held in memory, or calls refused, as `ledger.on_error` says.",
        "Make room on the disk of `state_dir`; what is held is written then, in order.",
    ),
    Alert(
        "GemsteadStoreAway",
        "min(gemstead_store_up) == 0",
        "2m",
        "critical",
        "A gateway cannot reach the store that it shares with others",
        "It serves with the keys that it knew last, so nobody new is let in and nobody is shut out; audit records wait "
        "on its disk, up to `ledger.spool_mib`.",
        "Bring PostgreSQL back, or mend the way to it; `gemstead ps` says why it does not answer. What waits is "
        "written then.",
    ),
    Alert(
        "GemsteadLoopLagging",
        "histogram_quantile(0.99, sum by (le) (rate(gemstead_loop_lag_seconds_bucket[5m]))) > 0.1",
        "10m",
        "warning",
        "The gateway is a tenth of a second late",
        "A worker has more to do than one processor can, or the host is overloaded.",
        "Another worker (`gateway.workers`), or a look at what else runs on the host.",
    ),
)


def rules(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """The alerts as the content of a Prometheus rule file. `runbooks`: address of the page about them."""
    return {
        "groups": [
            {
                "name": "gemstead",
                "rules": [
                    {
                        "alert": one.name,
                        "expr": one.expression,
                        "for": one.wait,
                        "labels": {"severity": one.severity},
                        "annotations": {
                            "summary": one.summary,
                            "description": f"{one.means} {one.do}",
                            "runbook_url": f"{runbooks}#{one.name.casefold()}",
                        },
                    }
                    for one in ALERTS
                ],
            }
        ]
    }


def page() -> str:
    """docs/runbooks.md: what each alert means and what to do."""
    parts = [
        "# Runbooks",
        "",
        "<!-- Written from src/gemstead/observe/alerts.py: change it there. -->",
        "",
        "What each alert means and what to do. `gemstead render compose` and `kubernetes` install them.",
        "",
    ]
    for one in ALERTS:
        parts += [
            f"## {one.name}",
            "",
            f"**{one.summary.replace('{{ $labels.', '').replace(' }}', '')}** ({one.severity})",
            "",
        ]
        parts += [f"*Means:* {one.means}", "", f"*Do:* {one.do}", "", "```promql", one.expression, "```", ""]
    return "\n".join(parts)
