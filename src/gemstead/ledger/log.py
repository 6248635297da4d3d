"""The audit log, wherever it is kept: one file of this gateway, or a store with the chains of many.

`AuditLog` is what is asked of it outside the request path: acts are written, reports read, chains verified, old records
deleted. `SqliteLog` is the file; the store's is `postgres/log.py`. One suite of tests holds both to the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gemstead.ledger import acts, audittable, proof, read, retention, search
from gemstead.ledger.audit import SEEN, Act, AuditRecord
from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.ledger.proof import Verified
from gemstead.ledger.read import Entry, Gap, Usage
from gemstead.ledger.retention import Hold, Pruned, Rule
from gemstead.ledger.search import Page, Question
from gemstead.ledger.signing import PublicKeys, Signer

Mark = dict[str, int]  # by chain: the last place that was looked at


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says of itself. Times in Unix seconds; None: never."""

    calls: int = 0
    first: float | None = None
    signed: float | None = None
    acts: dict[str, float] = {}  # by action: when it was last done


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who came by a token or certificate: `who` is issuer:subject. Times in Unix seconds."""

    who: str
    tenant: str
    user: str
    last: float | None = None  # of the last call; None: there is none in the log
    noted: float | None = None  # when it was noted last what they may do; None: that is not in the log
    roles: tuple[str, ...] = ()  # as the file's expressions gave them then
    groups: tuple[str, ...] = ()  # of theirs then: those that gave roles


class AuditLog(Protocol):
    """Every method may raise LedgerTrouble, with what to do."""

    @property
    def name(self) -> str: ...  # where it is, for people

    def remember(self, one: Act) -> int: ...
    def checkpoint(self, signer: Signer, now: float) -> Checkpoint | None: ...
    def last_checkpoint(self) -> Checkpoint | None: ...
    def usage(self, since: float, until: float, by: Sequence[str] = ("tenant", "model")) -> list[Usage]: ...
    def gaps(self, since: float, until: float) -> list[Gap]: ...
    def mark(self) -> Mark: ...
    def tail(self, n: int, where: Mapping[str, str] | None = None) -> list[Entry]: ...
    def newer(
        self, mark: Mark, most: int, where: Mapping[str, str] | None = None
    ) -> tuple[list[Entry], Mark]: ...
    def find(self, question: Question) -> Page: ...
    def show(self, call_id: str) -> AuditRecord | None: ...
    def verify(self, keys: PublicKeys, outside: Sequence[Checkpoint] = ()) -> list[Verified]: ...
    def export(self, since: float, until: float, tenant: str | None, signer: Signer) -> Iterator[bytes]: ...
    def hold(
        self,
        tenant: str,
        since: float | None,
        until: float | None,
        reason: str,
        now: float,
        key: str = "*",
        user: str = "*",
        actor: str = "",
    ) -> Hold: ...
    def release(self, hold_id: str, now: float, actor: str = "") -> Hold: ...
    def holds(self) -> list[Hold]: ...
    def prune(
        self,
        rules: Sequence[Rule],
        now: float,
        signer: Signer | None,
        *,
        actor: str = "gemstead",
        upto: int | None = None,
    ) -> Pruned: ...
    def facts(self) -> Facts: ...
    def callers(self) -> list[Seen]: ...


class SqliteLog:
    """The log in one file. Opens it for each question, so any thread may ask."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def remember(self, one: Act) -> int:
        """Write an act; its place in the chain."""
        return acts.remember(self.path, one)

    def checkpoint(self, signer: Signer, now: float) -> Checkpoint | None:
        """Sign where the chain ends; None when nothing is new."""
        return acts.checkpoint(self.path, signer, now)

    def last_checkpoint(self) -> Checkpoint | None:
        """The latest that was signed."""
        return last_of(self.path)

    def usage(self, since: float, until: float, by: Sequence[str] = ("tenant", "model")) -> list[Usage]:
        """What each group used of calls that began in [since, until)."""
        return read.usage(self.path, since, until, by)

    def gaps(self, since: float, until: float) -> list[Gap]:
        """What is missing of calls that began in [since, until)."""
        return read.gaps(self.path, since, until)

    def mark(self) -> Mark:
        """Where the log ends now, for `newer`."""
        return {"": read.last_seq(self.path)}

    def tail(self, n: int, where: Mapping[str, str] | None = None) -> list[Entry]:
        """The last records, in the order in which they were written."""
        return read.tail(self.path, n, where=where)

    def newer(
        self, mark: Mark, most: int, where: Mapping[str, str] | None = None
    ) -> tuple[list[Entry], Mark]:
        """The first records behind a mark, and the mark behind them."""
        latest, after = read.last_seq(self.path), mark.get("", 0)
        entries = read.tail(self.path, most, after, where)
        if len(entries) == most:
            return entries, {"": entries[-1].seq}
        return entries, {"": max([latest, after, *(entry.seq for entry in entries)])}

    def find(self, question: Question) -> Page:
        """A page of the records that are asked for, the latest first."""
        query, values = search.sql_of(question)
        with reading(self.path, audittable.MIGRATIONS) as connection:
            rows = [] if connection is None else connection.execute(query, values).fetchall()
        return search.page_of(question, rows)

    def show(self, call_id: str) -> AuditRecord | None:
        """The record of one call."""
        return read.show(self.path, call_id)

    def verify(self, keys: PublicKeys, outside: Sequence[Checkpoint] = ()) -> list[Verified]:
        """What each chain is worth; there is one, and those that ended when a backup was put back."""
        return proof.verify_all(self.path, keys, outside)

    def export(self, since: float, until: float, tenant: str | None, signer: Signer) -> Iterator[bytes]:
        """The lines of an export, signed first."""
        if not self.path.exists():
            raise LedgerTrouble(f"{self.path} does not exist yet: there is nothing to export")
        acts.checkpoint(self.path, signer, _now())
        yield from proof.export(self.path, since, until, tenant)

    def hold(
        self,
        tenant: str,
        since: float | None,
        until: float | None,
        reason: str,
        now: float,
        key: str = "*",
        user: str = "*",
        actor: str = "",
    ) -> Hold:
        """A new legal hold."""
        return retention.hold(self.path, tenant, since, until, reason, now, key, user, actor)

    def release(self, hold_id: str, now: float, actor: str = "") -> Hold:
        """End a legal hold."""
        return retention.release(self.path, hold_id, now, actor)

    def holds(self) -> list[Hold]:
        """Every legal hold, oldest first."""
        return retention.holds(self.path)

    def prune(
        self,
        rules: Sequence[Rule],
        now: float,
        signer: Signer | None,
        *,
        actor: str = "gemstead",
        upto: int | None = None,
    ) -> Pruned:
        """Delete what is due."""
        return retention.prune(self.path, rules, now, signer, actor=actor, upto=upto)

    def facts(self) -> Facts:
        """What the log says of itself."""
        with reading(self.path, audittable.MIGRATIONS) as connection:
            if connection is None:
                return Facts()
            with closing(connection.cursor()) as cursor:
                calls, first = cursor.execute("SELECT count(*), min(began) FROM audit").fetchone()
                signed = cursor.execute("SELECT max(at) FROM checkpoints WHERE kind = 'head'").fetchone()[0]
                done = cursor.execute(
                    "SELECT action, max(at) FROM acts WHERE outcome = 'done' GROUP BY action"
                )
                return Facts(calls=calls, first=first, signed=signed, acts=dict(done.fetchall()))

    def callers(self) -> list[Seen]:
        """Who came by a token or certificate, in the order of their names. Looks at every record."""
        with reading(self.path, audittable.MIGRATIONS) as connection:
            if connection is None:
                return []
            called = connection.execute(callers_of("audit")).fetchall()
            noted = connection.execute(noted_of("acts")).fetchall()
        return seen_of(called, noted)


