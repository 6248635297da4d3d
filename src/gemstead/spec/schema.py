"""The JSON Schema of gemstead.yaml, for editors: completion, descriptions and squiggles while typing.

It is generated from the types. `gemstead schema` prints it, `gemstead init` puts it beside the file, and
`docs/reference/gemstead.schema.json` is the same text, held to it by a test. It knows each field by itself; what
fields must agree on, and what the catalogue knows, only `gemstead validate` can say.
"""

from __future__ import annotations

import json
from typing import Any

from gemstead.spec.fields import is_list, section_of, sections
from gemstead.spec.model import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "urn:gemstead:schema:1"
FILE = "gemstead.schema.json"


def schema() -> dict[str, Any]:
    """The schema as a JSON object, always in the same order."""
    made = _plain(Spec.model_json_schema(mode="validation"))
    for name, section in made["$defs"].items():
        if name not in _in_lists():  # a section whose every line is commented out is null
            section["type"] = ["object", "null"]
    return {
        "$schema": DIALECT,
        "$id": ID,
        **made,
        "title": "gemstead.yaml",
        "type": ["object", "null"],
        "examples": [{"models": [{"name": "gemma-4-e2b", "context": 8192}]}],
    }


def text() -> str:
    """The schema as the file that is published."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(node: Any, names: bool = False) -> Any:
    """The schema without the titles that pydantic makes of names ("Body Mib").

    `names` says that the keys of `node` are fields' names and not the schema's own words.
    """
    if isinstance(node, list):
        return [_plain(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _plain(child, names=not names and key in ("properties", "$defs"))
        for key, child in node.items()
        if names or key != "title"
    }


def _in_lists() -> set[str]:
    """The sections that are entries of a list."""
    fields = [field for _, section in sections() for field in section.model_fields.values()]
    found = [section_of(field.annotation) for field in fields if is_list(field.annotation)]
    return {section.__name__ for section in found if section}
