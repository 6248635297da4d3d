"""Looks for records of the audit log: of a time, a tenant, a caller, an outcome; page by page, the latest first.

A page ends with a mark, and the next begins behind it: what is written meanwhile moves nothing, so a reader who goes
on to the end has seen each record of the time that was asked for, once. Records of a store's chains stand in the order
of their times, then of their chains and places.

Values in, SQL out: each store asks it of itself (`log.py`, `postgres/log.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.audit import Act, AuditRecord
from gemstead.ledger.database import LedgerTrouble

MOST = 1000  # records of one page
CALL_NAMES = audittable.COLUMNS.replace(" user,", ' "user",')
# What can be asked of each kind, and its column. `caller` is worked out below.
TESTS: dict[str, dict[str, str]] = {
    "calls": {
        "tenant": "tenant",
        "app": "app",
        "user": '"user"',
        "client": "client",
        "model": "CASE WHEN pool <> '' THEN pool ELSE model END",
        "route": "route",
        "outcome": "outcome",
    },
    "acts": {
        "tenant": "tenant",
        "client": "client",
        "action": "action",
        "target": "target",
        "outcome": "outcome",
    },
}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Which records; "" asks for nothing of that kind. Times in Unix seconds, the last not included."""

    since: float
    until: float
    records: str = "calls"  # or "acts"
    most: int = 100
    after: str = ""  # `Page.next` of the page before
    tenant: str = ""
    app: str = ""
    user: str = ""
    caller: str = ""  # a call's key or issuer:subject; an act's actor, with or without its kind
    client: str = ""
    model: str = ""
    route: str = ""
    outcome: str = ""
    action: str = ""
    target: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A record and its place."""

    seq: int
    record: AuditRecord | Act
    chain: str = ""  # named where there are several


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of what was found. `next`: where the rest begins; "": there is none."""

    records: list[Found]
    next: str = ""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What is unlike between the stores."""

    calls: str = "audit"
    acts: str = "acts"
    chain: str = "''"
    mark: str = "?"  # before the number of a value


SQLITE = Form()


def sql_of(question: Question, form: Form = SQLITE) -> tuple[str, list[object]]:
    """The question as SQL, and its values. It asks for one record more than a page has.

    Raises:
        LedgerTrouble: it asks for what such records do not have, or the mark is none.
    """
    known = TESTS.get(question.records)
    if known is None:
        raise LedgerTrouble(f"there are no records {question.records!r}: there are {' and '.join(TESTS)}")
    calls = question.records == "calls"
    table, names, at = (
        (form.calls, CALL_NAMES, "began") if calls else (form.acts, audittable.ACT_COLUMNS, "at")
    )
    values: list[object] = [_finite(question.since), _finite(question.until)]
    tests = [f"{at} >= {form.mark}1", f"{at} < {form.mark}2"]

    def test(sql: str, *more: object) -> None:
        marks = [f"{form.mark}{len(values) + number}" for number in range(1, len(more) + 1)]
        values.extend(more)
        tests.append(sql.format(*marks))

    for name in ("tenant", "app", "user", "client", "model", "route", "outcome", "action", "target"):
        if (wanted := getattr(question, name)) == "":
            continue
        if name not in known:
            raise LedgerTrouble(f"{question.records} have no {name}: ask for {', '.join((*known, 'caller'))}")
        test(f"{known[name]} = {{}}", wanted)
    if question.caller:
        who = question.caller
        actors = (who,) if calls else (who, *(f"{kind}:{who}" for kind in ("user", "key", "os")))
        column = "key_id" if calls else "actor"
        test(f"{column} IN ({', '.join('{}' for _ in actors)})", *actors)
    if question.after:
        test(f"({at}, {form.chain}, seq) < ({{}}, {{}}, {{}})", *place_of(question.after))
    order = f"{at} DESC, {form.chain} DESC, seq DESC" if form.chain != "''" else f"{at} DESC, seq DESC"
    most = max(1, min(question.most, MOST))
    query = (
        f"SELECT {form.chain}, seq, {names} FROM {table} WHERE {' AND '.join(tests)} "  # noqa: S608
        f"ORDER BY {order} LIMIT {most + 1}"
    )
    return query, values


def page_of(question: Question, rows: Sequence[Sequence[object]]) -> Page:
    """The page of these rows, which are those that `sql_of` asked for."""
    most = max(1, min(question.most, MOST))
    made = audittable.record if question.records == "calls" else audittable.act
    found = [Found(chain=str(row[0]), seq=int(str(row[1])), record=made(row[2:])) for row in rows[:most]]
    if len(rows) <= most:
        return Page(records=found)
    last = found[-1]
    at = last.record.began if isinstance(last.record, AuditRecord) else last.record.at
    return Page(records=found, next=f"{at!r}/{last.seq}/{last.chain}")


def place_of(mark: str) -> tuple[float, str, int]:
    """Time, chain and place of a page's end.

    Raises:
        LedgerTrouble: this is no such mark.
    """
    at, _, rest = mark.partition("/")
    seq, _, chain = rest.partition("/")
    try:
        return _finite(float(at)), chain, int(seq) if 0 <= int(seq) < 2**63 else 0
    except ValueError:
        raise LedgerTrouble("`after` is no mark of a page: take `next` from the page before") from None


def _finite(at: float) -> float:
    if math.isnan(at):
        raise LedgerTrouble("this is no time")
    return max(-1e15, min(at, 1e15))


def told(one: Found) -> dict[str, object]:
    """A record that was found, with all its fields, as JSON can say it."""
    plain = msgspec.structs.asdict(one.record)
    place: dict[str, object] = {"seq": one.seq, **({"chain": one.chain} if one.chain else {})}
    if isinstance(one.record, AuditRecord):
        return {**place, "call": plain}
    return {**place, "act": {**plain, "detail": msgspec.json.decode(one.record.detail or "{}")}}
