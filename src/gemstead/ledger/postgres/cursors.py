"""How far each receiver of audit records has come in each chain of a store, and which gateway sends which chain.

There is one cursor for each receiver and chain. A gateway sends a chain while it holds its cursor, by a lease that a
thread keeps up (`Leases`); when nothing was heard of a holder for the length of a lease, any other goes on where the
cursor stands. So what a gateway that is gone for good has brought into the store is sent all the same. A holder that
was only slow finds its cursor held by another when it would move it, and does not: some records come twice then, none
is left out. A gateway holds its own chain whenever it can; another's it lets go once there is nothing left to send.

Of chains that began before cursors were shared, only their own gateway knows how far receivers are (ship.db, beside its
audit.db). So it alone makes their cursors, and begins there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from heapq import merge
from operator import attrgetter
from pathlib import Path

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.ledger.postgres.link import Link, Row, kept, linked, told
from gemstead.ledger.postgres.links import Links
from gemstead.ledger.postgres.parts import NOW
from gemstead.ledger.postgres.push import AUDIT_NAMES
from gemstead.ledger.ship.cursors import Cursor, Cursors, path_beside
from gemstead.ledger.ship.forms import Shipped
from gemstead.ledger.ship.sink import Unwanted

LEASE_S = 15.0
FIRST_S = 30.0  # how long a new chain is left to its own gateway
NAMED_S = 30 * 86_400.0  # that a receiver is waited for, after the last gateway that sent to it
BEGIN_S = 5.0  # between two looks for chains that have no cursor
_FIELDS = "sink, chain, seq, turn, shipped, shipped_at, trouble, trouble_since"
_CURSOR = ", ".join(f"k.{name}" for name in _FIELDS.split(", "))
_NEXT = f"""SELECT {_CURSOR}, 0, c.head_seq FROM gemstead_cursors k JOIN gemstead_chains c ON c.name = k.chain
WHERE k.sink = $1 AND c.head_seq > k.seq AND (k.holder = $2 OR k.lease_until < {NOW})
ORDER BY k.shipped_at NULLS FIRST, k.chain LIMIT 1"""  # noqa: S608
_TAKE = (
    f"UPDATE gemstead_cursors SET holder = $3, lease_until = {NOW} + $4 "  # noqa: S608
    f"WHERE sink = $1 AND chain = $2 AND (holder = $3 OR lease_until < {NOW})"
)
_RECORDS = (
    f"SELECT seq, link, {AUDIT_NAMES} FROM gemstead_audit WHERE chain = $1 AND seq > $2 AND seq <= $3 "  # noqa: S608
    "ORDER BY seq LIMIT $4"
)
_ACTS = (
    f"SELECT seq, link, {audittable.ACT_COLUMNS} FROM gemstead_acts WHERE chain = $1 AND seq > $2 AND seq <= $3 "  # noqa: S608
    "ORDER BY seq LIMIT $4"
)
_BEGUN = (
    "INSERT INTO gemstead_cursors (sink, chain, seq) VALUES ($1, $2, $3) ON CONFLICT (sink, chain) DO NOTHING"
)


class Leases:
    """Keeps up what a process holds, in a thread, until it is ended."""

    def __init__(self, url: Callable[[], str], holder: str, lease_s: float = LEASE_S) -> None:
        self.links, self.holder, self.lease_s = Links(url), holder, lease_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="leases", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Hold nothing any more: others may go on at once."""
        self._over.set()
        self._thread.join(2.0)
        try:
            with self.links.one() as link:
                link.do(
                    f"UPDATE gemstead_cursors SET holder = '', lease_until = {NOW} WHERE holder = $1",  # noqa: S608
                    self.holder,
                )
        except LedgerTrouble:
            pass  # then the leases run out
        self.links.close()

    def _keep_up(self) -> None:
        while not self._over.wait(self.lease_s / 3):
            try:
                with self.links.one() as link:
                    link.do(
                        f"UPDATE gemstead_cursors SET lease_until = {NOW} + $2 WHERE holder = $1",  # noqa: S608
                        *(self.holder, self.lease_s),
                    )
            except LedgerTrouble:
                pass  # whoever sends hears of it


