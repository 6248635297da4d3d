"""Brings keys, denials and secrets from the store into a gateway's own files, and carries up when keys were used.

What is new is told by one number, the count of changes. Keys are never removed, so those whose `changed` is beyond the
number seen last are all there is to fetch; denials are few and fetched whole. Another store, or one whose number is
smaller (a backup was restored), is fetched wholly. What was fetched is written before the number is, so a process that
dies between the two fetches again.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec

from gemstead.ledger.database import open_to_read, plainly
from gemstead.ledger.denials import denial_of
from gemstead.ledger.keytable import MIGRATIONS, replace_rows
from gemstead.ledger.postgres import keys
from gemstead.ledger.postgres.link import Link
from gemstead.ledger.postgres.vault import Vault, WrongSecret, hand_out, handed_out
from gemstead.ledger.secrets import secret_at


class Seen(msgspec.Struct):
    """Where a gateway's copy of the keys stands. Kept beside it, as `store.json`."""

    store_id: str = ""
    changes: int = -1
    at: float = 0.0  # when it was last known to be the same as the store's, Unix seconds


class Puller:
    """One gateway's copy in `folder`. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._keys, self._note = folder, folder / "keys.db", folder / "store.json"
        self.seen = read_seen(folder)
        self._used: dict[str, float] = {}
        self.hash_keys_changed = False
        self._sealed_off = False  # what the store has sealed cannot be opened

    def pull(self, link: Link, secret: str) -> bool:
        """Fetch what is new; whether anything was.

        Raises:
            LedgerTrouble: the store cannot be used, or the files not written.
        """
        changes = int(link.value("SELECT n FROM gemstead_changes") or 0)
        if changes == self.seen.changes and self._keys.exists() and not self._sealed_off:
            self.seen.at = time.time()
            return False
        wrong: WrongSecret | None = None
        try:
            self.hash_keys_changed |= hand_out(Vault(link, secret), self._folder)
        except (
            WrongSecret
        ) as trouble:  # sealed anew, and our secret is the old one: revocations come through still
            if not handed_out(self._folder):
                raise
            wrong = trouble
        self._sealed_off = wrong is not None
        with link.transaction(reading=True):
            store_id, changes = link.row("SELECT store_id, n FROM gemstead_store, gemstead_changes") or (
                "",
                0,
            )
            whole = store_id != self.seen.store_id or changes < self.seen.changes or not self._keys.exists()
            rows = link.rows(
                f"SELECT {keys.NAMES}, hash FROM gemstead_keys WHERE changed > $1 ORDER BY created, changed",  # noqa: S608
                -1 if whole else self.seen.changes,
            )
            denied = [denial_of(row) for row in link.rows(keys.DENIED)]
        replace_rows(self._keys, secret_at(self._folder / "pepper"), rows, denied, whole=whole)
        self.seen = Seen(store_id=store_id, changes=changes, at=time.time())
        self.note()
        if wrong is not None:
            raise wrong
        return True

    def note(self) -> None:
        """Write down where the copy stands."""
        draft = self._note.with_suffix(".draft")
        with plainly(self._note):
            draft.write_bytes(msgspec.json.encode(self.seen) + b"\n")
            draft.replace(self._note)

    def carry_up(self, link: Link) -> None:
        """Tell the store when keys were last used here."""
        with plainly(self._keys):
            connection = open_to_read(self._keys, MIGRATIONS)
            if connection is None:
                return
            try:
                used = dict(
                    connection.execute(
                        "SELECT key_id, last_used FROM keys WHERE last_used IS NOT NULL"
                    ).fetchall()
                )
            except sqlite3.OperationalError:
                return
            finally:
                connection.close()
        new = {key_id: at for key_id, at in used.items() if at > self._used.get(key_id, 0.0)}
        if new:
            keys.touch(link, new)
            self._used = used


def read_seen(folder: Path) -> Seen:
    """Where the copy in `folder` stands; that of a folder without one is `Seen()`."""
    try:
        return msgspec.json.decode((folder / "store.json").read_bytes(), type=Seen)
    except (OSError, msgspec.MsgspecError):
        return Seen()
