"""What checkov says of a cluster and of images: nothing that was not looked at and let stand.

checkov pins old libraries, so it is no dependency of ours: `make test-checkov` installs it in an environment of its own
and runs this. Last run 2026-11-21 with 3.3.30.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_docker import ENGINES, images
from test_kubernetes import FILES, bundle

from gemstead.catalog.catalogue import built_in
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment
from gemstead.wiring.images import Wanted

# What is let stand, and why.
BASELINE = {
    "CKV_K8S_43": "without gemstead.images.lock digests are not known; a note says how to pin (the test below has one)",
    "CKV_K8S_15": "always pulling lets a registry that is down stop a restart; tags are exact",
    "CKV_K8S_38": "the endpoint picker watches its pool and pods, and may nothing else",
}


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def installed() -> None:
    if shutil.which("checkov") is None:
        pytest.skip("checkov is not installed (make test-checkov)")


@pytest.mark.parametrize("name", ["31b on eight", "everything", "31b over two nodes"])
def test_checkov_finds_only_what_was_let_stand(name: str, tmp_path: Path) -> None:
    found = failed(bundle(FILES[name]), tmp_path, "kubernetes", 200)
    assert {check for check, _ in found} <= BASELINE.keys(), sorted(found)
    assert all("picker" in who for check, who in found if check == "CKV_K8S_38")


def test_with_a_lock_file_every_image_has_its_digest(tmp_path: Path) -> None:
    """What the baseline lets stand for want of digests is gone with them."""
    known: dict[str, str] = {}
    for _ in "bases", "what is built on them, which they name":
        wanted = Wanted(known)
        target("kubernetes").render(deployment(spec(FILES["everything"]), built_in(), wanted))
        known = dict.fromkeys(wanted.asked, "sha256:" + "ab" * 32)
    pinned = target("kubernetes").render(deployment(spec(FILES["everything"]), built_in(), known))
    assert "CKV_K8S_43" not in {check for check, _ in failed(pinned, tmp_path, "kubernetes", 200)}


@pytest.mark.parametrize(("engine", "gpu", "cache"), ENGINES)
def test_checkov_finds_nothing_in_dockerfiles(engine: str, gpu: str, cache: str, tmp_path: Path) -> None:
    assert not failed(images(engine, gpu, cache), tmp_path, "dockerfile", 100)


def failed(rendered: Bundle, folder: Path, framework: str, least: int) -> set[tuple[str, str]]:
    """(check, where) of what checkov finds; at least so many checks must have passed, or it has looked at nothing."""
    for path, text in rendered.files.items():
        if framework == "dockerfile" or (
            path.startswith("base/") and not path.endswith("kustomization.yaml")
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    words = [
        "checkov",
        "-d",
        str(folder),
        "--framework",
        framework,
        "--quiet",
        "--skip-download",
        "-o",
        "json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False, cwd=folder)
    read: Any = json.loads(done.stdout)
    (report,) = read if isinstance(read, list) else [read]
    assert report["summary"]["passed"] > least and not report["summary"]["parsing_errors"]
    return {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}


def spec(file: dict[str, Any]) -> Spec:
    return Spec.model_validate(file, strict=False)
