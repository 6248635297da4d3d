"""Reads audit records: usage, the latest, one call. Never writes, and works while the service writes or is
stopped.

Times are Unix seconds. A file that is not there yet gives empty answers. What a report counts:

- *served*: answered to the end;
- *refused*: turned away before an answer (no key, over a limit, a bad request, ...);
- *failed*: accepted, and not answered to the end through our side's fault;
- *left*: the client went away, or would not read.

Percentiles are by nearest rank over the calls that had a first token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.refused import Reason

# What a report can be grouped by and filtered on: the name people use, and its SQL.
GROUPS = {
    "tenant": "tenant",
    "app": "app",
    "user": '"user"',
    "key": "key_id",
    "model": "CASE WHEN pool <> '' THEN pool ELSE model END",  # as written, when it was never routed
    "version": "version",
    "endpoint": "endpoint",
    "route": "route",
    "client": "client",
    "outcome": "outcome",
    "day": "strftime('%Y-%m-%d', began, 'unixepoch')",
    "hour": "strftime('%Y-%m-%d %H:00', began, 'unixepoch')",
}
FAILED = ("cut", Reason.UPSTREAM_FAILED, Reason.NO_ENDPOINT, Reason.DEADLINE, Reason.INTERNAL)
LEFT = (Reason.CLIENT_LEFT, Reason.SLOW_CLIENT)


class Dialect(msgspec.Struct, frozen=True):
    """How a database is asked: the table of calls, what a report is grouped by, and how a period is said."""

    table: str = "audit"
    groups: Mapping[str, str] = msgspec.field(default_factory=lambda: GROUPS)
    period: str = "began >= :since AND began < :until"


SQLITE = Dialect()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one group used. Times in seconds; None when no call had a first token."""

    by: dict[str, str]
    requests: int
    served: int
    refused: int
    failed: int
    left: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    first_token_mean_s: float | None
    first_token_p50_s: float | None
    first_token_p99_s: float | None
    mean_s: float


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Records that could not be kept."""

    began: float
    ended: float
    records: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A record and its place in its chain."""

    seq: int
    record: AuditRecord
    chain: str = ""  # named where there are several


def usage(path: Path, since: float, until: float, by: Sequence[str] = ("tenant", "model")) -> list[Usage]:
    """What each group used of calls that began in [since, until), the most output first.

    Raises:
        LedgerTrouble: a name in `by` is not one of GROUPS, or the file cannot be read.
    """
    asked, ranks = questions(by)
    period = {"since": since, "until": until}
    with reading(path, audittable.MIGRATIONS) as connection:
        if connection is None:
            return []
        connection.execute("BEGIN")  # both questions see the same records
        counted, ranked = (
            connection.execute(asked, period).fetchall(),
            connection.execute(ranks, period).fetchall(),
        )
    return answered(by, counted, ranked)


def questions(by: Sequence[str], dialect: Dialect = SQLITE) -> tuple[str, str]:
    """What is to be asked for a report: the sums of each group, and the percentiles.

    Raises:
        LedgerTrouble: a name in `by` is none to group by.
    """
    groups = [_sql_of(name, dialect) for name in by] or ["CAST('' AS TEXT)"]
    return _count_sql(groups, dialect), _rank_sql(groups, dialect)


def answered(
    by: Sequence[str], counted: Sequence[tuple[object, ...]], ranked: Sequence[tuple[object, ...]]
) -> list[Usage]:
    """The report, from what was answered to its two questions."""
    width = len(by) or 1
    ranks = {row[:width]: row[width:] for row in ranked}
    return [_usage(by, row, width, ranks) for row in counted]


def tail(
    path: Path, n: int = 20, after: int | None = None, where: Mapping[str, str] | None = None
) -> list[Entry]:
    """The last `n` records, or the first `n` behind `after` (a `seq`), in the order in which they were
    written.

    Raises:
        LedgerTrouble: a name in `where` is not one of GROUPS, or the file cannot be read.
    """
    tests = [f"{_sql_of(name)} = ?" for name in where or {}]
    values: list[object] = list((where or {}).values())
    if after is not None:
        tests.append("seq > ?")
        values.append(after)
    order = "DESC" if after is None else "ASC"
    query = (
        f"SELECT seq, {audittable.COLUMNS} FROM audit {'WHERE ' + ' AND '.join(tests) if tests else ''} "  # noqa: S608
        f"ORDER BY seq {order} LIMIT ?"
    )
    with reading(path, audittable.MIGRATIONS) as connection:
        rows = connection.execute(query, [*values, max(n, 0)]).fetchall() if connection else []
    entries = [Entry(seq=row[0], record=audittable.record(row[1:])) for row in rows]
    return entries[::-1] if after is None else entries


