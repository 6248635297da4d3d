"""Counters in the memory of one process: the head's, for the workers of its gateway.

What must outlive a restart is in the audit log: budgets are worked out from it again (`from_records`). A service that
is killed loses what its audit log loses: the records of the last hundredths of a second (`ledger/writer.py`), and
what calls that ran had not used yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from gemstead.traffic.budget import Price, RuleBook, cost, terms
from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.window import Back, Batch, Grant, Standing, Windows, period_start


class MemoryCounters:
    """A `Counters` in this process."""

    def __init__(self) -> None:
        self.windows = Windows()

    async def apply(self, batch: Batch) -> list[Grant]:
        return self.windows.apply(batch, monotonic())

    async def standings(self) -> list[Standing]:
        return self.windows.standings(monotonic())

    async def reset(self, ids: list[str]) -> None:
        self.windows.reset(ids)

    async def close(self) -> None:
        """Nothing is held."""


class Used(NamedTuple):
    """What one caller used of one model in a calendar window."""

    key_id: str
    tenant: str
    app: str
    user: str
    pool: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


def from_records(windows: Windows, book: RuleBook, audit: Path, wall: float) -> int:
    """Charge the budgets of `book` with what the audit log says was used in their windows; how many were charged.

    Raises:
        sqlite3.Error: the log cannot be read.
    """
    charged = 0
    for period in ("day", "month"):
        start = period_start(period, wall)
        for used in _used_since(audit, start):
            charged += _charge(windows, book, used, period, start)
    return charged


def _charge(windows: Windows, book: RuleBook, used: Used, period: str, start: float) -> int:
    caller = Caller(key_id=used.key_id, tenant=used.tenant, app=used.app, user=used.user, limit=RateLimit())
    found = terms(book, RateLimit(), caller, used.pool)
    backs = [
        Back(cap, -_amount(cap.unit, used, found.price), start, 0.0)
        for cap in found.caps
        if cap.kind == "budget" and cap.period == period
    ]
    if backs:
        number = windows.seen.get("audit", (0, []))[0] + 1
        windows.apply(Batch("audit", number, [], backs), monotonic())
    return len(backs)


def _amount(unit: str, used: Used, price: Price) -> int:
    if unit == "requests":
        return used.calls
    if unit == "tokens":
        return used.prompt_tokens + used.output_tokens
    return cost(price, used.prompt_tokens, used.cached_tokens, used.output_tokens)


_SUMS = """SELECT key_id, tenant, app, user, pool, count(*), sum(prompt_tokens), sum(cached_tokens),
 sum(output_tokens) FROM audit WHERE began >= ? AND attempts > 0 GROUP BY key_id, tenant, app, user, pool"""


def _used_since(audit: Path, start: float) -> Iterable[Used]:
    if not audit.exists():
        return []
    with closing(sqlite3.connect(f"file:{audit}?mode=ro", uri=True, timeout=5.0)) as connection:
        return [Used(*row) for row in connection.execute(_SUMS, (start,))]
