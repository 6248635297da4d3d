"""A value together with why it is so: what a renderer writes as the value with a comment above it.

Whoever reads a rendered file at night wants to know which of its numbers were decided, and from what. So every value
that came from a decision is handed over as `Because(value, reason)`, and the writers (`yamltext.py` and others) put
the reason where the value stands. A value that any reader would expect (`kind: Service`) needs no reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Because:
    """`value` is a scalar, a mapping or a list; `reason` one sentence without a full stop."""

    value: Any
    reason: str


def plain(value: Any) -> Any:
    """The value with all reasons taken off, as a reader of the file gets it."""
    if isinstance(value, Because):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value
