"""Deletes audit records that are older than the rules allow, such that the chain stays verifiable.

A deleted record leaves a stub: its place, leaf and link. Once everything before some place is stubs, that place becomes
the chain's new beginning, signed as such, and the stubs go too. What is deleted is overwritten in the file
(`secure_delete`) and in its log, because a record that was to be forgotten must not lie in a free page.

A legal hold keeps what it names, whatever the rules say. Holds and deletions are acts in the log themselves.
Records from before there was a chain are deleted by the same rules and leave nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import changing, new_act, signed, write_checkpoint
from gemstead.ledger.database import LedgerTrouble, open_to_write, plainly, reading
from gemstead.ledger.signing import Signer

DAY_S = 86_400.0
AT_ONCE = 500  # records of one transaction, so that nobody waits long for the lock
KINDS = ("calls", "acts")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How long records are kept. The first rule that fits a record counts; without one it is kept."""

    keep_days: float
    records: str = "all"  # "calls", "acts" or "all"
    tenant: str = "*"  # a pattern


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What may not be deleted. Times in Unix seconds; None: without bound."""

    hold_id: str
    tenant: str  # a pattern
    since: float | None
    until: float | None
    reason: str
    made: float
    released: float | None = None
    key: str = "*"  # a pattern of keys' public ids
    user: str = "*"  # a pattern

    def keeps(self, tenant: str, at: float, key: str = "", user: str = "") -> bool:
        """Whether a record of that tenant, key, user and time may not be deleted."""
        return (
            self.released is None
            and fnmatchcase(tenant, self.tenant)
            and fnmatchcase(key, self.key)
            and fnmatchcase(user, self.user)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


class Pruned(msgspec.Struct, kw_only=True):
    """What was deleted, or would be."""

    calls: int = 0
    acts: int = 0
    held: int = 0  # due, but under a legal hold
    base: int = 0  # the last place before the chain's beginning


def due(rules: Sequence[Rule], kind: str, tenant: str, at: float, now: float) -> bool:
    """Whether the first rule that fits says that the time is over."""
    for rule in rules:
        if rule.records in (kind, "all") and fnmatchcase(tenant, rule.tenant):
            return at < now - rule.keep_days * DAY_S
    return False


def whose(kind: str, key_or_actor: str, user_or_target: str) -> tuple[str, str]:
    """The key and the user that a row is about, from its `key_id` and `user`, or an act's `actor` and `target`."""
    if kind == "calls":
        return key_or_actor, user_or_target
    actor, _, name = key_or_actor.partition(":")
    key = name if actor == "key" else user_or_target if user_or_target.startswith("gms_") else ""
    return key, name if actor == "user" else ""


# What of a row says whose it is, by kind of record: see `whose`.
WHOSE = {"calls": ("key_id", "user"), "acts": ("actor", "target")}
HOLD_COLUMNS = "hold_id, tenant, since, until, reason, made, released, by_key, by_user"


def hold_of(row: Sequence[Any]) -> Hold:
    """A hold from its row."""
    names = ("hold_id", "tenant", "since", "until", "reason", "made", "released", "key", "user")
    return Hold(**dict(zip(names, row, strict=True)))


def new_hold(
    tenant: str, since: float | None, until: float | None, reason: str, now: float, key: str, user: str
) -> Hold:
    """A hold with an id of its own."""
    return Hold(
        hold_id=f"hold_{secrets.token_hex(4)}",
        tenant=tenant,
        since=since,
        until=until,
        reason=reason,
        made=now,
        key=key,
        user=user,
    )


def told(one: Hold) -> dict[str, object]:
    """What the act of a new hold says of it."""
    names = ("tenant", "key", "user", "since", "until", "reason")
    return {name: getattr(one, name) for name in names}


def hold(
    path: Path,
    tenant: str,
    since: float | None,
    until: float | None,
    reason: str,
    now: float,
    key: str = "*",
    user: str = "*",
    actor: str = "",
) -> Hold:
    """A new legal hold. `actor`: who made it; "": whoever runs this.

    Raises:
        LedgerTrouble: it cannot be written.
    """
    one = new_hold(tenant, since, until, reason, now, key, user)
    with changing(path) as connection:
        connection.execute(
            f"INSERT INTO holds ({HOLD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            msgspec.structs.astuple(one),
        )
        audittable.append_act(connection, new_act("audit.hold", one.hold_id, actor=actor, detail=told(one)))
    return one


def release(path: Path, hold_id: str, now: float, actor: str = "") -> Hold:
    """End a legal hold; what it kept is deleted at the next pruning, if it is due.

    Raises:
        LedgerTrouble: there is none of that id, or it has ended.
    """
    with changing(path) as connection:
        one = next((one for one in _holds(connection) if one.hold_id == hold_id), None)
        if one is None or one.released is not None:
            raise LedgerTrouble(
                f"there is no legal hold {hold_id} in force: `gemstead audit holds` lists them"
            )
        connection.execute("UPDATE holds SET released = ? WHERE hold_id = ?", (now, hold_id))
        audittable.append_act(connection, new_act("audit.release", hold_id, actor=actor))
    return msgspec.structs.replace(one, released=now)


