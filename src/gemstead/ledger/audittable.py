"""Audit records as rows of audit.db, in the order in which they were written (`seq`), not by the clock.

Calls (`audit`) and administrative acts (`acts`) share one sequence and one hash chain (`chain.py`): the one row of
`chain` holds the chain's name, where it begins and where it ends. Whoever writes holds SQLite's write lock, reads the
end, and moves it on in the same transaction: so the lock is the sequencer, any number of processes write one chain, and
its order is the order of their commits. Records from before there was a chain have no link and stand before its
beginning. `stubs` is what records leave that were deleted by rule (`retention.py`); `checkpoints` are signed
(`signing.py`); `holds` forbid deletion. A file that was put back from a backup goes on with another chain
(`acts.begin_chain`): those before it are in `ended`, and places go on counting, so each place is of one chain.

`gaps` holds what could not be kept: when records had to be let go because the file could not be written for
too long, one row says between which times and how many. A report that covers a gap says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from math import nan

import msgspec

from gemstead.ledger import chain
from gemstead.ledger.audit import Act, AuditRecord
from gemstead.ledger.database import Migrations
from gemstead.ledger.migrations.audit import STEPS
from gemstead.ledger.migrations.step import forward

MIGRATIONS: Migrations = forward(STEPS)
COLUMNS = (
    "call_id, began, route, tenant, app, user, key_id, client, model, pool, endpoint, version, "
    "prompt_hash, stream, attempts, prompt_tokens, cached_tokens, output_tokens, tokens_from, bytes_in, "
    "bytes_out, queued_s, first_token_s, seconds, status, outcome, reason"
)
_NAMES = tuple(COLUMNS.split(", "))
assert AuditRecord.__struct_fields__ == _NAMES, "a new field of AuditRecord needs a migration"

_ROW = f"({', '.join('?' * (len(_NAMES) + 2))})"
_INSERT = f"INSERT INTO audit (seq, link, {COLUMNS}) VALUES "  # noqa: S608
# Python gives the interpreter lock away for each statement, and the event loop fights for it; so the writing
# thread says as much as it can in one.
_AT_ONCE = 32
_INSERT_MANY = _INSERT + ", ".join([_ROW] * _AT_ONCE)
ACT_COLUMNS = "act_id, at, action, actor, role, tenant, client, target, outcome, before, after, detail"
_ACT_NAMES = tuple(ACT_COLUMNS.split(", "))
assert Act.__struct_fields__ == _ACT_NAMES, "a new field of Act needs a migration"
_INSERT_ACT = f"INSERT INTO acts (seq, link, {ACT_COLUMNS}) VALUES ({', '.join('?' * (len(_ACT_NAMES) + 2))})"  # noqa: S608
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


_STREAM, _FIRST_TOKEN = _NAMES.index("stream"), _NAMES.index("first_token_s")
Row = tuple[object, ...]
Sealed = tuple[Row, bytes]  # a record's values in the order of the columns, and its text for the chain
_encode = msgspec.json.Encoder().encode
_TYPES = {"str": str, "bool": bool, "int": int, "float": float, "float | None": float}
_USUAL = tuple(_TYPES[str(AuditRecord.__annotations__[name])] for name in _NAMES)
_FIT = {_USUAL, tuple(type(None) if n == "first_token_s" else t for n, t in zip(_NAMES, _USUAL, strict=True))}
# msgspec leaves a default out when it is the same object, not when it is equal. Empty text, small whole numbers, False
# and None are always the same objects; the others are put in by hand.
_DEFAULTS = {
    kind: [
        (name, default)
        for name, default in zip(
            reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False
        )
        if isinstance(default, float) or (isinstance(default, str) and default != "")
    ]
    for kind in (AuditRecord, Act)
}


def text_of(one: AuditRecord | Act) -> bytes:
    """The bytes that are hashed; see chain.py."""
    for name, default in _DEFAULTS[type(one)]:
        if getattr(one, name) == default:
            setattr(one, name, default)
    return _encode(one)


def row(record: AuditRecord) -> Row:
    """The record's values, in the order of the columns."""
    return msgspec.structs.astuple(record)


def record(values: Sequence[object]) -> AuditRecord:
    """The record of a row's values."""
    return AuditRecord(**dict(zip(_NAMES, values, strict=True)) | {"stream": bool(values[_STREAM])})  # type: ignore[arg-type]


def act(values: Sequence[object]) -> Act:
    """The act of a row's values."""
    return Act(**dict(zip(_ACT_NAMES, values, strict=True)))  # type: ignore[arg-type]


