"""A bundle is the plan as files: paths and texts, the same bytes every time, with what the reader should know.

`diff` says what separates a bundle from files that are there already. Nothing here reads or writes a disk: the command
line writes a bundle, and `operate` carries one out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD = "Made by gemstead render from gemstead.yaml; change that file and render again."


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by their path inside the bundle (`/` between folders), in the order of their paths."""

    target: str
    files: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())  # sentences for the user

    def __post_init__(self) -> None:
        for path, text in self.files.items():
            if path.startswith("/") or ".." in path.split("/") or "\\" in path:
                raise ValueError(f"a bundle's path stays inside it: {path}")
            if not text.endswith("\n"):
                raise ValueError(f"{path} does not end with a line feed")
        object.__setattr__(self, "files", dict(sorted(self.files.items())))


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one file."""

    path: str
    kind: str  # "added" | "changed" | "removed"
    text: str  # a unified diff


def diff(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """How the files of `before` become those of `after`, in the order of their paths."""
    found = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        kind = "added" if old is None else "removed" if new is None else "changed"
        lines = difflib.unified_diff(
            (old or "").splitlines(keepends=True),
            (new or "").splitlines(keepends=True),
            fromfile=f"a/{path}" if old is not None else "/dev/null",
            tofile=f"b/{path}" if new is not None else "/dev/null",
        )
        found.append(
            Change(path, kind, "".join(line if line.endswith("\n") else line + "\n" for line in lines))
        )
    return tuple(found)
