"""What callers have asked of this service, from its ledger: requests by day and by hour, and how long they were.

Only whole days (UTC) count, from the first one with a call on: the day that is running would look like a collapse. A
call that was turned away is not counted, whatever the reason, because nobody knows what it would have taken.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from gemstead.ledger.log import AuditLog

DAY_S = 86_400
HOURS = 24


@dataclass(frozen=True, slots=True)
class Seen:
    """The demand of whole days, oldest first."""

    daily: tuple[int, ...]  # requests
    hours: tuple[float, ...]  # the share of them in each hour of the day, UTC; 24
    prompt_tokens: float  # of a request, on average
    output_tokens: float
    cached_share: float  # of the prompt tokens, found in a cache
    first_day: float  # Unix seconds

    @property
    def requests(self) -> int:
        """All together."""
        return sum(self.daily)


def seen(audit: AuditLog, now: float, days: int, model: str = "") -> Seen | None:
    """The demand of the last whole days; None: the ledger has no call that was answered in them.

    Args:
        audit: the ledger's records.
        now: Unix seconds.
        days: how far back, at most.
        model: only calls of this one; empty: of all.

    Raises:
        LedgerTrouble: the ledger cannot be read.
    """
    until = now // DAY_S * DAY_S
    since = until - days * DAY_S
    by_day = [0] * days
    by_hour = [0.0] * HOURS
    prompt = cached = output = 0
    for row in audit.usage(since, until, ("hour", "model")):
        count = row.requests - row.refused
        if count <= 0 or (model and row.by["model"] != model):
            continue
        hour = _hours_since(row.by["hour"], since)
        by_day[hour // HOURS] += count
        by_hour[hour % HOURS] += count
        prompt, cached, output = (
            prompt + row.prompt_tokens,
            cached + row.cached_tokens,
            output + row.output_tokens,
        )
    total = sum(by_day)
    if not total:
        return None
    first = next(day for day, count in enumerate(by_day) if count)
    return Seen(
        tuple(by_day[first:]),
        tuple(share / total for share in by_hour),
        prompt / total,
        output / total,
        cached / prompt if prompt else 0.0,
        since + first * DAY_S,
    )


def _hours_since(text: str, since: float) -> int:
    """Whole hours from `since` to an hour as the ledger writes it: `2026-11-21 14:00`, UTC."""
    moment = datetime.datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=datetime.UTC)
    return int((moment.timestamp() - since) // 3600)
