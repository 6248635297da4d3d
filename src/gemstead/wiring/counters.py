"""The counters of use as the head sees them: kept in its memory for the workers of this gateway, or looked at in the
store that several gateways share.

At the start, and when a reload brings new budgets, those in memory are charged with what the audit log says was used
in their windows. That a budget has come to 80 or 100 percent is said once for each window: in the log, as an act of the
audit log, and as a metric.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gemstead.gateway.control import Held
from gemstead.gateway.settings import GatewaySettings
from gemstead.ledger.counters import Counters, StoreAway, opened
from gemstead.ledger.counters.memory import MemoryCounters, from_records
from gemstead.traffic.hold import Crossed, shown
from gemstead.traffic.window import Batch, Grant, Standing, period_end, period_start

WITHIN_S = 5.0
log = logging.getLogger("gemstead")


class LimitStore:
    """Use from one event loop."""

    def __init__(self, settings: GatewaySettings, trouble: Callable[[str], None]) -> None:
        self.memory = MemoryCounters()
        self.on_crossed: Callable[[Crossed], None] = lambda crossed: None
        self._trouble = trouble
        self._restored: set[str] = set()
        self._said: set[tuple[str, float, float]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.settings = settings
        self._charge(settings)

    def configure(self, settings: GatewaySettings) -> None:
        """Other rules are in force; budgets that are new begin with what was used already."""
        self.settings = settings
        self._charge(settings)

    def _charge(self, settings: GatewaySettings) -> None:
        new = [rule for rule in settings.rulebook.rules if rule.name not in self._restored]
        if not new or settings.limit_store or not settings.ledger_path:
            return
        self._restored |= {rule.name for rule in new}
        book = msgspec.structs.replace(settings.rulebook, rules=tuple(new))
        try:
            charged = from_records(self.memory.windows, book, Path(settings.ledger_path), time.time())
        except sqlite3.Error as error:
            self._trouble(f"budgets begin at nothing, because the audit log could not be read: {error}")
            return
        if charged:
            log.info("budgets charged with what was used before: %d sums", charged)

    def apply(self, batch: Batch) -> list[Grant]:
        """Answer a worker."""
        return self.memory.windows.apply(batch, time.monotonic())

    def left(self, owner: str) -> None:
        """A worker is gone: its slots are free."""
        self.memory.windows.leave(owner)

    def crossed(self, one: Crossed) -> None:
        """A worker has seen a budget come to a share of its limit."""
        key = (one.cap.id, one.start, one.level)
        if key in self._said:
            return
        if len(self._said) > 10_000:
            self._said.clear()
        self._said.add(key)
        log.warning(said(one))
        self.on_crossed(one)

    async def show(self, held: Sequence[Held] = ()) -> dict[str, Any]:
        """Every counter that is in use, most used first. `held`: what workers said of their calls.

        Raises:
            StoreAway: the shared store does not answer.
        """
        now = time.time()
        here: dict[str, tuple[int, int]] = {}
        for one in held:
            running, ahead = here.get(one.cap.id, (0, 0))
            here[one.cap.id] = running + one.held, ahead + one.ahead
        rows = [_row(one, now, *here.get(one.cap.id, (0, 0))) for one in await self._standings()]
        rows += [
            _row(Standing(cap=one.cap, used=one.used + one.held), now, one.held)
            for one in held
            if one.used >= 0
        ]
        rows.sort(key=lambda row: (-row["used_share"], row["rule"], row["who"]))
        return {"store": "shared" if self.settings.limit_store else "memory", "limits": rows}

    async def reset(self, rule: str, who: str) -> list[str]:
        """Let the counters of a rule begin anew, or only those of `who`; their ids.

        Raises:
            StoreAway: the shared store does not answer.
        """
        store = self._store()
        try:
            found = await asyncio.wait_for(store.standings(), WITHIN_S)
            ids = [one.cap.id for one in found if one.cap.rule == rule and who in ("", one.cap.who)]
            await asyncio.wait_for(store.reset(ids), WITHIN_S)
        finally:
            if store is not self.memory:
                await store.close()
        self._said = {key for key in self._said if key[0] not in ids}
        return ids

    async def _standings(self) -> list[Standing]:
        store = self._store()
        try:
            return await asyncio.wait_for(store.standings(), WITHIN_S)
        except TimeoutError as error:
            raise StoreAway(f"the store of limits says nothing within {WITHIN_S:g} s") from error
        finally:
            if store is not self.memory:
                await store.close()

    def _store(self) -> Counters:
        return opened(self.settings.limit_store) if self.settings.limit_store else self.memory


def said(one: Crossed) -> str:
    """The sentence for an operator."""
    cap = one.cap
    of = f" of {cap.who}" if cap.who else ""
    return (
        f"limit {cap.rule}: {cap.name}{of} is {one.level:.0%} used: "
        f"{shown(cap, one.used)} of {shown(cap, cap.limit)}"
    )


def _row(one: Standing, now: float, held: int = 0, ahead: int = 0) -> dict[str, Any]:
    """A counter for people. What workers have taken ahead is left, and what calls of this gateway hold is not used yet;
    what calls of other gateways hold cannot be told from what they used."""
    cap = one.cap
    taken, ends = one.used, None
    if cap.kind == "budget":
        start = period_start(cap.period, now)
        taken = taken if one.since >= start else 0
        ends = period_end(cap.period, start)
    taken = max(taken - ahead, 0)
    if cap.kind == "rate" and taken:
        ends = now + min(taken / cap.limit, 1.0) * cap.window_s
    held = min(held, taken)
    scale = 1e9 if cap.unit == "money" else 1
    return {
        "rule": cap.rule,
        "who": cap.who,
        "limit": cap.name,
        "most": cap.limit / scale,
        "used": (taken - held) / scale,
        "held": held / scale,
        "left": max(cap.limit - taken, 0) / scale,
        "used_share": round(taken / cap.limit, 4),
        "until": ends,
    }
