"""Audit records as rows of audit.db, in the order in which they were written (`seq`), not by the clock.

`gaps` holds what could not be kept: when records had to be let go because the file could not be written for
too long, one row says between which times and how many. A report that covers a gap says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.database import STRICT, Migrations

MIGRATIONS: Migrations = (
    (
        f"""CREATE TABLE audit (
            seq INTEGER PRIMARY KEY,
            call_id TEXT NOT NULL UNIQUE,
            began REAL NOT NULL,
            route TEXT NOT NULL,
            tenant TEXT NOT NULL,
            app TEXT NOT NULL,
            user TEXT NOT NULL,
            key_id TEXT NOT NULL,
            client TEXT NOT NULL,
            model TEXT NOT NULL,
            pool TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            version TEXT NOT NULL,
            prompt_hash TEXT NOT NULL,
            stream INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            tokens_from TEXT NOT NULL,
            bytes_in INTEGER NOT NULL,
            bytes_out INTEGER NOT NULL,
            queued_s REAL NOT NULL,
            first_token_s REAL,
            seconds REAL NOT NULL,
            status INTEGER NOT NULL,
            outcome TEXT NOT NULL
        ){STRICT}""",
        "CREATE INDEX audit_began ON audit (began)",
        f"""CREATE TABLE gaps (
            began REAL NOT NULL,
            ended REAL NOT NULL,
            records INTEGER NOT NULL
        ){STRICT}""",
    ),
    ("ALTER TABLE audit ADD COLUMN reason TEXT NOT NULL DEFAULT ''",),
)
COLUMNS = (
    "call_id, began, route, tenant, app, user, key_id, client, model, pool, endpoint, version, "
    "prompt_hash, stream, attempts, prompt_tokens, cached_tokens, output_tokens, tokens_from, bytes_in, "
    "bytes_out, queued_s, first_token_s, seconds, status, outcome, reason"
)
_NAMES = tuple(COLUMNS.split(", "))
assert AuditRecord.__struct_fields__ == _NAMES, "a new field of AuditRecord needs a migration"

_ROW = f"({', '.join('?' * len(_NAMES))})"
_INSERT = f"INSERT INTO audit ({COLUMNS}) VALUES {_ROW} ON CONFLICT (call_id) DO NOTHING"  # noqa: S608
# Python gives the interpreter lock away for each statement, and the event loop fights for it; so the writing
# thread says as much as it can in one.
_AT_ONCE = 32
_INSERT_MANY = (
    f"INSERT INTO audit ({COLUMNS}) VALUES {', '.join([_ROW] * _AT_ONCE)} "  # noqa: S608
    "ON CONFLICT (call_id) DO NOTHING"
)
_LARGEST = 2**63 - 1
_TEXT, _WHOLE, _REAL = "TEXT", "INTEGER", "REAL"
_KINDS = tuple(
    {"str": _TEXT, "bool": _WHOLE, "int": _WHOLE, "float": _REAL}.get(
        str(AuditRecord.__annotations__[name]), ""
    )
    for name in _NAMES
)

# What SQLite and its Python module raise for a value that a row cannot hold.
UNFIT = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    UnicodeError,
)


def row(record: AuditRecord) -> tuple[object, ...]:
    """The record's values, in the order of the columns."""
    return msgspec.structs.astuple(record)


def record(values: Sequence[object]) -> AuditRecord:
    """The record of a row's values."""
    return AuditRecord(**dict(zip(_NAMES, values, strict=True)) | {"stream": bool(values[13])})  # type: ignore[arg-type]


def insert(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Add rows; one whose call_id is already there is passed over."""
    whole = len(rows) - len(rows) % _AT_ONCE
    for start in range(0, whole, _AT_ONCE):
        connection.execute(_INSERT_MANY, list(chain.from_iterable(rows[start : start + _AT_ONCE])))
    connection.executemany(_INSERT, rows[whole:])


def mended(values: Iterable[object]) -> tuple[object, ...]:
    """The row with what SQLite cannot hold replaced: lone surrogates, NaN, numbers beyond 64 bits, wrong
    types."""
    return tuple(_mended(value, kind) for value, kind in zip(values, _KINDS, strict=True))


def _mended(value: object, kind: str) -> object:
    if kind == _TEXT:
        return ("" if value is None else str(value)).encode("utf-8", "replace").decode()
    if isinstance(value, int) and kind == _WHOLE:
        return max(-_LARGEST, min(_LARGEST, value))
    if isinstance(value, (int, float)) and abs(value) < _LARGEST:  # also False for NaN
        return int(value) if kind == _WHOLE else float(value)
    return 0 if kind else None  # the only kind without a name is a time that may be missing
