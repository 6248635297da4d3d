"""What checkov says of a cluster: nothing that was not looked at and let stand.

checkov pins old libraries, so it is no dependency of ours: `python -m venv c && c/bin/pip install checkov`, and its
folder on the PATH. Last run 2026-11-21 with 3.3.30.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_kubernetes import FILES, bundle

# What is let stand, and why.
BASELINE = {
    "CKV_K8S_43": "digests are not known offline; a note says how to pin, and deploy.images takes them",
    "CKV_K8S_15": "always pulling lets a registry that is down stop a restart; tags are exact",
    "CKV_K8S_38": "the endpoint picker watches its pool and pods, and may nothing else",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["31b on eight", "everything", "31b over two nodes"])
def test_checkov_finds_only_what_was_let_stand(name: str, tmp_path: Path) -> None:
    if shutil.which("checkov") is None:
        pytest.skip("checkov is not installed (pip install checkov, in an environment of its own)")
    for path, text in bundle(FILES[name]).files.items():
        if path.startswith("base/") and not path.endswith("kustomization.yaml"):
            (tmp_path / Path(path).name).write_text(text, "utf-8")
    words = [
        "checkov",
        "-d",
        str(tmp_path),
        "--framework",
        "kubernetes",
        "--quiet",
        "--skip-download",
        "-o",
        "json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path)
    read: Any = json.loads(done.stdout)
    (report,) = read if isinstance(read, list) else [read]
    assert report["summary"]["passed"] > 200 and not report["summary"]["parsing_errors"]
    found = {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
    assert {check for check, _ in found} <= BASELINE.keys(), sorted(found)
    assert all("picker" in who for check, who in found if check == "CKV_K8S_38")
