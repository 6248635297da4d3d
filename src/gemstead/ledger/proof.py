"""Verifies the audit log's chain, and exports a part of it so that it can be verified elsewhere.

An export is text, one JSON object a line. The first says what it is and where it begins; the last is a signed
checkpoint. Between them every place of the chain has a line, in order:

    {"seq":7,"call":{...}}     a record: its text, byte for byte as it was hashed
    {"seq":8,"act":{...}}
    {"seq":9,"leaf":"..."}     a record that was not asked for or was deleted by rule: its hash only

An export of a store with several chains is one such part after the other.

So a part (a time, one tenant) can be handed over without the rest, and still shows that nothing in it was altered and
nothing between its ends left out: each place that is not told is one leaf. Verifying needs the file and a public key.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import NEW_CHAIN
from gemstead.ledger.chain import Checkpoint, Fault, Link, Walk
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.ledger.signing import PublicKeys, holds

FORM = "gemstead-audit-export-1"


class Verified(msgspec.Struct, kw_only=True):
    """What a verification found. Places are inclusive; times in Unix seconds."""

    chain: str = ""
    first: int = 0  # 0: there is nothing in the chain
    last: int = 0
    records: int = 0
    deleted: int = 0  # by rule, or not told in this export
    unsealed: int = 0  # written before there was a chain; nobody vouches for them
    checkpoints: int = 0  # with good signatures
    unknown_keys: list[str] = []  # of checkpoints that could not be looked at
    vouched: int = 0  # the last place that a signature stands for
    vouched_at: float = 0.0
    before: str = ""  # the chain that this one goes on from
    gap: str = ""  # what is missing between the two, in a sentence
    fault: Fault | None = None


class Place(msgspec.Struct):
    """A place with what is known of its record, for an export."""

    link: Link
    kind: str
    text: bytes
    at: float = 0.0
    tenant: str = ""

    @property
    def seq(self) -> int:
        return self.link.seq


def verify(path: Path, keys: PublicKeys, outside: Iterable[Checkpoint] = ()) -> Verified:
    """What the present chain of a file is worth, or the first one in it that is broken. See `verify_all`."""
    found = verify_all(path, keys, outside)
    return next((one for one in found if one.fault is not None), found[-1])


def verify_all(path: Path, keys: PublicKeys, outside: Iterable[Checkpoint] = ()) -> list[Verified]:
    """What each chain of a file is worth, the present one last. `outside`: checkpoints that were kept elsewhere.

    Raises:
        LedgerTrouble: the file cannot be read.
    """
    with reading(path, audittable.MIGRATIONS) as connection:
        if connection is None:
            return [Verified()]
        connection.execute("BEGIN")
        chains, said = chains_of(connection), list(outside)
        names = {one.ends().name for one in chains}
        found = []
        for one in chains:
            name = one.ends().name
            mine = [c for c in said if c.chain == name or (one is chains[-1] and c.chain not in names)]
            found.append(verify_chain(one, keys, mine))
            follows(found[-1], one, chains, keys)
        return found


def follows(found: Verified, one: Chain, chains: Sequence[Chain], keys: PublicKeys) -> None:
    """Look whether a chain goes on from where its first record says, and tell what is missing between."""
    if (said := one.beginning()) is None:
        return
    end = msgspec.convert(said.get("end"), Checkpoint | None)
    found.before, found.gap = end.chain if end is not None else "", _gap(end, said)
    if end is None:
        return
    ended = next((each.ends() for each in chains if each.ends().name == end.chain), None)
    if found.fault is not None:
        return
    if ended is None:
        what = f"chain {end.chain}, which this one goes on from, was taken away"
        found.fault = Fault(seq=end.seq, kind="removed", what=what)
    elif (ended.head_seq, ended.head_link.hex()) != (end.seq, end.link) or holds(end, keys) is False:
        what = f"chain {end.chain} does not end as this one says that it did"
        found.fault = Fault(seq=end.seq, kind="rewritten", what=what)


def _gap(end: Checkpoint | None, said: dict[str, Any]) -> str:
    made = said.get("made")
    at = f" of {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(made))} UTC" if isinstance(made, float) else ""
    missing = [
        f"records {one['from']} to {one['to']} of chain {one['chain']}"
        for one in said.get("missing", ())
        if one["to"] >= one["from"]
    ]
    lacks = (
        f"this log lacks {' and '.join(missing)}" if missing else "this log lacks what was written after it"
    )
    where = f"chain {end.chain} ends at record {end.seq}, where" if end is not None else "here"
    return f"{where} a backup{at} was put back: {lacks}"


class Ends(msgspec.Struct, frozen=True):
    """What a database says of a chain."""

    name: str
    base_seq: int
    base_link: bytes
    head_seq: int
    head_link: bytes


class Chain(Protocol):
    """One chain, wherever it is kept."""

    def ends(self) -> Ends: ...

    def unsealed(self) -> int:
        """How many records are from before there was a chain."""

    def checkpoints(self) -> list[Checkpoint]:
        """All that are there, whatever they are worth, in the order of their places."""

    def places(self, after: int) -> Iterator[Place]:
        """Every place behind `after`, in order."""

    def span(self, since: float, until: float) -> tuple[int, int] | None:
        """The first and the last place of what happened in [since, until)."""

    def link_at(self, seq: int) -> bytes:
        """The stored link of a place."""

    def beginning(self) -> dict[str, Any] | None:
        """What the first record says of the chain before; None where it says nothing, or was deleted by rule."""


class SqliteChain:
    """One chain of an audit.db: the present one, or one that has ended."""

    def __init__(self, connection: sqlite3.Connection, ends: Ends, *, follows: bool, ended: bool) -> None:
        self._connection, self._ends = connection, ends
        self._follows = follows  # its beginning is another chain's end
        self._ended = ended

    def ends(self) -> Ends:
        return self._ends

    def unsealed(self) -> int:
        query = "SELECT count(*) FROM audit WHERE seq <= ? AND link IS NULL"
        return (
            0 if self._follows else int(self._connection.execute(query, (self._ends.base_seq,)).fetchone()[0])
        )

    def checkpoints(self) -> list[Checkpoint]:
        mine = self._ends
        return [
            one
            for one in checkpoints(self._connection, mine.name)
            if one.seq >= mine.base_seq
            and not (self._follows and one.kind == "head" and one.seq == mine.base_seq)
            and not (self._ended and one.seq >= mine.head_seq + (one.kind == "head"))
        ]

    def places(self, after: int) -> Iterator[Place]:
        found = places(self._connection, after)
        return takewhile(lambda place: place.seq <= self._ends.head_seq, found) if self._ended else found

    def span(self, since: float, until: float) -> tuple[int, int] | None:
        return _span(self._connection, self._ends, since, until, self._ended)

    def link_at(self, seq: int) -> bytes:
        return self._ends.base_link if seq == self._ends.base_seq else _link_at(self._connection, seq)

    def beginning(self) -> dict[str, Any] | None:
        row = self._connection.execute(
            "SELECT detail FROM acts WHERE seq = ? AND action = ? AND target = ?",
            (self._ends.base_seq + 1, NEW_CHAIN, self._ends.name),
        ).fetchone()
        return msgspec.json.decode(row[0], type=dict[str, Any]) if row else None


def chains_of(connection: sqlite3.Connection) -> list[SqliteChain]:
    """Every chain of the file, the present one last."""
    fields = "name, base_seq, base_link, head_seq, head_link"
    ended = connection.execute(f"SELECT {fields} FROM ended ORDER BY head_seq, rowid").fetchall()  # noqa: S608
    present = connection.execute(f"SELECT {fields} FROM chain").fetchone()  # noqa: S608
    made, heads = [], {row[3] for row in ended}
    for number, row in enumerate((*ended, present)):
        follows = number > 0 and row[1] in heads
        made.append(SqliteChain(connection, Ends(*row), follows=follows, ended=number < len(ended)))
    return made


def verify_chain(source: Chain, keys: PublicKeys, outside: list[Checkpoint]) -> Verified:
    """What one chain is worth."""
    ends = source.ends()
    name, base_seq, base_link = ends.name, ends.base_seq, ends.base_link
    found = Verified(chain=name)
    found.unsealed = source.unsealed()
    said = [*source.checkpoints(), *(one for one in outside if one.chain == name)]
    if foreign := next((one for one in outside if one.chain != name), None):
        found.fault = Fault(
            seq=base_seq + 1,
            kind="rewritten",
            what=f"this file holds chain {name}, and the checkpoint is of chain {foreign.chain}",
        )
        return found
    good, found.fault = _good(said, keys, found)
    based = any(one.kind == "base" and one.seq == base_seq and one.link == base_link.hex() for one in good)
    if found.fault is None and good and not based:
        what = f"no signature vouches for the chain's beginning behind record {base_seq}: earlier ones were removed"
        found.fault = Fault(seq=base_seq, kind="removed", what=what)
    if found.fault is None:
        walk = Walk(base_seq, base_link, [one for one in good if one.kind == "head"])
        found.fault = next(walk.over(place.link for place in source.places(base_seq)), None)
        found.fault = found.fault or walk.end(ends.head_seq, ends.head_link)
        _tell(found, walk, base_seq)
    return found


def _tell(found: Verified, walk: Walk, base_seq: int) -> None:
    found.first, found.last = (base_seq + 1, walk.seq) if walk.seq > base_seq else (0, 0)
    found.records, found.deleted = walk.records, walk.deleted
    found.vouched, found.vouched_at = walk.vouched, walk.vouched_at


def _good(
    said: Iterable[Checkpoint], keys: PublicKeys, found: Verified
) -> tuple[list[Checkpoint], Fault | None]:
    """Those with good signatures; a bad signature is a fault, an unknown key is told."""
    good: list[Checkpoint] = []
    for one in said:
        held = holds(one, keys)
        if held is None:
            if one.key_id not in found.unknown_keys:
                found.unknown_keys.append(one.key_id)
        elif not held:
            what = f"the checkpoint at record {one.seq} has a signature that is not of key {one.key_id}"
            return good, Fault(seq=one.seq, kind="signature", what=what)
        else:
            good.append(one)
    found.checkpoints = len(good)
    return good, None


def checkpoints(connection: sqlite3.Connection, name: str) -> list[Checkpoint]:
    """All that are in the file, whatever they are worth, in the order of their places."""
    rows = connection.execute(
        "SELECT seq, link, at, key_id, kind, signature FROM checkpoints ORDER BY seq"
    ).fetchall()
    return [
        Checkpoint(chain=name, seq=seq, link=link, at=at, key_id=key_id, kind=kind, signature=signature)
        for seq, link, at, key_id, kind, signature in rows
    ]


def places(connection: sqlite3.Connection, after: int) -> Iterator[Place]:
    """Every place behind `after`, in order, whichever table it is in."""
    return merge(
        _calls(connection, after), _acts(connection, after), _stubs(connection, after), key=attrgetter("seq")
    )


def _calls(connection: sqlite3.Connection, after: int) -> Iterator[Place]:
    query = f"SELECT seq, link, {audittable.COLUMNS} FROM audit WHERE seq > ? ORDER BY seq"  # noqa: S608
    for seq, link, *values in connection.cursor().execute(query, (after,)):
        one = audittable.record(values)
        text = audittable.text_of(one)
        yield Place(
            Link(seq, chain.leaf(text), link or b"", name=one.call_id), "call", text, one.began, one.tenant
        )


def _acts(connection: sqlite3.Connection, after: int) -> Iterator[Place]:
    query = f"SELECT seq, link, {audittable.ACT_COLUMNS} FROM acts WHERE seq > ? ORDER BY seq"  # noqa: S608
    for seq, link, *values in connection.cursor().execute(query, (after,)):
        one = audittable.act(values)
        text = audittable.text_of(one)
        yield Place(Link(seq, chain.leaf(text), link, name=one.act_id), "act", text, one.at, one.tenant)


def _stubs(connection: sqlite3.Connection, after: int) -> Iterator[Place]:
    query = "SELECT seq, leaf, link FROM stubs WHERE seq > ? ORDER BY seq"
    for seq, leaf, link in connection.cursor().execute(query, (after,)):
        yield Place(Link(seq, leaf, link, deleted=True), "leaf", b"")


def export(path: Path, since: float, until: float, tenant: str | None = None) -> Iterator[bytes]:
    """The lines of an export of what happened in [since, until), of one tenant or of all.

    Raises:
        LedgerTrouble: there is nothing in that time, no checkpoint stands behind it (make one first), or the
            file cannot be read.
    """
    with reading(path, audittable.MIGRATIONS) as connection:
        if connection is None:
            raise LedgerTrouble(f"{path} does not exist yet: there is nothing to export")
        connection.execute("BEGIN")
        chains = [one for one in chains_of(connection) if one.span(since, until) is not None]
        if not chains:
            raise LedgerTrouble("there are no sealed records in that time")
        for one in chains:
            yield from export_chain(one, since, until, tenant)


def export_chain(source: Chain, since: float, until: float, tenant: str | None) -> Iterator[bytes]:
    """The lines of an export of one chain.

    Raises:
        LedgerTrouble: as `export`.
    """
    if (span := source.span(since, until)) is None:
        raise LedgerTrouble("there are no sealed records in that time")
    name, (first, last) = source.ends().name, span
    end = next((one for one in source.checkpoints() if one.kind == "head" and one.seq >= last), None)
    if end is None:
        raise LedgerTrouble(
            "no checkpoint stands behind these records yet: `gemstead audit checkpoint` makes one"
        )
    begin = {"seq": first - 1, "link": source.link_at(first - 1).hex()}
    head = {"form": FORM, "chain": name, "since": since, "until": until, "tenant": tenant, "begin": begin}
    yield msgspec.json.encode(head) + b"\n"
    for place in source.places(first - 1):
        if place.seq > end.seq:
            break
        wanted = place.text and since <= place.at < until and tenant in (None, place.tenant)
        if wanted:
            yield b'{"seq":%d,"%s":%s}\n' % (place.seq, place.kind.encode(), place.text)
        else:
            yield b'{"seq":%d,"leaf":"%s"}\n' % (place.seq, place.link.leaf.hex().encode())
    yield b'{"checkpoint":%s}\n' % msgspec.json.encode(end)


def _span(
    connection: sqlite3.Connection, ends: Ends, since: float, until: float, ended: bool
) -> tuple[int, int] | None:
    # A checkpoint's own act stands behind what it signs.
    row = connection.execute(
        "SELECT min(seq), max(seq) FROM (SELECT seq FROM audit WHERE began >= :since AND began < :until "
        "AND seq > :base AND seq <= :head UNION ALL SELECT seq FROM acts WHERE at >= :since AND at < :until "
        "AND seq > :base AND seq <= :head AND action <> 'audit.checkpoint')",
        {"since": since, "until": until, "base": ends.base_seq, "head": ends.head_seq if ended else 2**62},
    ).fetchone()
    return None if row[0] is None else (int(row[0]), int(row[1]))


def _link_at(connection: sqlite3.Connection, seq: int) -> bytes:
    """The stored link of a place."""
    row = connection.execute(
        "SELECT link FROM audit WHERE seq = :seq UNION ALL SELECT link FROM acts WHERE seq = :seq "
        "UNION ALL SELECT link FROM stubs WHERE seq = :seq",
        {"seq": seq},
    ).fetchone()
    return bytes(row[0]) if row and row[0] else b""


class _Begin(msgspec.Struct):
    seq: int
    link: str


class _Head(msgspec.Struct):
    form: str
    chain: str
    begin: _Begin


class _Line(msgspec.Struct):
    seq: int = 0
    call: msgspec.Raw = msgspec.Raw(b"")
    act: msgspec.Raw = msgspec.Raw(b"")
    leaf: str = ""
    checkpoint: Checkpoint | None = None


def verify_export(lines: Iterable[bytes], keys: PublicKeys) -> Verified:
    """What an export is worth, without the database.

    Raises:
        LedgerTrouble: it is no export.
    """
    each = iter(lines)
    try:
        head = msgspec.json.decode(next(each, b""), type=_Head)
        if head.form != FORM:
            raise ValueError(head.form)
        return _verify_export(head, each, keys)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LedgerTrouble(f"this is no whole export of the audit log: {error}") from None


def verify_exports(lines: Iterable[bytes], keys: PublicKeys) -> list[Verified]:
    """What each chain of an export is worth; the file may hold several.

    Raises:
        LedgerTrouble: it is no export.
    """
    found: list[Verified] = []
    each = iter(lines)
    while (first := next(each, None)) is not None or not found:
        part = _part(first or b"", each)
        found.append(verify_export(part, keys))
        for _ in part:  # behind a fault
            pass
    return found


def _part(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    for line in lines:
        yield line
        if line.startswith(b'{"checkpoint":'):
            return


def _verify_export(head: _Head, lines: Iterator[bytes], keys: PublicKeys) -> Verified:
    found = Verified(chain=head.chain)
    seq, link = head.begin.seq, bytes.fromhex(head.begin.link)
    walk = Walk(seq, link)
    decoder = msgspec.json.Decoder(_Line)
    end: Checkpoint | None = None
    for line in lines:
        one = decoder.decode(line)
        if (end := one.checkpoint) is not None:
            break
        text = bytes(one.call) or bytes(one.act)
        leaf = chain.leaf(text) if text else bytes.fromhex(one.leaf)
        if one.seq == walk.seq + 1:
            link = chain.link(link, one.seq, leaf)  # an export has no links of its own: the end decides
        found.fault = next(walk.over([Link(one.seq, leaf, link, deleted=not text)]), None)
        if found.fault is not None:
            break
    if found.fault is None:
        found.fault = _end(head, walk, end, keys, found)
    _tell(found, walk, head.begin.seq)
    if found.fault is None and end is not None:
        found.vouched, found.vouched_at = end.seq, end.at
    return found


def _end(head: _Head, walk: Walk, end: Checkpoint | None, keys: PublicKeys, found: Verified) -> Fault | None:
    if end is None:
        return Fault(seq=walk.seq + 1, kind="truncated", what="the export has no checkpoint at its end")
    held = holds(end, keys)
    if held is None:
        found.unknown_keys.append(end.key_id)
        return Fault(
            seq=end.seq, kind="signature", what=f"it is signed by key {end.key_id}, which was not given"
        )
    if not held:
        return Fault(
            seq=end.seq, kind="signature", what=f"the checkpoint's signature is not of key {end.key_id}"
        )
    found.checkpoints = 1
    if end.chain != head.chain or end.kind != "head":
        return Fault(seq=end.seq, kind="rewritten", what=f"the checkpoint is of another chain, {end.chain}")
    if end.seq != walk.seq:
        what = f"records {walk.seq + 1} to {end.seq} are missing before the checkpoint"
        return Fault(seq=walk.seq + 1, kind="truncated", what=what)
    if end.link != walk.link.hex():
        what = f"something in records {head.begin.seq + 1} to {end.seq} is not what the checkpoint saw"
        return Fault(seq=head.begin.seq + 1, kind="altered", what=what)
    return None
