"""Bundles that an earlier Gemstead rendered: what runs from them goes on, and rendering anew says what changes.

`tests/data/bundles/DAY/` are copies of what was rendered on that day, never written anew: a gateway of today must read
the settings of each, because images and settings are rolled out one after the other.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.catalog.check import read

BUNDLES = Path(__file__).parents[1] / "data/bundles"
GOLDEN = Path(__file__).parents[1] / "golden"
TODAY = {"compose/no-gpu": "gemma-4-e2b", "compose/eight-gpus": "gemma-4-31b"}


def settings(folder: Path) -> list[tuple[str, str]]:
    """(where, text) of every gateway's own file in a folder of bundles."""
    found = [(str(file), file.read_text("utf-8")) for file in folder.rglob("gateway/gemstead.yaml")]
    for file in folder.rglob("base/gateway.yaml"):
        for one in yaml.safe_load_all(file.read_text("utf-8")):
            if one and one["kind"] == "ConfigMap":
                found.append((str(file), one["data"]["gemstead.yaml"]))
    return found


OLD = [(f"{day.name}: {Path(where).relative_to(day)}", text)
       for day in sorted(BUNDLES.iterdir()) for where, text in settings(day)]  # fmt: skip
NEW = [(str(Path(where).relative_to(GOLDEN)), text) for where, text in settings(GOLDEN)]


@pytest.mark.parametrize(("where", "text"), OLD + NEW, ids=[where for where, _ in OLD + NEW])
def test_a_gateway_of_today_reads_the_settings(where: str, text: str) -> None:
    spec = read(text, where, (), {}).spec
    assert spec.models and all(model.endpoints for model in spec.models)
    assert spec.admin.listen.endswith(":4368") and spec.gateway.listen.startswith("0.0.0.0:")


def test_there_are_old_bundles_of_several_kinds() -> None:
    assert len(OLD) >= 4 and len(NEW) > 4


@pytest.mark.parametrize("case", TODAY)
def test_what_the_gateway_mounts_and_asks_is_where_it_was(case: str) -> None:
    """An old compose file with a new image, and the other way round: paths, ports and programs are a promise."""
    for day in BUNDLES.iterdir():
        old, new = (services(folder / case / "compose.yaml") for folder in (day, GOLDEN))
        assert set(old["gateway"]["volumes"]) <= set(new["gateway"]["volumes"])
        assert old["gateway"]["healthcheck"]["test"] == new["gateway"]["healthcheck"]["test"]
        assert old["gateway"]["user"] == new["gateway"]["user"]
        assert [words[:2] for words in entrypoints(old)] == [words[:2] for words in entrypoints(new)]


def services(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text("utf-8"))["services"])


def entrypoints(services: dict[str, Any]) -> list[list[str]]:
    return [one["entrypoint"] for one in services.values() if "entrypoint" in one]


def gemstead(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemstead", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_diff_compares_with_an_old_bundle_and_render_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text(
        "models:\n  - {name: gemma-4-e2b}\n"
    )  # as before `version` was said
    old = BUNDLES / "2026-11-21/compose/no-gpu"
    folder = tmp_path / "deploy/compose"
    (folder / "gateway").mkdir(parents=True)
    for path in ("compose.yaml", "gateway/gemstead.yaml"):
        (folder / path).write_text((old / path).read_text("utf-8"))
    (folder / "alerts-of-old.yaml").write_text("old: true\n")
    (folder / ".gemstead-bundle").write_text("compose.yaml\ngateway/gemstead.yaml\nalerts-of-old.yaml\n")
    said = gemstead(tmp_path, "diff", "compose")
    assert said.returncode == 1 and "alerts-of-old.yaml" in said.stdout, said.stderr
    assert gemstead(tmp_path, "render", "compose").returncode == 0
    assert not (folder / "alerts-of-old.yaml").exists()
    assert gemstead(tmp_path, "diff", "compose").returncode == 0


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text("version: 2\nmodels:\n  - {name: gemma-4-e2b}\n")
    said = gemstead(tmp_path, "render", "compose")
    assert said.returncode != 0 and "version" in said.stderr and "Traceback" not in said.stderr