def holds(path: Path) -> list[Hold]:
    """Every legal hold, oldest first, also those that have ended."""
    with reading(path, audittable.MIGRATIONS) as connection:
        return _holds(connection) if connection else []


def prune(
    path: Path,
    rules: Sequence[Rule],
    now: float,
    signer: Signer | None,
    *,
    actor: str = "gemstead",
    upto: int | None = None,
) -> Pruned:
    """Delete what is due, a few records at a time.

    Args:
        signer: None only counts what would be deleted.
        upto: records behind this place are kept: a receiver of audit records does not have them yet.

    Raises:
        LedgerTrouble: the file cannot be read or written.
    """
    done = Pruned()
    if not rules or not path.exists():
        return done
    with plainly(path):
        connection = open_to_write(path, audittable.MIGRATIONS)
        try:
            connection.execute("PRAGMA secure_delete=ON")
            kept = _holds(connection)
            last = 2**62 if upto is None else upto
            for kind in KINDS:
                _prune_kind(connection, kind, rules, kept, now, last, signer is not None, done)
            if signer is not None and done.calls + done.acts:
                _finish(connection, signer, now, actor, done)
        finally:
            connection.close()
    return done


def _prune_kind(
    connection: sqlite3.Connection,
    kind: str,
    rules: Sequence[Rule],
    kept: Sequence[Hold],
    now: float,
    last: int,
    deletes: bool,
    done: Pruned,
) -> None:
    table, time = ("audit", "began") if kind == "calls" else ("acts", "at")
    oldest_s = min(rule.keep_days for rule in rules) * DAY_S
    whom = ", ".join(WHOSE[kind])
    look = (
        f"SELECT seq, tenant, {time}, {whom} FROM {table} "  # noqa: S608
        f"WHERE seq > ? AND seq <= ? AND {time} < ? ORDER BY seq LIMIT ?"
    )
    after = 0
    while rows := connection.execute(look, (after, last, now - oldest_s, AT_ONCE)).fetchall():
        after = rows[-1][0]
        gone = [row for row in rows if due(rules, kind, row[1], row[2], now)]
        free = [
            seq
            for seq, tenant, at, *which in gone
            if not any(one.keeps(tenant, at, *whose(kind, *which)) for one in kept)
        ]
        done.held += len(gone) - len(free)
        if deletes and free:
            connection.execute("BEGIN IMMEDIATE")
            for seq in free:
                _leave_stub(connection, table, seq)
            connection.execute("COMMIT")
        setattr(done, kind, getattr(done, kind) + len(free))


def _leave_stub(connection: sqlite3.Connection, table: str, seq: int) -> None:
    """A stub in the place of one record."""
    calls = table == "audit"
    columns = audittable.COLUMNS if calls else audittable.ACT_COLUMNS
    row = connection.execute(f"SELECT link, {columns} FROM {table} WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
    if row is None:
        return
    link, *values = row
    if link:
        text = audittable.text_of(audittable.record(values) if calls else audittable.act(values))
        connection.execute(
            "INSERT OR REPLACE INTO stubs (seq, leaf, link) VALUES (?, ?, ?)", (seq, chain.leaf(text), link)
        )
    connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))  # noqa: S608


def _finish(connection: sqlite3.Connection, signer: Signer, now: float, actor: str, done: Pruned) -> None:
    """Move the chain's beginning, say what was done, and empty the log of what was deleted."""
    connection.execute("BEGIN IMMEDIATE")
    name, base, head = connection.execute("SELECT name, base_seq, head_seq FROM chain").fetchone()
    first = connection.execute(
        "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM audit WHERE link IS NOT NULL "
        "UNION ALL SELECT min(seq) FROM acts)"
    ).fetchone()[0]
    before = (first or head + 1) - 1
    if before > base:
        link = connection.execute("SELECT link FROM stubs WHERE seq = ?", (before,)).fetchone()[0]
        connection.execute("UPDATE chain SET base_seq = ?, base_link = ?", (before, link))
        write_checkpoint(connection, signed(signer, name, before, link, now, "base"))
        connection.execute("DELETE FROM stubs WHERE seq <= ?", (before,))
        connection.execute("DELETE FROM checkpoints WHERE seq < ?", (before,))
        connection.execute("DELETE FROM ended WHERE head_seq <= ?", (before,))
    done.base = max(before, base)
    detail = {"calls": done.calls, "acts": done.acts, "held": done.held, "base": done.base}
    audittable.append_act(connection, new_act("audit.prune", actor=actor, detail=detail))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _holds(connection: sqlite3.Connection) -> list[Hold]:
    rows = connection.execute(f"SELECT {HOLD_COLUMNS} FROM holds ORDER BY made, hold_id")  # noqa: S608
    return [hold_of(row) for row in rows]
