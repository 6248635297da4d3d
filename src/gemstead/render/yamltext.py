"""YAML that people read: block style, keys in the order in which they were given, reasons as comments.

Strings are quoted whenever any reader could take them for something else. YAML 1.1 (PyYAML, kubectl's older readers)
reads `on`, `no`, `1:30` and `0o17` differently from YAML 1.2, and Go's reader takes `1e3` for a number. Same values,
same bytes. It writes mappings, lists, strings, numbers, booleans and None; nothing else is handed to it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from gemstead.render.because import Because

COMMENT_WIDTH = 110
NUMBERLIKE = re.compile(r"[-+.]?[0-9][0-9_a-fA-FxXoOeE.:+-]*")


def document(value: Any, *, head: str = "") -> str:
    """One YAML document; `head` becomes a comment at its top."""
    lines = [*_comment(head, ""), *_block(value, "")]
    return "\n".join(lines) + "\n"


def stream(values: Iterable[Any], *, head: str = "") -> str:
    """Several documents in one file."""
    texts = [document(value) for value in values]
    return "\n".join(_comment(head, "")) + ("\n" if head else "") + "---\n".join(texts)


def scalar(value: object) -> str:
    """One scalar on one line, quoted where a reader could mistake it."""
    if isinstance(value, str):
        if NUMBERLIKE.fullmatch(value) or value in ("", "~"):
            return f"'{value}'"
        if not value.isprintable():
            return _dumped(value, default_style='"', allow_unicode=False)
    return _dumped(value, default_flow_style=True, allow_unicode=True)


def _dumped(value: object, **how: Any) -> str:
    text: str = yaml.safe_dump(value, width=2**20, **how)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _block(value: Any, indent: str) -> list[str]:
    if isinstance(value, Because):
        return [*_comment(value.reason, indent), *_block(value.value, indent)]
    if isinstance(value, Mapping):
        if not value:
            return [f"{indent}{{}}"]
        return [line for key, inner in value.items() for line in _pair(key, inner, indent)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return [f"{indent}[]"]
        return [line for inner in value for line in _item(inner, indent)]
    return _scalar_lines("", value, indent)


def _pair(key: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Because):
        return [*_comment(value.reason, indent), *_pair(key, value.value, indent)]
    name = scalar(key)
    if isinstance(value, Mapping) and value:
        return [f"{indent}{name}:", *_block(value, indent + "  ")]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [f"{indent}{name}:", *_block(value, indent + "  ")]
    return _scalar_lines(f"{name}: ", value, indent)


def _item(value: Any, indent: str) -> list[str]:
    if isinstance(value, Because):
        return [*_comment(value.reason, indent), *_item(value.value, indent)]
    if _is_block(value):
        first, *rest = _block(value, indent + "  ")
        comments = []
        while first.lstrip().startswith("#"):  # a reason of the first key stands above the dash
            comments.append(indent + first.strip())
            first, *rest = rest
        return [*comments, f"{indent}- {first.lstrip()}", *rest]
    return _scalar_lines("- ", value, indent)


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and bool(value)


def _scalar_lines(lead: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{indent}{lead}{{}}"]
    if isinstance(value, str) and _literal(value):
        strip = "" if value.endswith("\n") else "-"
        body = [indent + "  " + line if line else "" for line in value.removesuffix("\n").split("\n")]
        return [f"{indent}{lead}|{strip}", *body]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [f"{indent}{lead}[]"]
    return [f"{indent}{lead}{scalar(value)}"]


def _literal(value: str) -> bool:
    """Whether a literal block keeps the text exactly: several lines, none of which begins or ends oddly."""
    lines = value.removesuffix("\n").split("\n")
    printable = all(line.isprintable() or "\t" in line.replace("\t", "") for line in lines)
    odd = not lines[0].strip() or lines[0][:1] in (" ", "\t") or value.endswith("\n\n")
    return len(lines) > 1 and printable and not odd


def _comment(text: str, indent: str) -> list[str]:
    width = max(COMMENT_WIDTH - len(indent), 40)
    lines = ["".join(char if char.isprintable() else " " for char in line) for line in text.splitlines()]
    return [f"{indent}# {part}".rstrip() for line in lines for part in textwrap.wrap(line, width) or [""]]
