"""One chain of the store, as verification and export read it (`ledger/proof.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from operator import attrgetter
from typing import Any

import msgspec

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import NEW_CHAIN
from gemstead.ledger.chain import Checkpoint, Link
from gemstead.ledger.postgres import link as door
from gemstead.ledger.postgres.push import AUDIT_NAMES
from gemstead.ledger.proof import Ends, Place

AT_ONCE = 5000
_CALLS = f"SELECT seq, link, {AUDIT_NAMES} FROM gemstead_audit"  # noqa: S608
_ACTS = f"SELECT seq, link, {audittable.ACT_COLUMNS} FROM gemstead_acts"  # noqa: S608
_STUBS = "SELECT seq, leaf, link FROM gemstead_stubs"


class StoreChain:
    """A chain by its name, read within one transaction of the link."""

    def __init__(self, link: door.Link, name: str) -> None:
        self._link, self._name = link, name

    def ends(self) -> Ends:
        row = self._link.row(
            "SELECT name, base_seq, base_link, head_seq, head_link FROM gemstead_chains WHERE name = $1",
            self._name,
        )
        return Ends(*row) if row else Ends(self._name, 0, b"", 0, b"")

    def unsealed(self) -> int:
        return 0  # they are not brought here

    def checkpoints(self) -> list[Checkpoint]:
        rows = self._link.rows(
            "SELECT seq, link, at, key_id, kind, signature FROM gemstead_checkpoints WHERE chain = $1 ORDER BY seq",
            self._name,
        )
        return [
            Checkpoint(
                chain=self._name, seq=seq, link=text, at=at, key_id=key_id, kind=kind, signature=signature
            )
            for seq, text, at, key_id, kind, signature in rows
        ]

    def places(self, after: int) -> Iterator[Place]:
        return merge(
            self._rows(_CALLS, after, _call),
            self._rows(_ACTS, after, _act),
            self._rows(_STUBS, after, _stub),
            key=attrgetter("seq"),
        )

    def span(self, since: float, until: float) -> tuple[int, int] | None:
        row = self._link.row(
            "SELECT min(seq), max(seq) FROM (SELECT seq FROM gemstead_audit WHERE chain = $1 AND began >= $2 "
            "AND began < $3 UNION ALL SELECT seq FROM gemstead_acts WHERE chain = $1 AND at >= $2 AND at < $3 "
            "AND action <> 'audit.checkpoint') AS every",
            *(self._name, since, until),
        )
        return None if row is None or row[0] is None else (int(row[0]), int(row[1]))

    def link_at(self, seq: int) -> bytes:
        found = self._link.value(
            "SELECT base_link FROM gemstead_chains WHERE name = $1 AND base_seq = $2 "
            "UNION ALL SELECT link FROM gemstead_audit WHERE chain = $1 AND seq = $2 "
            "UNION ALL SELECT link FROM gemstead_acts WHERE chain = $1 AND seq = $2 "
            "UNION ALL SELECT link FROM gemstead_stubs WHERE chain = $1 AND seq = $2",
            *(self._name, seq),
        )
        return bytes(found or b"")

    def beginning(self) -> dict[str, Any] | None:
        said = self._link.value(
            "SELECT a.detail FROM gemstead_acts a JOIN gemstead_chains c ON c.name = a.chain "
            "WHERE c.name = $1 AND a.seq = c.base_seq + 1 AND a.action = $2 AND a.target = $1",
            *(self._name, NEW_CHAIN),
        )
        return None if said is None else msgspec.json.decode(door.told(said), type=dict[str, Any])

    def _rows(self, query: str, after: int, made: Callable[[door.Row], Place]) -> Iterator[Place]:
        while rows := self._link.rows(
            f"{query} WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT {AT_ONCE}", self._name, after
        ):
            yield from map(made, rows)
            after = rows[-1][0]


def _call(row: door.Row) -> Place:
    one = audittable.record([door.told(value) for value in row[2:]])
    text = audittable.text_of(one)
    return Place(
        Link(row[0], chain.leaf(text), row[1] or b"", name=one.call_id), "call", text, one.began, one.tenant
    )


def _act(row: door.Row) -> Place:
    one = audittable.act([door.told(value) for value in row[2:]])
    text = audittable.text_of(one)
    return Place(Link(row[0], chain.leaf(text), row[1], name=one.act_id), "act", text, one.at, one.tenant)


def _stub(row: door.Row) -> Place:
    return Place(Link(row[0], row[1], row[2], deleted=True), "leaf", b"")