def last_seq(path: Path) -> int:
    """The place of the latest record; 0 when there is none."""
    with reading(path, audittable.MIGRATIONS) as connection:
        row = connection.execute("SELECT max(seq) FROM audit").fetchone() if connection else None
    return int(row[0] or 0) if row else 0


def show(path: Path, call_id: str) -> AuditRecord | None:
    """The record of one call, or None."""
    query = f"SELECT {audittable.COLUMNS} FROM audit WHERE call_id = ?"  # noqa: S608
    with reading(path, audittable.MIGRATIONS) as connection:
        row = connection.execute(query, (call_id,)).fetchone() if connection else None
    return audittable.record(row) if row else None


def gaps(path: Path, since: float, until: float) -> list[Gap]:
    """What is missing of calls that began in [since, until)."""
    query = "SELECT began, ended, records FROM gaps WHERE began < :until AND ended >= :since ORDER BY began"
    with reading(path, audittable.MIGRATIONS) as connection:
        rows = connection.execute(query, {"since": since, "until": until}).fetchall() if connection else []
    return [Gap(began=began, ended=ended, records=records) for began, ended, records in rows]


def _sql_of(name: str, dialect: Dialect = SQLITE) -> str:
    try:
        return dialect.groups[name]
    except KeyError:
        raise LedgerTrouble(f"{name!r} is nothing to group by: use {', '.join(GROUPS)}") from None


def _count_sql(groups: Sequence[str], dialect: Dialect) -> str:
    failed, left = (", ".join(f"'{outcome}'" for outcome in outcomes) for outcomes in (FAILED, LEFT))
    chosen = ", ".join(groups)
    return f"""
        SELECT {chosen}, count(*), count(*) FILTER (WHERE outcome = 'served'),
            count(*) FILTER (WHERE outcome IN ({failed})), count(*) FILTER (WHERE outcome IN ({left})),
            CAST(sum(prompt_tokens) AS BIGINT), CAST(sum(cached_tokens) AS BIGINT),
            CAST(sum(output_tokens) AS BIGINT), avg(first_token_s), avg(seconds)
        FROM {dialect.table} WHERE {dialect.period} GROUP BY {chosen}
        ORDER BY sum(output_tokens) DESC, count(*) DESC, {chosen}
    """  # noqa: S608


def _rank_sql(groups: Sequence[str], dialect: Dialect) -> str:
    named = ", ".join(f"{sql} AS g{number}" for number, sql in enumerate(groups))
    names = ", ".join(f"g{number}" for number in range(len(groups)))
    return f"""
        WITH timed AS (
            SELECT {named}, first_token_s AS t FROM {dialect.table}
            WHERE {dialect.period} AND first_token_s IS NOT NULL
        ), ranked AS (
            SELECT {names}, t, row_number() OVER (PARTITION BY {names} ORDER BY t) AS rank,
                count(*) OVER (PARTITION BY {names}) AS many
            FROM timed
        )
        SELECT {names}, max(t) FILTER (WHERE rank = (many * 50 + 99) / 100),
            max(t) FILTER (WHERE rank = (many * 99 + 99) / 100)
        FROM ranked GROUP BY {names}
    """  # noqa: S608


def _usage(
    by: Sequence[str],
    row: tuple[object, ...],
    width: int,
    ranked: Mapping[tuple[object, ...], Sequence[object]],
) -> Usage:
    requests, served, failed, left, prompt, cached, output, first_mean, mean = row[width:]
    p50, p99 = ranked.get(row[:width], (None, None))
    return msgspec.convert(
        {
            "by": dict(zip(by, row, strict=False)),
            "requests": requests,
            "served": served,
            "refused": int(requests) - int(served) - int(failed) - int(left),  # type: ignore[call-overload]
            "failed": failed,
            "left": left,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "output_tokens": output,
            "first_token_mean_s": first_mean,
            "first_token_p50_s": p50,
            "first_token_p99_s": p99,
            "mean_s": mean,
        },
        Usage,
    )
