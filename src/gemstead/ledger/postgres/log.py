"""The audit log of a store: the chains of all gateways that ever wrote.

What is written here (acts, checkpoints) goes into this machine's own chain first, and is then brought into the store at
once: so a verb on a machine where no gateway runs leaves nothing behind. What is read is what the store has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from gemstead.ledger import acts, audittable, read, search
from gemstead.ledger.acts import new_act, signed
from gemstead.ledger.audit import Act, AuditRecord
from gemstead.ledger.chain import Checkpoint, Fault
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.log import Facts, Mark, Seen, callers_of, last_of, noted_of, seen_of
from gemstead.ledger.postgres.cursors import shipped_upto
from gemstead.ledger.postgres.link import Link, kept, linked, told
from gemstead.ledger.postgres.place import Place, shown
from gemstead.ledger.postgres.proof import StoreChain
from gemstead.ledger.postgres.prune import holds, prune, write_checkpoint
from gemstead.ledger.postgres.push import AUDIT_NAMES, Pusher
from gemstead.ledger.proof import Verified, export_chain, follows, verify_chain
from gemstead.ledger.read import Dialect, Entry, Gap, Usage
from gemstead.ledger.retention import HOLD_COLUMNS, Hold, Pruned, Rule, new_hold
from gemstead.ledger.retention import told as told_of
from gemstead.ledger.search import Form, Page, Question
from gemstead.ledger.signing import PublicKeys, Signer

_GROUPS = read.GROUPS | {
    "day": "to_char(to_timestamp(began) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "hour": "to_char(to_timestamp(began) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:00')",
}
POSTGRES = Dialect(table="gemstead_audit", groups=_GROUPS, period="began >= $1 AND began < $2")
_SEARCH = Form(calls="gemstead_audit", acts="gemstead_acts", chain="chain", mark="$")
_ENTRY = f"SELECT chain, seq, {AUDIT_NAMES} FROM gemstead_audit"  # noqa: S608


class PostgresLog:
    """`AuditLog` in a store. `path`: this machine's own audit.db. Connects for each question, so any thread may ask."""

    def __init__(self, path: Path, place: Place, *, bring: bool = True) -> None:
        """`bring`: into the store at once what is written here; otherwise somebody else does."""
        self._path, self._place, self._brings = path, place, bring

    @property
    def name(self) -> str:
        """Where it is, for people."""
        return shown(self._place.url())

    # -- written ----------------------------------------------------------------------------------------

    def remember(self, one: Act) -> int:
        """Write an act into this machine's chain and bring it into the store; its place.

        Raises:
            LedgerTrouble: it could not be written, or is only on this machine yet.
        """
        seq = acts.remember(self._path, one)
        self._bring(seq)
        return seq

    def checkpoint(self, signer: Signer, now: float) -> Checkpoint | None:
        """Sign where this machine's chain ends; None when nothing is new."""
        made = acts.checkpoint(self._path, signer, now)
        if made is not None:
            self._bring(made.seq + 1)
        return made

    def last_checkpoint(self) -> Checkpoint | None:
        """The latest that was signed of this machine's chain."""
        return last_of(self._path)

    def _bring(self, seq: int) -> None:
        if not self._brings:
            return
        pusher = Pusher(self._path, self._place.node)
        try:
            with linked(self._place.url()) as link:
                while pusher.push(link) and pusher.sent < seq:
                    pass
        finally:
            pusher.close()

    # -- read -------------------------------------------------------------------------------------------

    def usage(self, since: float, until: float, by: Sequence[str] = ("tenant", "model")) -> list[Usage]:
        """What each group used of calls that began in [since, until), through any gateway."""
        asked, ranks = read.questions(by, POSTGRES)
        with linked(self._place.url()) as link, link.transaction(reading=True):
            counted, ranked = link.rows(asked, since, until), link.rows(ranks, since, until)
        return read.answered(by, _plain(counted), _plain(ranked))

    def gaps(self, since: float, until: float) -> list[Gap]:
        """What is missing of calls that began in [since, until)."""
        query = (
            "SELECT began, ended, records FROM gemstead_gaps WHERE began < $2 AND ended >= $1 ORDER BY began"
        )
        with linked(self._place.url()) as link:
            rows = link.rows(query, since, until)
        return [Gap(began=began, ended=ended, records=records) for began, ended, records in rows]

    def mark(self) -> Mark:
        """Where each chain ends now, for `newer`."""
        with linked(self._place.url()) as link:
            return _heads(link)

    def tail(self, n: int, where: Mapping[str, str] | None = None) -> list[Entry]:
        """The last records by when their calls began."""
        tests, values = _where(where, 1)
        query = f"{_ENTRY} WHERE {tests} ORDER BY began DESC, chain, seq DESC LIMIT {max(n, 0)}"
        with linked(self._place.url()) as link:
            return [_entry(row) for row in link.rows(query, *values)][::-1]

    def newer(
        self, mark: Mark, most: int, where: Mapping[str, str] | None = None
    ) -> tuple[list[Entry], Mark]:
        """The first records behind a mark, and the mark behind them."""
        tests, values = _where(where, 4)
        query = f"{_ENTRY} WHERE chain = $1 AND seq > $2 AND seq <= $3 AND {tests} ORDER BY seq LIMIT {most}"
        entries: list[Entry] = []
        with linked(self._place.url()) as link:
            behind = _heads(link)
            for name, head in behind.items():
                if head > mark.get(name, 0):
                    rows = link.rows(query, name, mark.get(name, 0), head, *values)
                    entries += [_entry(row) for row in rows]
                    if len(rows) == most:
                        behind[name] = rows[-1][1]
        return sorted(entries, key=lambda entry: entry.record.began), behind

    def find(self, question: Question) -> Page:
        """A page of the records that are asked for, of all chains, the latest first."""
        query, values = search.sql_of(question, _SEARCH)
        with linked(self._place.url()) as link:
            rows = link.rows(query, *(kept(value) for value in values))
        return search.page_of(question, _plain(rows))

    def show(self, call_id: str) -> AuditRecord | None:
        """The record of one call."""
        with linked(self._place.url()) as link:
            row = link.row(f"{_ENTRY} WHERE call_id = $1", kept(call_id))
        return _entry(row).record if row else None

    def facts(self) -> Facts:
        """What the log says of itself."""
        with linked(self._place.url()) as link:
            calls, first = link.row("SELECT count(*), min(began) FROM gemstead_audit") or (0, None)
            signed_at = link.value("SELECT max(at) FROM gemstead_checkpoints WHERE kind = 'head'")
            done = link.rows(
                "SELECT action, max(at) FROM gemstead_acts WHERE outcome = 'done' GROUP BY action"
            )
        return Facts(calls=calls, first=first, signed=signed_at, acts=dict(done))

    def callers(self) -> list[Seen]:
        """Who came by a token or certificate, through any gateway. Looks at every record."""
        with linked(self._place.url()) as link:
            called, noted = link.rows(callers_of("gemstead_audit")), link.rows(noted_of("gemstead_acts"))
        return seen_of(_plain(called), _plain(noted))

    # -- proven -----------------------------------------------------------------------------------------

    def verify(self, keys: PublicKeys, outside: Sequence[Checkpoint] = ()) -> list[Verified]:
        """What each chain is worth. A chain that a checkpoint from elsewhere names and the store lacks is a fault."""
        with linked(self._place.url()) as link, link.transaction(reading=True):
            names = _names(link)
            chains, found = [StoreChain(link, name) for name in names], list[Verified]()
            for name, source in zip(names, chains, strict=True):
                found.append(verify_chain(source, keys, [one for one in outside if one.chain == name]))
                follows(found[-1], source, chains, keys)
        for gone in sorted({one.chain for one in outside} - set(names)):
            what = f"the store has no chain {gone}, of which there is a checkpoint: it was removed"
            found.append(Verified(chain=gone, fault=Fault(seq=0, kind="removed", what=what)))
        return found

    def export(self, since: float, until: float, tenant: str | None, signer: Signer) -> Iterator[bytes]:
        """The lines of an export of every chain with something in that time, one after the other, each signed first.

        Raises:
            LedgerTrouble: there is nothing in that time.
        """
        with linked(self._place.url()) as link:
            names = [name for name in _names(link) if StoreChain(link, name).span(since, until)]
            for name in names:
                _sign(link, name, signer)
        if not names:
            raise LedgerTrouble("there are no sealed records in that time")
        with linked(self._place.url()) as link, link.transaction(reading=True):
            for name in names:
                yield from export_chain(StoreChain(link, name), since, until, tenant)

    # -- shortened --------------------------------------------------------------------------------------

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
        """A new legal hold, for all gateways."""
        one = new_hold(tenant, since, until, reason, now, key, user)
        with linked(self._place.url()) as link:
            put_holds(link, [one])
        self.remember(new_act("audit.hold", one.hold_id, actor=actor, detail=told_of(one)))
        return one

    def release(self, hold_id: str, now: float, actor: str = "") -> Hold:
        """End a legal hold.

        Raises:
            LedgerTrouble: there is none of that id, or it has ended.
        """
        with linked(self._place.url()) as link:
            one = next((one for one in holds(link) if one.hold_id == hold_id), None)
            if one is None or one.released is not None:
                raise LedgerTrouble(
                    f"there is no legal hold {hold_id} in force: `gemstead audit holds` lists them"
                )
            link.do("UPDATE gemstead_holds SET released = $1 WHERE hold_id = $2", now, hold_id)
        self.remember(new_act("audit.release", hold_id, actor=actor))
        return msgspec.structs.replace(one, released=now)

    def holds(self) -> list[Hold]:
        """Every legal hold, oldest first."""
        with linked(self._place.url()) as link:
            return holds(link)

    def prune(
        self,
        rules: Sequence[Rule],
        now: float,
        signer: Signer | None,
        *,
        actor: str = "gemstead",
        upto: int | None = None,
    ) -> Pruned:
        """Delete what is due from every chain. `upto`: whether there are receivers that must have it first; how far
        they are is in the store."""
        if not rules:
            return Pruned()
        with linked(self._place.url()) as link:
            done = prune(link, rules, now, signer, shipped_upto(link) if upto is not None else None)
        if signer is not None and done.calls + done.acts:
            detail = {"calls": done.calls, "acts": done.acts, "held": done.held, "base": done.base}
            self.remember(new_act("audit.prune", actor=actor, detail=detail))
        return done


