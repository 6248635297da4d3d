"""What is refused although it is signed and valid: tokens by their id, people by their subject, certificates.

An issuer's token counts until it expires, and the issuer does not tell us when somebody has left. So whoever runs the
service can deny one, here and at once: denials are rows beside the keys, every change adds to the counter that each
worker watches (`generation.py`), and so a denial holds at the next lookup of every worker.

A denial of a subject refuses what was issued before it, so that the same person can sign in anew; with `forever` it
refuses everything until it is lifted. A denial of one token is dropped when that token would have expired.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gemstead.ledger.database import LedgerTrouble

COLUMNS = "issuer, kind, value, at, forever, expires, note"
KINDS = ("token", "subject")
ANY_ISSUER = "*"


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. Times in Unix seconds."""

    issuer: str  # its name in the file, or that of a kind of certificate; "*": any
    kind: str  # "token" (a `jti`, a certificate's serial number) or "subject" (a `sub`, a certificate's user)
    value: str
    at: float
    forever: bool = False  # of a subject: also what is issued later
    expires: float | None = None  # when the entry is of no use any more
    note: str = ""

    def check(self) -> None:
        """Refuses what cannot be meant.

        Raises:
            LedgerTrouble: it names nothing, or too much.
        """
        if self.kind not in KINDS or not self.value or not self.issuer:
            raise LedgerTrouble("say what to deny: a token's id or a subject, and of which issuer")
        for text in (self.issuer, self.value, self.note):
            if len(text) > 512 or not text.isprintable():
                raise LedgerTrouble("what to deny is too long or not plain text")


class Denials:
    """The entries as one worker has them. Never changed: a new set is a new object."""

    def __init__(self, entries: Iterable[Denial] = ()) -> None:
        self.entries = {(one.issuer, one.kind, one.value): one for one in entries}

    def denies(self, issuer: str, subject: str, token_id: str, issued_at: float, now: float) -> bool:
        """Whether a token (or certificate) is refused. A token that does not say when it was issued counts as old."""
        if not self.entries:
            return False
        for name in (issuer, ANY_ISSUER):
            entry = self.entries.get((name, "token", token_id)) if token_id else None
            if entry is not None and (entry.expires is None or now < entry.expires):
                return True
            entry = self.entries.get((name, "subject", subject))
            if entry is not None and (entry.forever or issued_at <= entry.at):
                return True
        return False


NONE_DENIED = Denials()


def read_denials(connection: sqlite3.Connection) -> Denials:
    """All entries of a file of keys."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM denied ORDER BY at")  # noqa: S608
    return Denials(denial_of(row) for row in rows)


def denial_of(row: Sequence[Any]) -> Denial:
    """The entry of a row's values, in the order of `COLUMNS`."""
    value = dict(zip(COLUMNS.split(", "), row, strict=True))
    return Denial(**{**value, "forever": bool(value["forever"])})


def write_denial(connection: sqlite3.Connection, entry: Denial) -> None:
    """Put an entry in place of one of the same name, and drop those that are of no use any more."""
    connection.execute("DELETE FROM denied WHERE expires IS NOT NULL AND expires < ?", (entry.at,))
    insert_denial(connection, entry)


def insert_denial(connection: sqlite3.Connection, entry: Denial) -> None:
    """Put an entry in place of one of the same name."""
    marks = ", ".join("?" * len(COLUMNS.split(", ")))
    connection.execute(
        f"INSERT OR REPLACE INTO denied ({COLUMNS}) VALUES ({marks})",  # noqa: S608
        (entry.issuer, entry.kind, entry.value, entry.at, int(entry.forever), entry.expires, entry.note),
    )


def lift_denial(connection: sqlite3.Connection, issuer: str, kind: str, value: str) -> bool:
    """Whether there was such an entry; there is none any more."""
    done = connection.execute(
        "DELETE FROM denied WHERE issuer = ? AND kind = ? AND value = ?", (issuer, kind, value)
    )
    return done.rowcount > 0
