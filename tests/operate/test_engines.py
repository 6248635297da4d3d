"""Installed engines: what counts as installed, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gemstead.operate.engines import (
    MANIFEST,
    EngineTrouble,
    Manifest,
    held,
    home_of,
    installed,
    place_of,
    places,
    remove,
    size_of,
    used_by,
    write,
)


def put(state: Path, version: str, engine: str = "vllm", *, program: bool = True) -> Path:
    """An installation of a version, whole unless its program is left out."""
    folder = home_of(state) / f"{engine}-{version}"
    (folder / "bin").mkdir(parents=True)
    path = folder / "bin" / engine
    if program:
        path.symlink_to(sys.executable)
    write(folder, Manifest(engine, version, "venv", (str(path),)))
    return folder


def test_nothing_is_installed_in_an_empty_folder(tmp_path):
    assert places(tmp_path) == []
    assert installed(tmp_path, "vllm") is None


def test_the_newest_counts_unless_a_version_is_named(tmp_path):
    for version in ("0.9.0", "0.32.0", "0.31.0"):
        put(tmp_path, version)
    assert installed(tmp_path, "vllm").version == "0.32.0"
    assert installed(tmp_path, "vllm", "0.31.0").version == "0.31.0"
    assert installed(tmp_path, "vllm", "0.30.0") is None
    assert installed(tmp_path, "sglang") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text(""),
        lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40]),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: (folder / MANIFEST).write_text(json.dumps({"form": 9, "engine": "vllm"})),
        lambda folder: (folder / "bin" / "vllm").unlink(),
        lambda folder: folder.rename(folder.with_name("vllm-0.33.0")),
    ],
)
def test_one_that_is_not_whole_never_counts_and_says_what_to_do(tmp_path, damage):
    damage(put(tmp_path, "0.32.0"))
    assert installed(tmp_path, "vllm") is None
    [place] = places(tmp_path)
    assert place.manifest is None
    assert "install it again" in place.why


def test_it_is_removed_with_all_that_it_took(tmp_path):
    folder = put(tmp_path, "0.32.0")
    (folder / "weights").write_bytes(b"x" * 100_000)
    assert remove(place_of(folder)) >= 100_000
    assert places(tmp_path) == []


def test_one_that_runs_is_not_removed(tmp_path):
    folder = put(tmp_path, "0.32.0")
    sleeper = subprocess.Popen(
        [folder / "bin" / "vllm", "-c", "import time; print('up', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    try:
        assert sleeper.stdout.readline() == b"up\n"
        assert used_by(folder) == [sleeper.pid]
        with pytest.raises(EngineTrouble, match=f"pid {sleeper.pid}.*--force") as trouble:
            remove(place_of(folder))
        assert trouble.value.kind == "used"
        assert installed(tmp_path, "vllm") is not None
        remove(place_of(folder), force=True)
        assert installed(tmp_path, "vllm") is None
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_two_never_work_on_the_same_one(tmp_path):
    folder = home_of(tmp_path) / "vllm-0.32.0"
    with held(folder), pytest.raises(EngineTrouble, match="another process"), held(folder):
        pass
    with held(folder):
        pass


def test_a_file_with_two_names_counts_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 8192)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert size_of(tmp_path) == 8192