def put_holds(link: Link, kept: Sequence[Hold]) -> None:
    """Write legal holds into the store."""
    link.many(
        f"INSERT INTO gemstead_holds ({HOLD_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",  # noqa: S608
        [msgspec.structs.astuple(one) for one in kept],
    )


def _names(link: Link) -> list[str]:
    return [name for (name,) in link.rows("SELECT name FROM gemstead_chains ORDER BY began, name")]


def _heads(link: Link) -> Mark:
    return dict(link.rows("SELECT name, head_seq FROM gemstead_chains"))


def _sign(link: Link, name: str, signer: Signer) -> None:
    """A checkpoint at the chain's end, and one at its beginning, unless they are there."""
    import time

    with link.transaction():
        base, base_link, head, head_link = link.row(
            "SELECT base_seq, base_link, head_seq, head_link FROM gemstead_chains WHERE name = $1 FOR UPDATE",
            name,
        ) or (0, b"", 0, b"")
        for kind, seq, at in (("base", base, base_link), ("head", head, head_link)):
            there = "SELECT 1 FROM gemstead_checkpoints WHERE chain = $1 AND seq = $2 AND kind = $3"
            if not link.value(there, name, seq, kind):
                write_checkpoint(link, signed(signer, name, seq, bytes(at), time.time(), kind))


def _where(where: Mapping[str, str] | None, first: int) -> tuple[str, list[str]]:
    tests = []
    for number, name in enumerate(where or {}, first):
        if name not in _GROUPS:
            raise LedgerTrouble(f"{name!r} is nothing to group by: use {', '.join(_GROUPS)}")
        tests.append(f"{_GROUPS[name]} = ${number}")
    return " AND ".join(tests) or "true", [kept(value) for value in (where or {}).values()]


def _entry(row: Sequence[object]) -> Entry:
    return Entry(
        chain=str(row[0]), seq=int(str(row[1])), record=audittable.record([told(value) for value in row[2:]])
    )


def _plain(rows: Sequence[Sequence[object]]) -> list[tuple[object, ...]]:
    return [tuple(told(value) for value in row) for row in rows]
