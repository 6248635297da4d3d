"""Keys as rows of keys.db: the SQLite form of `KeyStore`.

Every change is one transaction that also counts up the table `changes`; after the commit the mapped counter
of `generation.py` is bumped. Workers watch the counter, and look at `changes` once a second in case a process
died between the two.

Rotation makes a new key with the same rights and lets the old one live until `now + overlap`, or its own
expiry if that is sooner: the old row's `expires` moves and `replaced_by` names the new key.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gemstead.ledger import denials, generation, keyform
from gemstead.ledger.database import LedgerTrouble, Migrations, open_to_write, plainly, reading
from gemstead.ledger.denials import Denial
from gemstead.ledger.key import Grant, Key, Minted, UnknownKey
from gemstead.ledger.migrations.keys import STEPS
from gemstead.ledger.migrations.step import forward
from gemstead.traffic.caller import RateLimit

MIGRATIONS: Migrations = forward(STEPS)
COLUMNS = (
    "key_id, last4, tenant, app, user, roles, priority, models, rate_limit, note, created, expires, "
    "revoked_at, replaced_by, last_used, networks"
)


def hash_key(secret: bytes, pepper: bytes) -> bytes:
    """What is stored of a key. A fast keyed hash is right here: the key is random, so there is nothing to
    guess."""
    return hmac.digest(pepper, secret, "sha256")


def read_rows(connection: sqlite3.Connection) -> list[tuple[Key, bytes]]:
    """Every key with its hash, oldest first."""
    rows = connection.execute(f"SELECT {COLUMNS}, hash FROM keys ORDER BY created, rowid")  # noqa: S608
    return [(_key(row[:-1]), row[-1]) for row in rows]


def check_pepper(connection: sqlite3.Connection, path: Path, pepper: bytes) -> None:
    """Nothing, when the keys in this file were hashed with this pepper.

    Raises:
        LedgerTrouble: they were hashed with another, so none of them would be known.
    """
    row = connection.execute("SELECT proof FROM pepper").fetchone()
    if row is not None and not hmac.compare_digest(row[0], _proof(pepper)):
        raise LedgerTrouble(
            f"the keys in {path} belong to another `pepper` file: restore the one that was beside it, "
            "or move both away and make new keys"
        )


def _proof(pepper: bytes) -> bytes:
    return hash_key(b"this pepper belongs to these keys", pepper)


def read_changes(connection: sqlite3.Connection) -> int:
    """How often keys have changed in this file."""
    return int(connection.execute("SELECT n FROM changes").fetchone()[0])


def _key(row: tuple[object, ...]) -> Key:
    values = dict(zip(Key.__struct_fields__, row, strict=True))
    for name in ("roles", "networks"):
        values[name] = tuple(msgspec.json.decode(str(values[name]), type=list[str]))
    if values["models"] is not None:
        values["models"] = frozenset(msgspec.json.decode(str(values["models"]), type=list[str]))
    if values["limit"] is not None:
        values["limit"] = msgspec.json.decode(str(values["limit"]), type=RateLimit)
    return Key(**values)  # type: ignore[arg-type]


def key_of(row: tuple[object, ...]) -> Key:
    """The key of a row's values, in the order of `COLUMNS`."""
    return _key(row)


def row_of(key: Key) -> list[object]:
    """A key's values in the order of `COLUMNS`."""
    return [_stored(value) for value in msgspec.structs.astuple(key)]


def replace_rows(
    path: Path, pepper: bytes, rows: Sequence[tuple[object, ...]], denied: Sequence[Denial], *, whole: bool
) -> None:
    """Put keys, with their hashes behind them, and all denials in the place of those that are there; workers see it at
    their next lookup. `whole`: keys that are not among these go. The last use that is known here stays.

    Raises:
        LedgerTrouble: the file cannot be written.
    """
    names = [name.strip() for name in f"{COLUMNS}, hash".split(",")]
    keep = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("key_id", "last_used"))
    upsert = (
        f"INSERT INTO keys ({COLUMNS}, hash) VALUES ({', '.join('?' * len(names))}) ON CONFLICT (key_id) DO UPDATE SET "  # noqa: S608
        f"{keep}, last_used = nullif(max(coalesce(last_used, 0), coalesce(excluded.last_used, 0)), 0)"
    )
    store = SqliteKeys(path, pepper)
    with store.changing() as connection:
        connection.execute("DELETE FROM pepper")
        connection.execute("INSERT INTO pepper VALUES (?)", (_proof(pepper),))
        if whole:
            connection.execute("DELETE FROM keys")
        connection.executemany(upsert, rows)
        connection.execute("DELETE FROM denied")
        for one in denied:
            denials.insert_denial(connection, one)


