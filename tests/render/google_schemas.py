"""Google's own schemas of what is sent to it, from its discovery documents (tests/data/schemas/google)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas" / "google"


def faults(name: str, document: Any) -> list[str]:
    """What the type (such as "run.v1.Service") does not allow in the document."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    found = Draft202012Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message}" for one in found]
