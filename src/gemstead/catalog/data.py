"""The catalogue's files, read once: YAML beside this module, each with its sources and the day it was compiled.

It reads and returns plain values; what they mean is said by the module that each file is named after. The files
are ours and are proved whole by the tests, so nothing is checked here; what a user brings is checked in `overlay`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

# libyaml reads the catalogue in a tenth of the time of PyYAML's own parser; a build without it still works.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def read(name: str) -> Any:
    """What the file `name.yaml` of the catalogue says. Shared by all who ask: not to be changed."""
    text = resources.files("gemstead.catalog").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 (both are safe loaders)
