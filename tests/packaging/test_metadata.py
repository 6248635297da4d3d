"""What the package says about itself agrees with what it is."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import gemstead

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_command_is_there():
    module, _, function = PROJECT["scripts"]["gemstead"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_types_and_the_licence_come_along():
    assert (Path(gemstead.__file__).parent / "py.typed").exists()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license-files"] == ["LICENSE"]


def test_nothing_heavy_is_needed():
    named = {requirement.partition(";")[0].split(">")[0].split("=")[0].strip().lower()
             for requirement in PROJECT["dependencies"]}  # fmt: skip
    assert named.isdisjoint({"torch", "transformers", "tensorflow", "jax", "vllm", "numpy"})


def test_the_changelog_knows_this_version():
    assert f"## {gemstead.__version__}" in (ROOT / "CHANGELOG.md").read_text()
