"""Deletes records of the store that are older than the rules allow, as `ledger/retention.py` does in a file.

Every gateway comes here once in a while, and one at a time does the work: the others find the lock taken and leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import signed
from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.postgres.link import Link, told
from gemstead.ledger.postgres.push import AUDIT_NAMES
from gemstead.ledger.retention import (
    AT_ONCE,
    DAY_S,
    HOLD_COLUMNS,
    KINDS,
    WHOSE,
    Hold,
    Pruned,
    Rule,
    due,
    hold_of,
    whose,
)
from gemstead.ledger.signing import Signer

LOCK = 0x67656D7072  # of pg_advisory_lock
_TABLES = {
    "calls": ("gemstead_audit", "began", AUDIT_NAMES),
    "acts": ("gemstead_acts", "at", audittable.ACT_COLUMNS),
}
HOLDS = f"SELECT {HOLD_COLUMNS} FROM gemstead_holds ORDER BY made, hold_id"  # noqa: S608


def holds(link: Link) -> list[Hold]:
    """Every legal hold of the store, oldest first."""
    return [hold_of(row) for row in link.rows(HOLDS)]


def prune(
    link: Link,
    rules: Sequence[Rule],
    now: float,
    signer: Signer | None,
    upto: Mapping[str, int] | None = None,
) -> Pruned:
    """What was deleted of all chains together, or would be without a signer. `upto`: by chain, the last place that may
    be deleted; chains that it does not name are deleted as far as the rules say.

    Raises:
        LedgerTrouble: the store cannot be used; what was deleted stays deleted, and the chains whole.
    """
    done, kept = Pruned(), holds(link)
    for (name,) in link.rows("SELECT name FROM gemstead_chains ORDER BY name"):
        before = done.calls + done.acts
        for kind in KINDS:
            most = (upto or {}).get(name, 2**62)
            _prune_kind(link, name, kind, rules, kept, now, signer is not None, done, most)
        if signer is not None and done.calls + done.acts > before:
            done.base = max(done.base, _finish(link, name, signer, now))
    return done


def _prune_kind(
    link: Link,
    name: str,
    kind: str,
    rules: Sequence[Rule],
    kept: Sequence[Hold],
    now: float,
    deletes: bool,
    done: Pruned,
    most: int,
) -> None:
    table, time, _ = _TABLES[kind]
    whom = ", ".join(f'"{name}"' for name in WHOSE[kind])
    oldest_s = min(rule.keep_days for rule in rules) * DAY_S
    look = (
        f"SELECT seq, tenant, {time}, {whom} FROM {table} WHERE chain = $1 AND seq > $2 AND {time} < $3 "  # noqa: S608
        f"AND seq <= $4 ORDER BY seq LIMIT {AT_ONCE}"
    )
    after = -1
    while rows := link.rows(look, name, after, now - oldest_s, most):
        after = rows[-1][0]
        gone = [row for row in rows if due(rules, kind, told(row[1]), row[2], now)]
        free = [
            seq
            for seq, tenant, at, *which in gone
            if not any(one.keeps(told(tenant), at, *whose(kind, *map(told, which))) for one in kept)
        ]
        if deletes and free:
            with link.transaction():
                if not link.value("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                    return  # another gateway is at it
                _leave_stubs(link, name, kind, free)
        done.held += len(gone) - len(free)
        setattr(done, kind, getattr(done, kind) + len(free))


def _leave_stubs(link: Link, name: str, kind: str, places: Sequence[int]) -> None:
    table, _, columns = _TABLES[kind]
    made = audittable.record if kind == "calls" else audittable.act
    rows = link.rows(
        f"DELETE FROM {table} WHERE chain = $1 AND seq = ANY($2::bigint[]) RETURNING seq, link, {columns}",  # noqa: S608
        *(name, list(places)),
    )
    leaves = [chain.leaf(audittable.text_of(made([told(value) for value in row[2:]]))) for row in rows]
    link.do(
        "INSERT INTO gemstead_stubs (chain, seq, leaf, link) "
        "SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[])",
        *(name, [row[0] for row in rows], leaves, [row[1] for row in rows]),
    )


def _finish(link: Link, name: str, signer: Signer, now: float) -> int:
    """Move the chain's beginning to behind what is all deleted; where it is now."""
    with link.transaction():
        base, head = link.row(
            "SELECT base_seq, head_seq FROM gemstead_chains WHERE name = $1 FOR UPDATE", name
        ) or (0, 0)
        first = link.value(
            "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM gemstead_audit WHERE chain = $1 "
            "UNION ALL SELECT min(seq) FROM gemstead_acts WHERE chain = $1) AS every",
            name,
        )
        before = int(first or head + 1) - 1
        at = link.value("SELECT link FROM gemstead_stubs WHERE chain = $1 AND seq = $2", name, before)
        if before <= base or at is None:
            return int(base)
        link.do(
            "UPDATE gemstead_chains SET base_seq = $2, base_link = $3 WHERE name = $1",
            name,
            before,
            bytes(at),
        )
        write_checkpoint(link, signed(signer, name, before, bytes(at), now, "base"))
        link.do("DELETE FROM gemstead_stubs WHERE chain = $1 AND seq <= $2", name, before)
        link.do("DELETE FROM gemstead_checkpoints WHERE chain = $1 AND seq < $2", name, before)
        return before


def write_checkpoint(link: Link, one: Checkpoint) -> None:
    """Keep it in the store; it replaces one of the same place and key."""
    link.do(
        "INSERT INTO gemstead_checkpoints (chain, seq, link, at, key_id, kind, signature) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (chain, seq, kind, key_id) DO UPDATE "
        "SET link = excluded.link, at = excluded.at, signature = excluded.signature",
        *(one.chain, one.seq, one.link, one.at, one.key_id, one.kind, one.signature),
    )
