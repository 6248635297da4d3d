"""Alerts: Prometheus' own tool takes them, each fires when it should and keeps still when it should, and each metric
that they ask for is one that Gemstead shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.observe.alerts import ALERTS, page, rules
from gemstead.observe.names import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"
# Series that make an alert fire, and series that do not, as promtool writes them; 400 minutes, one value a minute.
BAD, GOOD = (
    'gemstead_requests_total{outcome="upstream_failed",model="m"}',
    'gemstead_requests_total{outcome="served",model="m"}',
)


def histogram(name: str, at: float, rate: int = 60) -> dict[str, str]:
    """Observations of which all lie just below `at`."""
    bounds = [bound for bound in FAMILIES[name].buckets if bound < at]
    buckets = {f'{name}_bucket{{le="{bound:g}",model="m"}}': "0x400" for bound in bounds}
    return buckets | {f'{name}_bucket{{le="{le}",model="m"}}': f"0+{rate}x400" for le in (f"{at:g}", "+Inf")}


CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "GemsteadMissing": ({}, {"gemstead_build_info": "1x400"}),
    "GemsteadNoEndpoint": (
        {'gemstead_requests_total{outcome="no_endpoint",model="m"}': "0+6x400"},
        {'gemstead_requests_total{outcome="no_endpoint",model="m"}': "7x400"},
    ),
    "GemsteadErrorsFast": ({BAD: "0+10x400", GOOD: "0+100x400"}, {BAD: "0+1x400", GOOD: "0+100x400"}),
    "GemsteadErrorsSlow": ({BAD: "0+4x400", GOOD: "0+100x400"}, {BAD: "0+2x400", GOOD: "0+100x400"}),
    "GemsteadFirstTokenSlow": (
        histogram("gemstead_time_to_first_token_seconds", 10),
        histogram("gemstead_time_to_first_token_seconds", 2.5),
    ),
    "GemsteadTokensSlow": (
        histogram("gemstead_time_per_output_token_seconds", 0.5),
        histogram("gemstead_time_per_output_token_seconds", 0.1),
    ),
    "GemsteadQueueLong": ({"gemstead_queue_waiting": "21x400"}, {"gemstead_queue_waiting": "20x400"}),
    "GemsteadCacheFull": (
        {'gemstead_engine_kv_used_ratio{endpoint="a"}': "0.97x400"},
        {'gemstead_engine_kv_used_ratio{endpoint="a"}': "0.94x400"},
    ),
    "GemsteadDrafterWrong": (
        {'gemstead_engine_draft_kept_ratio{endpoint="a"}': "0.15x400"},
        {'gemstead_engine_draft_kept_ratio{endpoint="a"}': "0.25x400"},
    ),
    "GemsteadReplicaRestarting": (
        {'gemstead_replica_restarts_total{replica="a"}': "0+1x400"},
        {'gemstead_replica_restarts_total{replica="a"}': "0x390 1x10"},
    ),
    "GemsteadBreakerOpen": (
        {'gemstead_breaker_open{endpoint="a"}': "1x400"},
        {'gemstead_breaker_open{endpoint="a"}': "0x400"},
    ),
    "GemsteadWorkerRestarting": (
        {"gemstead_worker_restarts_total": "0+1x400"},
        {"gemstead_worker_restarts_total": "0x390 1x10"},
    ),
    "GemsteadLedgerFailing": (
        {"gemstead_ledger_healthy": "0x400"},
        {"gemstead_ledger_healthy": "1x400"},
    ),
    "GemsteadStoreAway": ({"gemstead_store_up": "0x400"}, {"gemstead_store_up": "1x400"}),
    "GemsteadLoopLagging": (
        histogram("gemstead_loop_lag_seconds", 0.25),
        histogram("gemstead_loop_lag_seconds", 0.05),
    ),
}
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def told(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@promtool
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()), "utf-8")
    assert f"{len(ALERTS)} rules found" in told(tmp_path, "check", "rules", "rules.yaml")


@promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()), "utf-8")
    tests = [
        case(name, series, fires)
        for name, both in CASES.items()
        for fires, series in zip((True, False), both, strict=True)
    ]
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content), "utf-8")
    told(tmp_path, "test", "rules", "tests.yaml")


def case(name: str, series: dict[str, str], fires: bool) -> dict[str, Any]:
    """One unit test: whether the alert is among those that fire after 400 minutes."""
    expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": "400m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}
        ],
    }


def test_every_alert_has_a_case_of_both_kinds() -> None:
    assert set(CASES) == {one.name for one in ALERTS}


def test_alerts_ask_for_metrics_that_there_are() -> None:
    for one in ALERTS:
        for metric in re.findall(r"gemstead_[a-z_]+", one.expression):
            assert re.sub(r"_(bucket|count|sum)$", "", metric) in FAMILIES, f"{one.name}: {metric}"


def test_the_page_is_the_written_one() -> None:
    assert (DOCS / "runbooks.md").read_text("utf-8") == page(), (
        "run: python -c 'from gemstead.observe.alerts import page; print(page(), end=\"\")' > docs/runbooks.md"
    )
