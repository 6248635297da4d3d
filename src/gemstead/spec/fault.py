"""What is wrong with a file, and where: values that print the way an editor or a terminal can jump to.

A `Fault` says in one line the place, the field's path, what is wrong in plain words, and what to do. A text
that does not become a `Spec` raises one `SpecError` with every fault found, so that nobody mends a file one
error at a time. A secret pasted as a value is never repeated in a fault.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

Path = tuple[str | int, ...]

# Beginnings of keys that people paste: OpenAI's form, ours, Hugging Face, GitHub, AWS, Google, JWT, bearer.
_SECRET = re.compile(r"\b(sk-|gms_|hf_|gh[pousr]_|AKIA|AIza|eyJ|Bearer\s)|://[^/\s]*@", re.IGNORECASE)
_SECRET_FIELD = re.compile(r"(^|_)(key|token|secret|password|credentials?)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was said: a line of a file (from 1), or an option or variable (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `path` is empty when it concerns the whole text."""

    path: Path
    message: str
    suggestion: str = ""
    place: Place = Place("")

    @property
    def field(self) -> str:
        """The path as people write it: `models[0].context`."""
        return written(self.path)

    def __str__(self) -> str:
        where = " ".join(part for part in (str(self.place), self.field) if part)
        said = f"{where}: {self.message}" if where else self.message
        return f"{said}; {self.suggestion}" if self.suggestion else said


class SpecError(Exception):
    """The text is not a valid Spec. `str()` has one line for each fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def written(path: Path) -> str:
    """`("models", 0, "context")` as `models[0].context`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def located(fault: Fault, places: Mapping[Path, Place]) -> Fault:
    """The fault with the place of its path, or of the nearest section around it that was said."""
    path = fault.path
    while path not in places and path:
        path = path[:-1]
    return replace(fault, place=places.get(path, fault.place))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """The faults as a reader meets them: from top to bottom, options and variables last."""
    return sorted(faults, key=lambda fault: (not fault.place.line, fault.place.line))


def nearest(said: str, known: Iterable[str]) -> str | None:
    """The known name that `said` was probably meant to be."""
    by_key = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(said.casefold(), by_key, n=1, cutoff=0.6)
    return by_key[close[0]] if close else None


def shown(value: object, path: Path = ()) -> str:
    """A value for a message: short, on one line, and nothing that may be a secret."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (tuple, list)):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    text = str(value)
    if _SECRET.search(text) or any(
        isinstance(part, str) and _SECRET_FIELD.search(part) for part in path[-1:]
    ):
        return "the value"
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`".replace("\n", " ")
