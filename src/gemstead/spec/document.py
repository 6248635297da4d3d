"""YAML text as plain values with the line of every field. It knows YAML and nothing of Gemstead's fields.

What is read is the YAML 1.2 core: `off`, `no` and `12:30` are text, only `true` and `false` are yes and no.
(YAML 1.1, which PyYAML speaks by default, reads `keys: off` as `keys: false`.) Nothing in the text can name a
Python type. A key given twice, a document that refers to itself, and one that unfolds into more than
`MOST_NODES` values (an "anchor bomb") are faults. A field with nothing after its colon is `None`, which `load`
counts as not said, so that a section whose every line is commented out is no error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from gemstead.spec.fault import Fault, Path, Place

MOST_CHARACTERS = 1_048_576
MOST_NODES = 20_000
MOST_DEPTH = 32

_BOOL, _INT, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 instead of 1.1. It is only ever asked for nodes."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)


_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    _INT, re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])


@dataclass(slots=True)
class Document:
    """What a text says: mappings as `dict`, lists as `list`, and where each path was said."""

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read(text: str, source: str) -> Document:
    """The values of a YAML text; what cannot be read is in `faults` and left out."""
    document = Document(places={(): Place(source, 1)})
    if len(text) > MOST_CHARACTERS:
        document.faults.append(Fault((), f"is larger than {MOST_CHARACTERS >> 20} MiB", place=Place(source)))
        return document
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        document.faults.append(_explained(error, text, source))
    except RecursionError:
        document.faults.append(Fault((), "is nested too deeply to read", place=Place(source)))
    else:
        document.value = None if node is None else _Walk(source, document).value(node, (), ())
    return document


def scalar(text: str) -> Any:
    """What an option's or a variable's text says, read as YAML: `8192`, `true`, `[a, b]`, `some text`.

    Text that is no YAML, such as `[::1]:4367`, is itself.
    """
    document = read(text, "")
    return text if document.faults else document.value


@dataclass(slots=True)
class _Walk:
    """From nodes to values. Counts what it makes, because an alias makes its whole target again."""

    source: str
    document: Document
    made: int = 0

    def value(self, node: Node, path: Path, above: tuple[int, ...]) -> Any:
        self.made += 1
        if id(node) in above or len(above) > MOST_DEPTH:
            return self.fault(node, path, "refers to itself" if id(node) in above else "is nested too deeply")
        if self.made > MOST_NODES:
            if self.made == MOST_NODES + 1:
                self.fault(
                    node, path, f"unfolds into more than {MOST_NODES} values", "use fewer aliases (`*name`)"
                )
            return None
        above = (*above, id(node))
        if isinstance(node, MappingNode):
            return self.mapping(node, path, above)
        if isinstance(node, SequenceNode):
            return [self.item(child, (*path, i), above) for i, child in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self.scalar(node, path)

    def item(self, node: Node, path: Path, above: tuple[int, ...]) -> Any:
        self.document.places[path] = self.place(node)
        return self.value(node, path, above)

    def mapping(self, node: MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        said: dict[str, Any] = {}
        for key, child in node.value:
            if key.tag == _MERGE:
                for one in child.value if isinstance(child, SequenceNode) else [child]:
                    more = self.value(one, path, above)
                    merged = {**more, **merged} if isinstance(more, dict) else merged
                continue
            if not isinstance(key, ScalarNode):
                self.fault(key, path, "a field's name must be plain text")
                continue
            if key.value in said:
                first = self.document.places[(*path, key.value)].line
                self.fault(
                    key, (*path, key.value), f"is given twice, first in line {first}", "keep one of them"
                )
                continue
            self.document.places[(*path, key.value)] = self.place(key)
            said[key.value] = self.value(child, (*path, key.value), above)
        return {**merged, **said}

    def scalar(self, node: ScalarNode, path: Path) -> Any:
        text = node.value
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text.lower() == "true"
        try:
            if node.tag == _INT:
                return int(text.replace("_", ""), 16 if "x" in text else 10)
            if node.tag == _FLOAT:
                return float(text)
        except ValueError:  # a tag written by hand, or a number longer than Python converts
            return self.fault(node, path, "is not a number that can be read")
        if node.tag != "tag:yaml.org,2002:str":
            return self.fault(node, path, f"has the YAML tag `{node.tag}`", "leave the tag out")
        return text

    def fault(self, node: Node, path: Path, message: str, suggestion: str = "") -> None:
        self.document.faults.append(Fault(path, message, suggestion, self.place(node)))

    def place(self, node: Node) -> Place:
        return Place(self.source, node.start_mark.line + 1)


def _explained(error: yaml.YAMLError, text: str, source: str) -> Fault:
    """A YAML error in words that say what to do. Never quotes the text, which may hold a secret."""
    if isinstance(error, ReaderError):
        place = Place(source, text.count("\n", 0, error.position) + 1)
        return Fault((), "holds a control character, which YAML does not allow", "delete it", place)
    if not isinstance(error, MarkedYAMLError) or (mark := error.problem_mark) is None:
        return Fault((), "is not YAML", place=Place(source))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    message, suggestion = _words(re.sub(r"\s+", " ", error.problem or "cannot be read"), line)
    return Fault((), message, suggestion, Place(source, mark.line + 1))


def _words(problem: str, line: str) -> tuple[str, str]:
    """What is wrong with the line and what to do about it, from PyYAML's word for the problem."""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "is indented with a tab, which YAML does not allow", "use spaces"
    if re.search(r":\s*\[[0-9a-fA-F:.]*\]:", line):
        return "an address in brackets reads as a list", 'put it in quotes, as in "[::1]:4367"'
    if "mapping values are not allowed" in problem:
        return (
            "a field is not expected here",
            "check the indentation, or put a value that holds `: ` in quotes",
        )
    if "undefined alias" in problem:
        return "`*` begins an alias, and none of that name is defined", "put the value in quotes"
    if "another document" in problem or "single document" in problem:
        return "a second document begins here", "delete the line `---`"
    return f"is not YAML here ({problem})", "check quotes, brackets and indentation"
