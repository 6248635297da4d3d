"""Which LoRA adapters an engine has, where they are loaded when a call first names one.

An engine holds at most `most` at a time. One more takes the place of that which has been unused longest. What is used
is told (`used`); what is loaded and unloaded is told as well (`put`, `take`), because only whoever asked knows.

Where an adapter is to be loaded (`best`): where there is room for it, then where fewest calls run, then where what has
to go has been unused longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf


class Shelf:
    """The adapters of one engine."""

    def __init__(self, paths: Mapping[str, str], most: int = 0) -> None:
        """`paths`: of every adapter that it may have, by name; `most`: at once, 0: all of them."""
        self.paths = dict(paths)
        self.most = most or len(paths)
        self.loaded: dict[str, float] = {}  # by name: when it was last used

    def used(self, name: str, now: float) -> None:
        """A call has named it."""
        if name in self.loaded:
            self.loaded[name] = now

    def surplus(self) -> list[str]:
        """What must go before one more can come, the longest unused first."""
        oldest = sorted(self.loaded, key=self.loaded.__getitem__)
        return oldest[: max(0, len(oldest) - self.most + 1)]

    def put(self, name: str, now: float) -> None:
        """It is loaded now."""
        self.loaded[name] = now

    def take(self, name: str) -> None:
        """It is not loaded any more."""
        self.loaded.pop(name, None)

    def empty(self) -> None:
        """The engine begins anew."""
        self.loaded.clear()


def best(name: str, shelves: Mapping[str, Shelf], calls: Mapping[str, int]) -> str | None:
    """The endpoint that should load it, by name; None: each that may has it, or none may."""
    able = [one for one, shelf in shelves.items() if name in shelf.paths and name not in shelf.loaded]

    def cost(one: str) -> tuple[bool, int, float, str]:
        going = shelves[one].surplus()
        unused_since = shelves[one].loaded[going[0]] if going else -inf
        return bool(going), calls.get(one, 0), unused_since, one

    return min(able, key=cost, default=None)