def sealed(one: AuditRecord) -> Sealed:
    """Its row and its text, such that the text made from the row again, read back, is the same."""
    values = msgspec.structs.astuple(one)
    if tuple(map(type, values)) in _FIT:
        try:
            text = text_of(one)
        except (UnicodeError, OverflowError):
            return mended(values)
        # No NaN, no infinity, no -0.0, which SQLite makes 0.0. (`in` raises and drops an exception before it looks.)
        if text.find(b":null") < 0 and text.find(b":-0") < 0:
            return values, text
    return mended(values)


def append(connection: sqlite3.Connection, records: Sequence[Sealed]) -> None:
    """Add calls to the chain, inside a transaction; one whose call_id is already there is passed over."""
    if not records:
        return
    connection.execute("SAVEPOINT batch")
    try:
        try:
            _insert(connection, records)
        except sqlite3.IntegrityError:
            connection.execute("ROLLBACK TO batch")
            _insert(connection, _unknown(connection, records))
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO batch")
        raise
    connection.execute("RELEASE batch")


def append_act(connection: sqlite3.Connection, one: Act) -> int:
    """Add an act to the chain, inside a transaction; its place."""
    seq, before = head(connection)
    made = chain.links(before, seq, [text_of(one)])[0]
    connection.execute(_INSERT_ACT, (seq + 1, made, *msgspec.structs.astuple(one)))
    _move_head(connection, seq + 1, made)
    return seq + 1


def head(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The last place of the chain, and its link."""
    seq, link = connection.execute("SELECT head_seq, head_link FROM chain").fetchone()
    return int(seq), bytes(link)


def _move_head(connection: sqlite3.Connection, seq: int, link: bytes) -> None:
    connection.execute("UPDATE chain SET head_seq = ?, head_link = ?", (seq, link))


def _insert(connection: sqlite3.Connection, records: Sequence[Sealed]) -> None:
    if not records:
        return
    seq, before = head(connection)
    links = chain.links(before, seq, [text for _, text in records])
    for start in range(0, len(records), _AT_ONCE):
        some = records[start : start + _AT_ONCE]
        statement = _INSERT_MANY if len(some) == _AT_ONCE else _INSERT + ", ".join([_ROW] * len(some))
        connection.execute(statement, _bound(seq + start, links[start : start + _AT_ONCE], some))
    _move_head(connection, seq + len(records), links[-1])


def _bound(seq: int, links: Sequence[bytes], records: Sequence[Sealed]) -> list[object]:
    """What stands for the `?` of so many rows, the first of them at place `seq` + 1.

    Python's module looks for adapters of whatever is not exactly an int, a float, a text or a bytearray, and that costs
    more than the rest of the row: so bytes, truth and nothing (which is what SQLite makes of NaN) go as those.
    """
    bound: list[object] = []
    for link, (values, _) in zip(links, records, strict=True):
        seq += 1
        bound += (seq, bytearray(link))
        row = len(bound)
        bound += values
        bound[row + _STREAM] = 1 if values[_STREAM] else 0
        if values[_FIRST_TOKEN] is None:
            bound[row + _FIRST_TOKEN] = nan
    return bound


def _unknown(connection: sqlite3.Connection, records: Sequence[Sealed]) -> list[Sealed]:
    """Those whose call_id is not there yet, each once. Moves the chain's end past rows that somebody put behind it:
    they stay, and verification names them."""
    most = connection.execute(
        "SELECT max(coalesce((SELECT max(seq) FROM audit), 0), coalesce((SELECT max(seq) FROM acts), 0))"
    ).fetchone()[0]
    seq, link = head(connection)
    if most > seq:
        _move_head(connection, most, link)
    fresh: dict[object, Sealed] = {}
    for one in records:
        call_id = one[0][0]
        if (
            call_id not in fresh
            and not connection.execute("SELECT 1 FROM audit WHERE call_id = ?", (call_id,)).fetchone()
        ):
            fresh[call_id] = one
    return list(fresh.values())


def mended(values: Iterable[object]) -> Sealed:
    """The row with what SQLite cannot hold replaced (lone surrogates, NaN, numbers beyond 64 bits, wrong types), and
    its text."""
    fit = tuple(_mended(value, kind) for value, kind in zip(values, _KINDS, strict=True))
    return fit, text_of(record(fit))


def _mended(value: object, kind: str) -> object:
    if kind == _TEXT:
        return ("" if value is None else str(value)).encode("utf-8", "replace").decode()
    if isinstance(value, int) and kind == _WHOLE:
        return max(-_LARGEST, min(_LARGEST, value))
    if isinstance(value, (int, float)) and abs(value) < _LARGEST:  # also False for NaN
        return int(value) if kind == _WHOLE else float(value) + 0.0  # -0.0 becomes 0.0
    return {_WHOLE: 0, _REAL: 0.0}.get(kind)  # the only kind without a name is a time that may be missing