class StoreSource:
    """What one receiver is to be sent of all chains of a store that nobody else sends. For one thread."""

    def __init__(self, leases: Leases, audit: Path, sink: str) -> None:
        """`audit`: this gateway's own audit.db, which says what its own chain is."""
        self._leases, self._audit, self._sink = leases, audit, sink
        self._began_at = -BEGIN_S
        self._chain = ""

    def next(self, most: int) -> tuple[Cursor, list[Shipped]]:
        with self._leases.links.one() as link:
            own = self._begin(link)
            row = link.row(_NEXT, self._sink, self._leases.holder)
            if row is None:
                self._rest(link, own)
                return Cursor(sink=self._sink, trouble=self._trouble(link)), []
            *said, head = row
            cursor = cursor_of(said)
            if not link.do(_TAKE, self._sink, cursor.chain, self._leases.holder, self._leases.lease_s):
                return cursor, []  # another was faster
            self._chain = cursor.chain
            batch = _read(link, cursor, head, most)
            if not batch:  # what lies between was deleted by rule
                self._set(link, cursor, head, 0)
        return cursor, batch

    def moved(self, at: Cursor, batch: Sequence[Shipped], refused: Unwanted) -> bool:
        now = time.time()
        with self._leases.links.changing() as link:
            link.many(
                "INSERT INTO gemstead_refused (sink, chain, seq, why, at) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (sink, chain, seq) DO UPDATE SET why = excluded.why, at = excluded.at",
                [(self._sink, at.chain, seq, kept(why), now) for seq, why in refused],
            )
            return self._set(link, at, batch[-1].seq, len(batch) - len(refused))

    def troubled(self, why: str) -> None:
        with self._leases.links.one() as link:
            link.do(
                "UPDATE gemstead_cursors SET trouble = $4, trouble_since = coalesce(trouble_since, $5) "
                "WHERE sink = $1 AND holder = $2 AND chain = $3",
                *(self._sink, self._leases.holder, self._chain, kept(why), time.time()),
            )

    def recovered(self) -> None:
        with self._leases.links.one() as link:
            link.do(
                "UPDATE gemstead_cursors SET trouble = '', trouble_since = NULL WHERE sink = $1 AND holder = $2",
                *(self._sink, self._leases.holder),
            )

    def close(self) -> None:
        """Others hear of it by `Leases.end`."""

    def _set(self, link: Link, at: Cursor, seq: int, count: int) -> bool:
        return bool(
            link.do(
                "UPDATE gemstead_cursors SET seq = $5, shipped = shipped + $6, shipped_at = $7, trouble = '', "
                "trouble_since = NULL WHERE sink = $1 AND chain = $2 AND turn = $3 AND holder = $4",
                *(self._sink, at.chain, at.turn, self._leases.holder, seq, count, time.time()),
            )
        )

    def _trouble(self, link: Link) -> str:
        held = (
            "SELECT trouble FROM gemstead_cursors WHERE sink = $1 AND holder = $2 AND trouble <> '' LIMIT 1"
        )
        return str(link.value(held, self._sink, self._leases.holder) or "")

    def _rest(self, link: Link, own: str) -> None:
        """There is nothing to send: let go of others' chains, and hold our own."""
        link.do(
            f"UPDATE gemstead_cursors SET holder = '', lease_until = {NOW} "  # noqa: S608
            "WHERE sink = $1 AND holder = $2 AND chain <> $3",
            *(self._sink, self._leases.holder, own),
        )
        if own:
            link.do(_TAKE, self._sink, own, self._leases.holder, self._leases.lease_s)

    # Where cursors begin.

    def _begin(self, link: Link) -> str:
        """Make the cursors that are missing and ours to make; the name of our own chain."""
        own, began = own_chains(self._audit), time.monotonic()
        present = next(reversed(own), "")
        if began - self._began_at < BEGIN_S:
            return present
        self._began_at = began
        missing = link.rows(
            f"SELECT name, began < (SELECT since FROM gemstead_shipping), began < {NOW} - $2 "  # noqa: S608
            "FROM gemstead_chains c WHERE NOT EXISTS "
            "(SELECT 1 FROM gemstead_cursors k WHERE k.sink = $1 AND k.chain = c.name)",
            *(self._sink, FIRST_S),
        )
        known = {cursor.sink: cursor for cursor in Cursors(path_beside(self._audit)).all()} if missing else {}
        for name, earlier, old in missing:
            if name in own:
                link.do(_BEGUN, self._sink, name, _had(known.get(self._sink), name, own))
            elif old and not earlier:
                link.do(_BEGUN, self._sink, name, 0)
        return present


def own_chains(audit: Path) -> dict[str, int]:
    """The chains in this gateway's own file with their last places, the present one last."""
    with reading(audit, audittable.MIGRATIONS) as connection:
        if connection is None:
            return {}
        rows = connection.execute("SELECT name, head_seq FROM ended ORDER BY head_seq, rowid").fetchall()
        rows += connection.execute("SELECT name, head_seq FROM chain").fetchall()
    return dict(rows)


def _had(before: Cursor | None, chain: str, own: Mapping[str, int]) -> int:
    """How far a receiver had come in one of our chains, when each gateway had cursors of its own."""
    if before is None:
        return 0
    names = list(own)
    at = before.chain if before.chain in own else names[-1]
    if names.index(chain) < names.index(at):
        return own[chain]
    return before.seq if chain == at else 0


