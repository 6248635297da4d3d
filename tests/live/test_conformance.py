"""Public conformance tools against the running service: what passed before must pass.

The tools are `llm-comply` (PyPI: OpenAI chat, OpenAI responses, Anthropic messages) and `compatcanary` (npm). What
each said of every case is on record in `tests/data/conformance.json`; docs/compatibility.md is generated from it.
With `RECORD_CONFORMANCE=1` the record is written anew, from three runs of each tool: a case that did not end the same
way each time is recorded as `varies` (the demonstration model wanders at temperature 1) and is not held to anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[1] / "data" / "conformance.json"
RECORDING = os.environ.get("RECORD_CONFORMANCE") == "1"
RUNS = 3 if RECORDING else 1
COMPLY = {"openai-chat": "/v1", "open-responses": "/v1", "anthropic": "/v1"}

Results = dict[str, dict[str, str]]  # case: {"status": ..., "why": ...}


def run(words: list[str], env: dict[str, str] | None = None) -> dict[str, object]:
    """The JSON report that a tool prints; its exit code says only that some case failed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=env)
    try:
        report: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"{words[0]} printed no report: {done.stdout[-500:]}{done.stderr[-500:]}")
    return report


def comply(service, form: str) -> Results:
    tool = Path(sys.executable).with_name("llm-comply")
    words = [str(tool), "--json", "--format", form, "-u", service.url + COMPLY[form], "-m", service.model]
    report = run([*words, "-k", service.key])
    return {
        case["id"]: {"status": case["status"], "why": "; ".join(case.get("errors", [])[:2])}
        for case in report["results"]
    }


def canary(service, node_modules: Path, profile: str) -> Results:
    cli = node_modules / "node_modules" / "compatcanary" / "src" / "cli.js"
    words = ["node", str(cli), "scan", "--base-url", service.v1, "--model", service.model]
    env = {**os.environ, "OPENAI_API_KEY": service.key}
    report = run([*words, "--profile", profile, "--format", "json"], env)
    statuses = {"pass": "passed", "fail": "failed", "warn": "failed", "skip": "skipped"}
    return {
        case["id"]: {
            "status": statuses.get(case["status"], case["status"]),
            "why": "" if case["status"] == "pass" else case["summary"],
        }
        for case in report["results"]
    }


def settle(runs: list[Results]) -> Results:
    """One result for each case; `varies` where the runs disagree."""
    settled = dict(runs[0])
    for case, result in settled.items():
        if len({one.get(case, {}).get("status") for one in runs}) > 1:
            settled[case] = {
                "status": "varies",
                "why": next((one[case]["why"] for one in runs if one[case]["why"]), ""),
            }
        result.setdefault("why", "")
    return settled


def compare(tool: str, found: Results) -> None:
    """Nothing that passed may fail, and every case must be on record."""
    if RECORDING:
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        record[tool] = found
        RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2, ensure_ascii=False) + "\n")
        return
    recorded: Results = json.loads(RECORD.read_text())[tool]
    worse = {case: found.get(case) for case, was in recorded.items() if was["status"] == "passed"}
    worse = {case: now for case, now in worse.items() if now is None or now["status"] != "passed"}
    assert not worse, f"{tool}: passed before, and not now: {worse}"
    assert set(found) == set(recorded), (
        f"{tool}: the cases have changed; record them anew (RECORD_CONFORMANCE=1)"
    )
    better = [
        case
        for case, was in recorded.items()
        if was["status"] == "failed" and found[case]["status"] == "passed"
    ]
    if better:
        warnings.warn(f"{tool}: {better} pass now; record it (RECORD_CONFORMANCE=1)", stacklevel=2)


@pytest.mark.parametrize("form", COMPLY)
def test_llm_comply(service, form):
    compare(f"llm-comply {form}", settle([comply(service, form) for _ in range(RUNS)]))


@pytest.mark.parametrize("profile", ["modern"])
def test_compatcanary(service, node_modules, profile):
    compare(f"compatcanary {profile}", settle([canary(service, node_modules, profile) for _ in range(RUNS)]))
