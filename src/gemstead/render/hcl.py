"""HashiCorp's configuration language, as Terraform reads it: blocks, attributes, expressions, reasons as comments.

A string is written so that nothing in it is taken for a template (`$` and `%` before a brace are doubled); what is
meant as an expression is handed over as `Expr`. The order of blocks and attributes is the order in which they were
given, and `=` signs stand in line within a run of attributes, as `terraform fmt` has them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemstead.render.because import Because


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression, written as it is: `google_compute_network.main.id`."""

    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """`kind "label" "label" { ... }`: attributes, then blocks inside it. `reason` becomes a comment above it."""

    kind: str
    labels: tuple[str, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    inner: tuple[Block, ...] = ()
    reason: str = ""


def document(blocks: Sequence[Block], *, head: str = "") -> str:
    """One file."""
    parts = ["\n".join(_block(block, "")) for block in blocks]
    top = "".join(f"# {line}\n" for line in head.splitlines())
    return f"{top}\n" * bool(top) + "\n\n".join(parts) + "\n"


def value(said: Any, indent: str = "") -> str:
    """One value: a string, number, boolean, list, mapping, or expression."""
    if isinstance(said, Because):
        return value(said.value, indent)
    if isinstance(said, Expr):
        return said.text
    if isinstance(said, Mapping):
        if not said:
            return "{}"
        inner = "\n".join(_attributes(said, indent + "  "))
        return f"{{\n{inner}\n{indent}}}"
    if isinstance(said, Sequence) and not isinstance(said, str):
        return _list(said, indent)
    if isinstance(said, str):
        return json.dumps(said, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
    return json.dumps(said)


def _list(said: Sequence[Any], indent: str) -> str:
    if not said:
        return "[]"
    written = [value(one, indent + "  ") for one in said]
    if sum(map(len, written)) < 80 and not any("\n" in one for one in written):
        return f"[{', '.join(written)}]"
    return "[\n" + "".join(f"{indent}  {one},\n" for one in written) + f"{indent}]"


def _block(block: Block, indent: str) -> list[str]:
    head = " ".join([block.kind, *(json.dumps(label) for label in block.labels)])
    lines = [*_comment(block.reason, indent)]
    if not block.body and not block.inner:
        return [*lines, f"{indent}{head} {{}}"]
    lines += [f"{indent}{head} {{", *_attributes(block.body, indent + "  ")]
    for number, inner in enumerate(block.inner):
        if number or block.body:
            lines.append("")
        lines += _block(inner, indent + "  ")
    return [*lines, f"{indent}}}"]


def _attributes(body: Mapping[str, Any], indent: str) -> Iterator[str]:
    names = {
        name: name if name.isidentifier() or name.replace("-", "_").isidentifier() else json.dumps(name)
        for name in body
    }
    for run in _runs(body, indent):
        wide = max(len(names[name]) for name in run)
        for name in run:
            said = body[name]
            if isinstance(said, Because):
                yield from _comment(said.reason, indent)
            yield f"{indent}{names[name]:<{wide}} = {value(said, indent)}"


def _runs(body: Mapping[str, Any], indent: str) -> list[list[str]]:
    """Names of attributes that stand together: a comment, or a value of several lines, begins a new run."""
    runs: list[list[str]] = []
    alone = True
    for name, said in body.items():
        several = "\n" in value(said, indent)
        if alone or several or isinstance(said, Because):
            runs.append([])
        runs[-1].append(name)
        alone = several
    return runs


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, 110 - len(indent))]