class SqliteKeys:
    """`KeyStore` on one file. Opens it for each act, so nothing is held between them and any thread may call.

    Every method raises LedgerTrouble when the file cannot be read or written, and UnknownKey (a
    LedgerTrouble) when there is no such key. Times are Unix seconds.
    """

    def __init__(self, path: Path, pepper: bytes) -> None:
        self._path = path
        self._pepper = pepper

    def create(self, grant: Grant, *, now: float) -> Minted:
        """A new key with these rights. Its secret is in the answer and nowhere else."""
        grant.check(now)
        with self.changing() as connection:
            return self._insert(connection, grant, now)

    def first(self, grant: Grant, *, now: float) -> Minted | None:
        """The very first key; None when there is one already."""
        with self.changing() as connection:
            if connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone():
                return None
            return self._insert(connection, grant, now)

    def list(self) -> list[Key]:
        """Every key, oldest first, also those that no longer open anything."""
        with reading(self._path, MIGRATIONS) as connection:
            return [key for key, _ in read_rows(connection)] if connection else []

    def get(self, key_id: str) -> Key:
        """The key with this public id."""
        with reading(self._path, MIGRATIONS) as connection:
            return _one(connection, key_id)

    def revoke(self, key_id: str, *, now: float) -> Key:
        """The key as it is now: refused everywhere, at once and for good. Again changes nothing."""
        with self.changing() as connection:
            connection.execute(
                "UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL", (now, key_id)
            )
            return _one(connection, key_id)

    def rotate(self, key_id: str, *, now: float, overlap_s: float) -> Minted:
        """A new key with the same rights and expiry; the old one lives `overlap_s` seconds more at most."""
        with self.changing() as connection:
            old = _one(connection, key_id)
            old.check_may_rotate(now)
            new = self._insert(connection, old.grant(), now)
            until = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
            connection.execute(
                "UPDATE keys SET expires = ?, replaced_by = ? WHERE key_id = ?",
                (until, new.key.key_id, key_id),
            )
            return new

    def deny(self, entry: Denial) -> None:
        """From now on every worker refuses what the entry names, though it be signed and valid."""
        entry.check()
        with self.changing() as connection:
            denials.write_denial(connection, entry)

    def lift(self, issuer: str, kind: str, value: str) -> bool:
        """Whether there was such a denial; there is none any more."""
        with self.changing() as connection:
            return denials.lift_denial(connection, issuer, kind, value)

    def denied(self) -> tuple[Denial, ...]:
        """Every denial, oldest first."""
        with reading(self._path, MIGRATIONS) as connection:
            return tuple(denials.read_denials(connection).entries.values()) if connection else ()

    def touch(self, used: Mapping[str, float]) -> None:
        """Remember when keys were last used. Changes no right, so no worker reloads."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE keys SET last_used = max(coalesce(last_used, 0), ?) WHERE key_id = ?",
                [(when, key_id) for key_id, when in used.items()],
            )
            connection.execute("COMMIT")

    def _insert(self, connection: sqlite3.Connection, grant: Grant, now: float) -> Minted:
        connection.execute(
            "INSERT INTO pepper SELECT ? WHERE NOT EXISTS (SELECT * FROM pepper)", (_proof(self._pepper),)
        )
        check_pepper(connection, self._path, self._pepper)
        for _ in range(8):  # public ids have 62^8 values: a second try is already unlikely
            secret = keyform.mint()
            key = grant.key(keyform.key_id_of(secret), secret[-4:], now)
            row = msgspec.structs.astuple(key)
            values = [_stored(value) for value in row] + [hash_key(secret.encode(), self._pepper)]
            marks = ", ".join("?" * len(values))
            written = connection.execute(
                f"INSERT INTO keys ({COLUMNS}, hash) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608
                values,
            )
            if written.rowcount == 1:
                return Minted(secret=secret, key=key)
        raise LedgerTrouble(f"{self._path}: no free key id was found: try again")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with plainly(self._path):
            connection = open_to_write(self._path, MIGRATIONS)
            try:
                yield connection
            finally:
                connection.close()  # rolls back what was not committed

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One change of rights: durable, and seen by every worker, when it ends."""
        with self._open() as connection:
            # A change of rights must survive a power cut: a revoked key may not come back.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("UPDATE changes SET n = n + 1")
            connection.execute("COMMIT")
            try:
                generation.bump(generation.path_beside(self._path))
            except OSError:
                pass  # the change stands; workers see it within a second through `changes`


def _one(connection: sqlite3.Connection | None, key_id: str) -> Key:
    query = f"SELECT {COLUMNS} FROM keys WHERE key_id = ?"  # noqa: S608
    row = connection.execute(query, (key_id,)).fetchone() if connection else None
    if row is None:
        raise UnknownKey(f"there is no key {key_id}: `gemstead keys list` shows the ids")
    return _key(row)


def _stored(value: object) -> object:
    if isinstance(value, frozenset):
        value = sorted(value)
    if isinstance(value, (tuple, list, RateLimit)):
        return msgspec.json.encode(value).decode()
    return value
