"""The dashboard: its expressions are PromQL about metrics that there are, and its panels lie side by side."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.observe.dashboard import dashboard
from gemstead.observe.names import FAMILIES


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] == "timeseries"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_panels_ask_for_metrics_and_labels_that_there_are() -> None:
    for expression in expressions():
        for metric, labels in re.findall(r"(gemstead_[a-z_]+)(?:\{([^}]*)\})?", expression):
            family = FAMILIES[re.sub(r"_(bucket|count|sum)$", "", metric)]
            for label in re.findall(r"(\w+)=~?\"", labels):
                assert label in family.labels, f"{metric} has no label {label}"


# Measured for something else than to be looked at: by version, by `gemstead rollout`, or in a benchmark.
ELSEWHERE = {
    "gemstead_build_info",
    "gemstead_endpoint_time_per_output_token_seconds",
    "gemstead_inter_token_seconds",
}


def test_every_metric_is_on_it_or_is_for_something_else() -> None:
    names = {name for one in expressions() for name in re.findall(r"gemstead_[a-z_]+", one)}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert FAMILIES.keys() - shown == ELSEWHERE


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{at}", "expr": one.replace("$__rate_interval", "5m").replace("$model", ".*")}
        for at, one in enumerate(expressions())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), "utf-8")
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_it_is_written_the_same_every_time() -> None:
    assert json.dumps(dashboard()) == json.dumps(dashboard())
