"""Which fields there are, read off the types: for suggestions, for variables' names and for the reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from gemstead.spec.fault import Path
from gemstead.spec.model import Spec


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as `TlsSpec | None` or `tuple[ModelSpec, ...]`; None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)


def is_list(annotation: Any) -> bool:
    """Whether a field takes a list."""
    return getattr(annotation, "__origin__", None) is tuple


def sections(part: type[BaseModel] = Spec, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section with its path without indexes, the whole file (with the empty path) first."""
    yield path, part
    for name, field in part.model_fields.items():
        if inner := section_of(field.annotation):
            yield from sections(inner, f"{path}.{name}".lstrip("."))


@cache
def known_paths() -> frozenset[str]:
    """Every field's path without indexes: `gateway.listen`, `models.endpoints.url`."""
    return frozenset(
        f"{path}.{name}".lstrip(".") for path, section in sections() for name in section.model_fields
    )


def names_at(path: Path) -> list[str]:
    """The fields of the section at a path; none when there is no such section."""
    at = ".".join(step for step in path if isinstance(step, str))
    return next((list(section.model_fields) for where, section in sections() if where == at), [])


def elsewhere(name: str) -> str | None:
    """Where a field of this name is: `models[].context`, `gateway.listen or admin.listen`."""
    found = [f"{path}.{name}" for path, section in sections() if path and name in section.model_fields]
    lists = [(part.replace("models.", "models[].").replace("endpoints.", "endpoints[].")) for part in found]
    return " or ".join(lists) or None
