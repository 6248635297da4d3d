"""A JSON object with every occurrence of its fields, because readers differ in which of a repeated one they take."""

from __future__ import annotations


class Pairs(list[tuple[str, object]]):
    """For `json.loads(..., object_pairs_hook=Pairs)`; tells an object from an array, which is a plain list."""
