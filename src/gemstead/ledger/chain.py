"""The arithmetic of the audit log's hash chain. No I/O: values in, values out.

Every record has a *leaf*, the hash of its text, and a *link*, which joins it to all records before it:

    leaf(n) = SHA-256(0x00 || text(n))
    link(n) = SHA-256(0x01 || link(n-1) || n as 8 bytes, big-endian || leaf(n))

`text(n)` is the record as JSON, without the fields that have their default value: so a field that a later version
adds changes no old text, and a default must never change. The first link is random and names the chain. The bytes 0x00
and 0x01 keep a leaf from being passed off as a link (RFC 6962, section 2.1).

Whoever changes, removes, inserts or reorders records without redoing every link behind them is found at that record.
Whoever redoes the links is found at the next *checkpoint*: a place and its link, signed with Ed25519 by a key that is
not in the database. Whoever also has that key is found only by a checkpoint, or a record, that lies elsewhere: so
ship them.

A record that is deleted by rule leaves its leaf, and the chain goes on through it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

LINK_BYTES = 32
FORM = "gemstead-audit-checkpoint-1"
_sha256 = hashlib.sha256


class Link(msgspec.Struct, frozen=True):
    """One place of the chain, as it is stored. `text` is None where the record was deleted by rule."""

    seq: int
    leaf: bytes  # computed from the text, or what a deleted record left
    link: bytes  # as stored
    deleted: bool = False
    name: str = ""  # the call_id or act_id, for people


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A holder of the signing key saw this link at this place. `link` and `signature` in hex, `at` in Unix seconds.

    Kind `head`: the chain went so far. Kind `base`: what lies before was deleted by rule, and the chain begins here.
    """

    chain: str
    seq: int
    link: str
    at: float
    key_id: str
    kind: str = "head"
    signature: str = ""

    def statement(self) -> bytes:
        """The bytes that are signed."""
        return f"{FORM}\n{self.kind}\n{self.chain}\n{self.seq}\n{self.link}\n{self.at!r}\n{self.key_id}\n".encode()


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where the chain does not hold. `kind`: altered, removed, reordered, truncated, rewritten or
    signature."""

    seq: int
    kind: str
    what: str  # one sentence


def leaf(text: bytes) -> bytes:
    """The hash of a record's text, 32 bytes."""
    return _sha256(b"\0" + text).digest()


def link(before: bytes, seq: int, leaf: bytes) -> bytes:
    """The link of place `seq`, 32 bytes."""
    return _sha256(b"\1" + before + seq.to_bytes(8, "big") + leaf).digest()


def links(before: bytes, seq: int, texts: Iterable[bytes]) -> list[bytes]:
    """The links of records that follow place `seq`, in order."""
    made = []
    for text in texts:
        seq += 1
        # leaf() and link() in one line: this runs for every call
        before = _sha256(b"\1" + before + seq.to_bytes(8, "big") + _sha256(b"\0" + text).digest()).digest()
        made.append(before)
    return made


class Walk:
    """Goes along a chain, place by place, and stops at the first fault.

    Args:
        seq, link: where the walk begins: the last place that is taken as given.
        checkpoints: with good signatures, of this chain.
    """

    def __init__(self, seq: int, link: bytes, checkpoints: Iterable[Checkpoint] = ()) -> None:
        self.seq, self.link = seq, link
        self.records = self.deleted = 0
        self.vouched = 0  # the last place that a checkpoint stands for
        self.vouched_at = 0.0
        self._said: dict[int, list[Checkpoint]] = {}
        for one in checkpoints:
            if one.seq >= seq:
                self._said.setdefault(one.seq, []).append(one)
        self._behind = self._vouch()

    def over(self, places: Iterable[Link]) -> Iterator[Fault]:
        """Nothing if every place holds; otherwise the first fault."""
        if self._behind is not None:
            yield self._behind
            return
        for place in places:
            if (fault := self._step(place)) is not None:
                yield fault
                return

    def end(self, head_seq: int, head_link: bytes) -> Fault | None:
        """What is missing behind the last place, by the checkpoints and by what the file says of its own end."""
        beyond = max(self._said, default=0)
        if beyond > self.seq:
            one = self._said[beyond][0]
            return Fault(
                seq=self.seq + 1,
                kind="truncated",
                what=f"records {self.seq + 1} to {beyond} are missing: the checkpoint of key {one.key_id} vouches for "
                "them",
            )
        if head_seq > self.seq:
            return Fault(
                seq=self.seq + 1,
                kind="truncated",
                what=f"records {self.seq + 1} to {head_seq} are missing: the file says that it holds them",
            )
        if (head_seq, head_link) != (self.seq, self.link):
            return Fault(seq=self.seq, kind="rewritten", what="the file's own note of its end is another")
        return None

    def _step(self, place: Link) -> Fault | None:
        after = self.seq + 1
        if place.seq != after:
            if place.seq <= self.seq:
                return Fault(seq=place.seq, kind="reordered", what=f"record {place.seq} is there twice")
            until = f" to {place.seq - 1}" if place.seq > after + 1 else ""
            return Fault(seq=after, kind="removed", what=f"record {after}{until} was removed")
        made = link(self.link, place.seq, place.leaf)
        if made != place.link:
            name = f" ({place.name})" if place.name else ""
            what = f"record {place.seq}{name} is not what was written there: altered, inserted or reordered"
            return Fault(seq=place.seq, kind="altered", what=what)
        self.seq, self.link = place.seq, made
        self.records += not place.deleted
        self.deleted += place.deleted
        return self._vouch()

    def _vouch(self) -> Fault | None:
        for one in self._said.get(self.seq, ()):
            if one.link != self.link.hex():
                return Fault(
                    seq=self.vouched + 1,
                    kind="rewritten",
                    what=f"records {self.vouched + 1} to {self.seq} were written anew: the checkpoint of key "
                    f"{one.key_id} at {self.seq} saw others",
                )
            self.vouched, self.vouched_at = self.seq, max(self.vouched_at, one.at)
        return None
