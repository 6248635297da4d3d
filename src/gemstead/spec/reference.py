"""The reference of gemstead.yaml as Markdown, generated from the types, so that it cannot say anything else.

`docs/reference/gemstead-yaml.md` is this text, held to it by a test. To write it anew:
`python -m gemstead.spec.reference > docs/reference/gemstead-yaml.md`.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gemstead.spec.fields import is_list, section_of, sections
from gemstead.spec.model import Spec
from gemstead.spec.overrides import RESERVED
from gemstead.spec.schema import schema

_HEAD = """\
# gemstead.yaml

<!-- Generated from src/gemstead/spec/ by `python -m gemstead.spec.reference`. Do not edit. -->

The one file that says what runs. Everything in it is optional; without a file, `gemstead serve` runs the smallest
Gemma 4 on this machine. `gemstead init` writes a commented file fitted to the machine, `gemstead validate` checks
one, and `gemstead schema` prints its JSON Schema for editors (also in
[gemstead.schema.json](gemstead.schema.json)).

Unknown fields are refused. Every mistake is reported at once, with its line and what to do:

```
gemstead.yaml:14 models[0].context: 300000 is more than Gemma 4 E2B allows (131072)
```

A field with nothing after its colon counts as not said. Only `true` and `false` are yes and no (YAML 1.2); text
that looks like a number goes in quotes.

## Secrets

A secret is never written into the file. Where one is wanted, the file says where it is: `env:NAME` is an
environment variable, `file:PATH` the content of a file; [stores of secrets](../secrets.md) have forms of their own.

## Settings outside the file

Any field can be set over the file, and the environment is over the file too: `--set`, then the environment, then
the file, then the default.

| where | how |
|---|---|
| option | `--set models[0].context=8192`, `--set gateway.listen=:9000` (may be repeated; the last one wins) |
| environment | `GEMSTEAD_MODELS__0__CONTEXT=8192`, `GEMSTEAD_GATEWAY__LISTEN=:9000`: two underscores for a dot |

Values are read as YAML. A `GEMSTEAD_` variable that is no setting is refused, so that a typing mistake does not pass
unnoticed; one that is set but empty counts as not set. Those that Kubernetes adds for Services are passed over.
"""


def markdown() -> str:
    """The whole page."""
    parts = [_HEAD, *_reserved(), "## Fields\n"]
    for path, section in sections():
        parts.append(_section(path, section))
    return "\n".join(parts).rstrip() + "\n"


def _reserved() -> list[str]:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in RESERVED.items()]
    return ["\nThese variables are no settings:\n", "| variable | meaning |", "|---|---|", *rows, ""]


def _section(path: str, section: type[BaseModel]) -> str:
    title = f"`{_shown_path(path)}`" if path else "The file"
    about = inspect.cleandoc(section.__doc__ or "")
    rows = [_row(name, field, section) for name, field in section.model_fields.items()]
    return "\n".join(
        [
            f"### {title}\n",
            f"{about}\n",
            "| field | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _shown_path(path: str) -> str:
    """`models.endpoints` as `models[].endpoints[]`."""
    shown: list[str] = []
    part: type[BaseModel] = Spec
    for name in path.split("."):
        annotation = part.model_fields[name].annotation
        shown.append(name + ("[]" if is_list(annotation) else ""))
        part = section_of(annotation) or part
    return ".".join(shown)


def _row(name: str, field: FieldInfo, section: type[BaseModel]) -> str:
    node = _node(section, name)
    meaning = [field.description or "", *_example(field)]
    return f"| `{name}` | {_type(node, field)} | {_default(field)} | {'; '.join(part for part in meaning if part)} |"


_whole = cache(schema)  # asked for each field, and a second of work


def _node(section: type[BaseModel], name: str) -> dict[str, Any]:
    """The field in the JSON Schema, which already knows its type and bounds."""
    whole = _whole()
    properties = whole["properties"] if section is Spec else whole["$defs"][section.__name__]["properties"]
    node: dict[str, Any] = properties[name]
    return next((part for part in node.get("anyOf", []) if part.get("type") != "null"), node)


def _type(node: dict[str, Any], field: FieldInfo) -> str:
    if section := section_of(field.annotation):
        return "list of sections" if is_list(field.annotation) else f"section {_link(section)}"
    if "enum" in node:
        return " or ".join(f"`{choice}`" for choice in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("type") == "array":
        return "list of text"
    if node.get("type") == "object":
        return "mapping of text"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return words[node["type"]] + _bounds(node)


def _link(section: type[BaseModel]) -> str:
    path = next(path for path, found in sections() if found is section)
    anchor = path.replace(".", "")
    return f"[`{path}`](#{anchor})"


def _bounds(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if (more := node.get("exclusiveMinimum")) is not None:
        return f", more than {more}" + (f", at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at least {low}" if low is not None else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value == () or value == "" or value == {} or section_of(field.annotation):
        return ""
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`".replace(".0`", "`")


def _example(field: FieldInfo) -> list[str]:
    examples = [f"`{one if isinstance(one, str) else json.dumps(one)}`" for one in field.examples or []]
    return [f"such as {', '.join(examples)}"] if examples else []


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
