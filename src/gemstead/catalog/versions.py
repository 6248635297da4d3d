"""Versions of engines as they write them, and ranges of versions as the catalogue writes them.

`0.33.0`, `v0.5.13.post1`, `0.32.0+cpu`, `b9079` and `2026.10.11549` (llama.cpp's build 11549 in a Python wheel) are
versions. A range is a list of bounds that must all hold: `>=0.21,<0.25`, `==0.27.1`, `==0.24.*`. Nothing written is
every version.
"""

from __future__ import annotations

import re

Version = tuple[int, ...]

_FORM = re.compile(r"[vb]?([0-9]+(?:\.[0-9]+)*)(?:\.?(post|rc|a|b|dev)([0-9]*))?", re.IGNORECASE)
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([vb]?[0-9][0-9a-z.+]*(?:\.\*)?)", re.IGNORECASE)


def parsed(text: str) -> Version | None:
    """The numbers of a version, to compare with those of another; None when it is not one.

    A release candidate comes before its release and a post-release after it.
    """
    found = _FORM.match(text.strip())
    if found is None:
        return None
    numbers = tuple(int(part) for part in found[1].split("."))
    if len(numbers) == 3 and numbers[0] > 2000:  # year.month.build, of which the build counts
        return numbers[2:]
    if found[2]:
        number = int(found[3] or 0)
        padded = (*numbers, 0, 0, 0)[: max(3, len(numbers))]
        return (*padded, number + 1 if found[2].lower() == "post" else number - 1_000)
    return numbers


def within(text: str, bounds: str) -> bool:
    """Whether a version lies in a range. A text that is no version lies in none but the empty range.

    Raises:
        ValueError: the range is not written as one.
    """
    version = parsed(text)
    return not bounds.strip() or (
        version is not None and all(_holds(version, bound) for bound in bounds.split(","))
    )


def check(bounds: str) -> str:
    """What is wrong with the form of a range; empty: nothing."""
    for bound in filter(str.strip, bounds.split(",")):
        found = _BOUND.fullmatch(bound.strip())
        if found is None or parsed(found[2]) is None:
            return f"`{bound.strip()}` is no bound of versions: write it like >=0.21 or ==0.24.*"
    return ""


def _holds(version: Version, bound: str) -> bool:
    found = _BOUND.fullmatch(bound.strip())
    limit = parsed(found[2]) if found else None
    if found is None or limit is None:
        raise ValueError(f"{bound!r} is no bound of versions")
    if found[2].endswith(".*"):
        same = version[: len(limit)] == limit
        return same if found[1] == "==" else not same
    size = max(len(version), len(limit))
    ours, theirs = (tuple([*numbers, *[0] * size][:size]) for numbers in (version, limit))
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        "<": ours < theirs,
        ">": ours > theirs,
    }[found[1]]
