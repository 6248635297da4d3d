"""The wheel and the source archive, built: what must be in them, and what must not."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_has_everything_that_runs(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < 8 * MIB
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    package = ROOT / "src" / "gemstead"
    wanted = {str(path.relative_to(ROOT / "src")) for kind in ("*.py", "*.yaml", "*.gguf", "py.typed")
              for path in package.rglob(kind)}  # fmt: skip
    assert wanted <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gemstead"}
    said = subprocess.run(
        [sys.executable, "-c", "import gemstead.cli.main as m; print(m.__file__); m.main(['version'])"],
        env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.stdout.startswith(str(tmp_path)), said.stderr
    assert "gemstead 0." in said.stdout


def test_the_source_archive_can_be_tested_and_has_no_junk(built):
    (source,) = built.glob("*.tar.gz")
    assert source.stat().st_size < 8 * MIB
    with tarfile.open(source) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    for needed in (
        "Makefile",
        "README.md",
        "LICENSE",
        "pyproject.toml",
        ".ci/run",
        "tests/docs/test_shown.py",
    ):
        assert needed in members, needed
    for name, member in members.items():
        assert member.size < 4 * MIB, name
        assert not name.startswith((".venv/", ".git/", "node_modules/", "dist/")), name
        assert not name.endswith((".pyc", ".db", ".bak", ".so")), name