def callers_of(table: str) -> str:
    """The question for those who called, of a table of calls."""
    return (
        f'SELECT key_id, max(tenant), max("user"), max(began) FROM {table} '  # noqa: S608
        "WHERE key_id LIKE '%:%' GROUP BY key_id"
    )


def noted_of(table: str) -> str:
    """The question for what was noted last of each, of a table of acts."""
    return (
        f"SELECT target, tenant, at, detail FROM (SELECT target, tenant, at, detail, row_number() OVER "  # noqa: S608
        f"(PARTITION BY target ORDER BY at DESC) AS n FROM {table} WHERE action = '{SEEN}') AS noted WHERE n = 1"
    )


class _Noted(msgspec.Struct):
    """The detail of such an act."""

    user: str = ""
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def seen_of(called: Iterable[Sequence[Any]], noted: Iterable[Sequence[Any]]) -> list[Seen]:
    """Who came, from the answers to the two questions."""
    found = {who: Seen(who=who, tenant=tenant, user=user, last=last) for who, tenant, user, last in called}
    for who, tenant, at, detail in noted:
        said = msgspec.json.decode(detail or "{}", type=_Noted)
        last = found[who].last if who in found else None
        found[who] = Seen(
            who=who, tenant=tenant, user=said.user, last=last, noted=at, roles=said.roles, groups=said.groups
        )
    return [found[who] for who in sorted(found)]


def last_of(path: Path) -> Checkpoint | None:
    """The latest checkpoint of a file's chain."""
    with reading(path, audittable.MIGRATIONS) as connection:
        if connection is None:
            return None
        name = connection.execute("SELECT name FROM chain").fetchone()[0]
        return next(
            (one for one in reversed(proof.checkpoints(connection, name)) if one.kind == "head"), None
        )


def _now() -> float:
    import time

    return time.time()