def _read(link: Link, cursor: Cursor, head: int, most: int) -> list[Shipped]:
    where = (cursor.chain, cursor.seq, head, most)

    def shipped(row: Row, record: object) -> Shipped:
        return Shipped(chain=cursor.chain, seq=row[0], link=bytes(row[1]).hex(), record=record)  # type: ignore[arg-type]

    with link.transaction(reading=True):
        calls = [
            shipped(row, audittable.record([told(v) for v in row[2:]])) for row in link.rows(_RECORDS, *where)
        ]
        acts = [shipped(row, audittable.act([told(v) for v in row[2:]])) for row in link.rows(_ACTS, *where)]
    return list(merge(calls, acts, key=attrgetter("seq")))[:most]


class StoreCursors:
    """All cursors of a store, for people. Connects for each question.

    Raises:
        LedgerTrouble: (every method) the store cannot be used.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    def all(self) -> list[tuple[Cursor, int, str]]:
        """Every cursor with its chain's end and the gateway that writes the chain."""
        count = "SELECT count(*) FROM gemstead_refused r WHERE r.sink = k.sink AND r.chain = k.chain"
        with linked(self._url()) as link:
            rows = link.rows(
                f"SELECT {_CURSOR}, ({count}), c.head_seq, c.node FROM gemstead_cursors k "  # noqa: S608
                "JOIN gemstead_chains c ON c.name = k.chain ORDER BY k.sink, c.began, c.name"
            )
        return [(cursor_of(said), int(head), str(node)) for *said, head, node in rows]

    def replay(self, sink: str, since: float | None) -> dict[str, tuple[int, int]]:
        """Send everything of that time or later (again), also what was refused; by chain, behind which place, and how
        far the receiver had come. None: nothing of what is there now."""
        done: dict[str, tuple[int, int]] = {}
        with linked(self._url()) as link, link.transaction():
            for chain, head in link.rows("SELECT name, head_seq FROM gemstead_chains ORDER BY name"):
                seq = head if since is None else _before(link, chain, head, since)
                had = link.value(
                    "SELECT seq FROM gemstead_cursors WHERE sink = $1 AND chain = $2 FOR UPDATE", sink, chain
                )
                link.do(
                    "INSERT INTO gemstead_cursors (sink, chain, seq) VALUES ($1, $2, $3) "
                    "ON CONFLICT (sink, chain) DO UPDATE SET seq = $3, turn = gemstead_cursors.turn + 1",
                    *(sink, chain, seq),
                )
                link.do(
                    "DELETE FROM gemstead_refused WHERE sink = $1 AND chain = $2 AND seq > $3",
                    sink,
                    chain,
                    seq,
                )
                done[chain] = (seq, int(had or 0))
        return done

    def refused(self, sink: str, most: int = 100) -> list[tuple[str, int, str]]:
        """Chains and places of records that the receiver will never take, and why, the latest first."""
        query = (
            "SELECT chain, seq, why FROM gemstead_refused WHERE sink = $1 ORDER BY at DESC, seq DESC LIMIT $2"
        )
        with linked(self._url()) as link:
            return [(chain, seq, told(why)) for chain, seq, why in link.rows(query, sink, most)]


def shipped_upto(link: Link) -> dict[str, int]:
    """By chain: the last place that every receiver has which some gateway has sent to within `NAMED_S`, so is in its
    file. A chain that is not there is sent by nobody."""
    rows = link.rows(
        "SELECT c.name, min(coalesce(k.seq, 0)) FROM gemstead_chains c CROSS JOIN "  # noqa: S608
        f"(SELECT DISTINCT sink FROM gemstead_cursors WHERE lease_until > {NOW} - $1) AS s "
        "LEFT JOIN gemstead_cursors k ON k.chain = c.name AND k.sink = s.sink "
        "WHERE k.seq IS NOT NULL OR c.began >= (SELECT since FROM gemstead_shipping) GROUP BY c.name",
        NAMED_S,
    )
    return {name: int(seq) for name, seq in rows}


def cursor_of(row: Sequence[object]) -> Cursor:
    """A row as a cursor."""
    names = (*_FIELDS.split(", "), "refused")
    values = (told(value) for value in row)
    return msgspec.convert(dict(zip(names, values, strict=True)), Cursor)


def _before(link: Link, chain: str, head: int, since: float) -> int:
    first = link.value(
        "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM gemstead_audit WHERE chain = $1 AND began >= $2 "
        "UNION ALL SELECT min(seq) FROM gemstead_acts WHERE chain = $1 AND at >= $2) AS found",
        *(chain, since),
    )
    return head if first is None else int(first) - 1
