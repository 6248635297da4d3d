"""Keys as rows of PostgreSQL: the form of `KeyStore` that several gateways share.

Every change is one transaction that takes the row of `gemstead_changes` first and counts it up: so changes come one
after the other, and a key's `changed` says which of them made it what it is. Whoever listens is told when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gemstead.ledger import denials, keyform
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.ledger.denials import Denial
from gemstead.ledger.key import Grant, Key, Minted, UnknownKey
from gemstead.ledger.keytable import COLUMNS, MIGRATIONS, hash_key, key_of, read_rows, row_of
from gemstead.ledger.postgres.link import Link, linked
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.vault import Vault

NAMES = COLUMNS.replace(" user,", ' "user",')
_WIDTH = len(COLUMNS.split(","))
_INSERT = (
    f"INSERT INTO gemstead_keys ({NAMES}, hash, changed) "  # noqa: S608
    f"VALUES ({', '.join(f'${n}' for n in range(1, _WIDTH + 3))}) ON CONFLICT DO NOTHING"
)
DENIED = f"SELECT {denials.COLUMNS} FROM gemstead_denied ORDER BY at"  # noqa: S608


class PostgresKeys:
    """`KeyStore` in a store. Connects for each act, so any thread may call.

    Every method raises LedgerTrouble when the store cannot be used, and UnknownKey when there is no such key.
    """

    def __init__(self, place: Place, settled: Callable[[int], None] = lambda number: None) -> None:
        """`settled`: is given the number of each change once it is done."""
        self._place, self._settled = place, settled

    def create(self, grant: Grant, *, now: float) -> Minted:
        """A new key with these rights. Its secret is in the answer and nowhere else."""
        grant.check(now)
        with self._changing() as (link, number):
            return self._insert(link, grant, now, number)

    def first(self, grant: Grant, *, now: float) -> Minted | None:
        """The very first key; None when there is one already."""
        with self._changing() as (link, number):
            if link.value("SELECT 1 FROM gemstead_keys LIMIT 1"):
                return None
            return self._insert(link, grant, now, number)

    def list(self) -> list[Key]:
        """Every key, oldest first, also those that no longer open anything."""
        with linked(self._place.url()) as link:
            rows = link.rows(f"SELECT {NAMES} FROM gemstead_keys ORDER BY created, changed")  # noqa: S608
        return [key_of(row) for row in rows]

    def get(self, key_id: str) -> Key:
        """The key with this public id."""
        with linked(self._place.url()) as link:
            return _one(link, key_id)

    def revoke(self, key_id: str, *, now: float) -> Key:
        """The key as it is now: refused everywhere, at once and for good. Again changes nothing."""
        with self._changing() as (link, number):
            link.do(
                "UPDATE gemstead_keys SET revoked_at = $1, changed = $2 WHERE key_id = $3 AND revoked_at IS NULL",
                now,
                number,
                key_id,
            )
            return _one(link, key_id)

    def rotate(self, key_id: str, *, now: float, overlap_s: float) -> Minted:
        """A new key with the same rights and expiry; the old one lives `overlap_s` seconds more at most."""
        with self._changing() as (link, number):
            old = _one(link, key_id)
            old.check_may_rotate(now)
            new = self._insert(link, old.grant(), now, number)
            until = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
            link.do(
                "UPDATE gemstead_keys SET expires = $1, replaced_by = $2, changed = $3 WHERE key_id = $4",
                until,
                new.key.key_id,
                number,
                key_id,
            )
            return new

    def deny(self, entry: Denial) -> None:
        """From now on every gateway refuses what the entry names, though it be signed and valid."""
        entry.check()
        with self._changing() as (link, _):
            link.do("DELETE FROM gemstead_denied WHERE expires IS NOT NULL AND expires < $1", entry.at)
            link.do(
                f"INSERT INTO gemstead_denied ({denials.COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7) "  # noqa: S608
                "ON CONFLICT (issuer, kind, value) DO UPDATE SET at = excluded.at, forever = excluded.forever, "
                "expires = excluded.expires, note = excluded.note",
                *(entry.issuer, entry.kind, entry.value, entry.at),
                *(int(entry.forever), entry.expires, entry.note),
            )

    def lift(self, issuer: str, kind: str, value: str) -> bool:
        """Whether there was such a denial; there is none any more."""
        with self._changing() as (link, _):
            gone = link.do(
                "DELETE FROM gemstead_denied WHERE issuer = $1 AND kind = $2 AND value = $3",
                *(issuer, kind, value),
            )
        return gone > 0

    def denied(self) -> tuple[Denial, ...]:
        """Every denial, oldest first."""
        with linked(self._place.url()) as link:
            return tuple(denials.denial_of(row) for row in link.rows(DENIED))

    def touch(self, used: Mapping[str, float]) -> None:
        """Remember when keys were last used. Changes no right, so nobody is told."""
        with linked(self._place.url()) as link:
            touch(link, used)

    def _insert(self, link: Link, grant: Grant, now: float, number: int) -> Minted:
        pepper = Vault(link, self._place.secret()).pepper()
        for _ in range(8):  # public ids have 62^8 values: a second try is already unlikely
            secret = keyform.mint()
            key = grant.key(keyform.key_id_of(secret), secret[-4:], now)
            if link.do(_INSERT, *row_of(key), hash_key(secret.encode(), pepper), number) == 1:
                return Minted(secret=secret, key=key)
        raise LedgerTrouble("no free key id was found: try again")

    @contextmanager
    def _changing(self) -> Iterator[tuple[Link, int]]:
        with linked(self._place.url()) as link, link.transaction():
            number = int(link.value("UPDATE gemstead_changes SET n = n + 1 RETURNING n"))
            yield link, number
            link.do("SELECT pg_notify('gemstead_keys', '')")
        self._settled(number)


def put(link: Link, path: Path) -> tuple[int, int]:
    """Bring the keys and denials of a file into the store; how many of each.

    Raises:
        LedgerTrouble: the file cannot be read, or the store has keys of its own.
    """
    if link.value("SELECT 1 FROM gemstead_keys LIMIT 1"):
        raise LedgerTrouble("the store has keys already: only an empty store can take others over")
    with reading(path, MIGRATIONS) as connection:
        rows = read_rows(connection) if connection is not None else []
        denied = list(denials.read_denials(connection).entries.values()) if connection is not None else []
    number = int(link.value("UPDATE gemstead_changes SET n = n + 1 RETURNING n"))
    link.many(_INSERT, [(*row_of(key), key_hash, number) for key, key_hash in rows])
    link.many(
        f"INSERT INTO gemstead_denied ({denials.COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)",  # noqa: S608
        [(d.issuer, d.kind, d.value, d.at, int(d.forever), d.expires, d.note) for d in denied],
    )
    return len(rows), len(denied)


def touch(link: Link, used: Mapping[str, float]) -> None:
    """Write down when keys were last used, where that is later than what is known."""
    link.do(
        "UPDATE gemstead_keys AS k SET last_used = greatest(coalesce(k.last_used, 0), u.at) "
        "FROM unnest($1::text[], $2::float8[]) AS u(key_id, at) "
        "WHERE k.key_id = u.key_id AND coalesce(k.last_used, 0) < u.at",
        list(used),
        list(used.values()),
    )


def _one(link: Link, key_id: str) -> Key:
    row = link.row(f"SELECT {NAMES} FROM gemstead_keys WHERE key_id = $1", key_id)  # noqa: S608
    if row is None:
        raise UnknownKey(f"there is no key {key_id}: `gemstead keys list` shows the ids")
    return key_of(row)
