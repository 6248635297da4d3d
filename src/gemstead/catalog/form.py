"""How a user's own file is read: sections, fields, and what each may hold, with a fault for whatever is otherwise.

It knows kinds of values and nothing of prices or cards; those are in `overlay`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gemstead.catalog import prices
from gemstead.spec.fault import Fault, Path, nearest, shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Field:
    """What a field may hold."""

    kind: str  # text, number, whole, day, bool, texts, counts, section
    required: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] | None = None  # what is wrong with a value of the right kind; empty: nothing


def text(**more: Any) -> Field:
    return Field("text", **more)


def amount(**more: Any) -> Field:
    return Field("number", **{"least": 0.0, **more})


_KINDS = {
    "text": "text",
    "number": "a number",
    "whole": "a whole number",
    "bool": "true or false",
    "day": "a day such as 2026-11-20",
    "texts": "a list of texts",
    "list": "a list",
    "section": "a section with fields of its own",
    "counts": "a section of whole numbers, such as {1g.24gb: 4}",
}


@dataclass(slots=True)
class Form:
    """Reads section by section and keeps what is wrong."""

    faults: list[Fault] = field(default_factory=list)

    def entries(
        self,
        top: Mapping[str, Any],
        section: str,
        form: Mapping[str, Field],
        make: Callable[[dict[str, Any], Path], T | None],
    ) -> Iterator[T]:
        """What the entries of a section make, by `make`; those with faults are left out."""
        for i, entry in enumerate(top.get(section, ())):
            path = (section, i)
            if not isinstance(entry, dict):
                self.fault(path, f"should be a section with fields of its own, not {shown(entry)}")
                continue
            before = len(self.faults)
            values = self.fields(entry, form, path)
            if len(self.faults) == before and (made := make(values, path)) is not None:
                yield made

    def fields(self, said: Mapping[str, Any], form: Mapping[str, Field], path: Path) -> dict[str, Any]:
        """The values of a section that are as they should be; nothing after the colon is not said."""
        values = {}
        for name, value in said.items():
            at = (*path, name)
            if name not in form:
                close = nearest(name, form)
                self.fault(
                    at,
                    "is not a field here",
                    f"did you mean `{close}`?" if close else f"known: {', '.join(form)}",
                )
            elif value is not None and (read := self.value(value, form[name], at)) is not None:
                values[name] = read
        for name, wanted in form.items():
            if wanted.required and said.get(name) is None:
                self.fault((*path, name), "is missing")
        return values

    def value(self, value: Any, wanted: Field, at: Path) -> Any:
        """The value as the field wants it; None after a fault."""
        read = _as(wanted.kind, value)
        if read is None:
            self.fault(at, f"should be {_KINDS[wanted.kind]}, not {shown(value)}")
        elif wanted.choices and read not in wanted.choices:
            close = nearest(str(read), wanted.choices)
            self.fault(
                at,
                f"should be one of {', '.join(wanted.choices)}, not {shown(value)}",
                f"did you mean `{close}`?" if close else "",
            )
        elif wanted.least is not None and read < wanted.least:
            self.fault(at, f"{shown(value)} is too small: at least {wanted.least:g}")
        elif wanted.most is not None and read > wanted.most:
            self.fault(
                at, f"{shown(value)} is too large: at most {wanted.most:g}", _TOO_LARGE.get(str(at[-1]), "")
            )
        elif wanted.check and (wrong := wanted.check(read)):
            self.fault(at, wrong)
        else:
            return read
        return None

    def fault(self, path: Path, message: str, suggestion: str = "") -> None:
        self.faults.append(Fault(path, message, suggestion))


_TOO_LARGE = {
    "usd_hour": "is it a whole machine's? write one accelerator's here and that in machine_usd_hour"
}


def _as(kind: str, value: Any) -> Any:
    """The value as a field of this kind holds it; None when it is of another kind."""
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind in ("number", "whole"):
        return _number(value, whole=kind == "whole")
    if kind == "text":
        return _plain(value)
    if kind == "texts":
        listed = [_plain(one) for one in value] if isinstance(value, (list, tuple)) else [None]
        return None if None in listed else tuple(listed)
    if kind == "list":
        return value if isinstance(value, list) else None
    if kind == "day":
        return _day(value)
    if not isinstance(value, dict):
        return None
    if kind == "counts" and any(_number(one, whole=True) is None for one in value.values()):
        return None
    return value


def _number(value: Any, *, whole: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) or not whole else None


def _plain(value: Any) -> str | None:
    """A text; a number stands for its digits, because `0.25` and `5090` are names here too."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if text.strip() and text.isprintable() and len(text) <= 1_000 else None


def _day(value: Any) -> datetime.date | None:
    try:
        return prices.day_of(str(value))
    except ValueError:
        return None
