"""Loads LoRA adapters into engines of ours when calls first name them, one at a time for each adapter.

Workers say which adapter is needed; which engine loads it, and what it unloads for that, is decided in
`traffic/adapters.py`. An adapter that could not be loaded is not tried again for `AGAIN_S`: who asks for it is told at
once why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from gemstead.traffic.adapters import Shelf, best
from gemstead.traffic.endpoint import EndpointFacts

AGAIN_S = 10.0


class Holder(Protocol):
    """An engine of ours that has adapters."""

    shelf: Shelf | None

    @property
    def facts(self) -> EndpointFacts: ...
    async def load_adapter(self, name: str) -> str:
        """Load it, in the place of others where it has to be; "" or why it could not be."""


class AdapterLoader:
    """Of one service."""

    def __init__(
        self,
        holders: Callable[[], Iterable[Holder]],
        in_flight: Callable[[str], int],
        changed: Callable[[], None],
        failed: Callable[[str, str, str], None],
        trouble: Callable[[str], None],
    ) -> None:
        """`changed`: an engine has another adapter; `failed`: for workers: model, adapter, why."""
        self._holders, self._in_flight, self._changed = holders, in_flight, changed
        self._failed_word, self._trouble = failed, trouble
        self._loading: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}

    def needed(self, pool: str, adapter: str) -> None:
        """Calls wait for it, or would be answered sooner if one more engine had it."""
        key = (pool, adapter)
        if key in self._loading:
            return
        until, why = self._failed.get(key, (0.0, ""))
        if time.monotonic() < until:
            self._failed_word(pool, adapter, why)
            return
        self._loading[key] = task = asyncio.create_task(self._load(pool, adapter))
        task.add_done_callback(lambda _: self._loading.pop(key, None))

    def used(self, uses: dict[str, list[str]]) -> None:
        """Which adapters were used at which endpoint lately."""
        now = time.monotonic()
        for one in self._holders():
            if one.shelf is not None:
                for adapter in uses.get(one.facts.name, ()):
                    one.shelf.used(adapter, now)

    async def _load(self, pool: str, adapter: str) -> None:
        holders = {
            one.facts.name: one
            for one in self._holders()
            if one.shelf is not None and one.facts.pool == pool and one.facts.ready and not one.facts.draining
        }
        shelves = {name: one.shelf for name, one in holders.items() if one.shelf is not None}
        chosen = best(adapter, shelves, {name: self._in_flight(name) for name in holders})
        if chosen is None:
            return  # none is ready, which callers hear otherwise, or all have it
        why = await holders[chosen].load_adapter(adapter)
        self._changed()
        if why:
            self._failed[pool, adapter] = (time.monotonic() + AGAIN_S, why)
            self._trouble(f"{chosen}: the adapter {adapter} could not be loaded: {why}")
            if not any(adapter in shelf.loaded for shelf in shelves.values()):
                self._failed_word(pool, adapter, why)
