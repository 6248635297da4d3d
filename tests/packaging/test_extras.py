"""Whoever is told to install `gemstead[NAME]` finds an extra of that name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


def test_every_extra_that_is_named_is_there_and_every_one_is_named() -> None:
    texts = [ROOT / "README.md", ROOT / "pyproject.toml"]
    for folder, kinds in (
        ("src", ("*.py", "*.yaml")),
        ("docs", ("*.md", "*.json")),
        ("tests/golden", ("*",)),
    ):
        texts += [path for kind in kinds for path in (ROOT / folder).rglob(kind) if path.is_file()]
    named: dict[str, str] = {}
    for path in texts:
        for names in re.findall(r"gemstead\[([a-z0-9, -]+)\]", path.read_text("utf-8", errors="replace")):
            named |= {name.strip(): str(path.relative_to(ROOT)) for name in names.split(",")}
    assert not {name: where for name, where in named.items() if name not in EXTRAS}
    assert EXTRAS - {"dev"} <= set(named)
