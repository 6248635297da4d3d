"""Writes administrative acts and checkpoints into audit.db, from whatever process does the act.

An act is written at once and synced: it is there when `remember` returns. Acts are rare, so this opens and closes the
file each time. Nothing here is called for a request.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.audit import Act
from gemstead.ledger.chain import LINK_BYTES, Checkpoint
from gemstead.ledger.database import open_to_write, plainly
from gemstead.ledger.signing import Signer

CHECKPOINT = "audit.checkpoint"
NEW_CHAIN = "audit.new-chain"


def new_act(action: str, target: str = "", *, actor: str = "", detail: Any = None, **fields: str) -> Act:
    """An act of now, done by this machine's user unless an actor is named.

    Args:
        action: noun and verb, such as "key.create".
        detail: what JSON can say; never a secret.
        fields: further fields of Act.
    """
    return Act(
        act_id=f"act_{secrets.token_hex(8)}",
        at=time.time(),
        action=action,
        actor=actor or local_actor(),
        target=target,
        detail="" if detail is None else msgspec.json.encode(detail, order="deterministic").decode(),
        **fields,
    )


def local_actor() -> str:
    """Whose hands are on the keyboard, as far as this machine knows."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"os:{name}"


def fingerprint(value: bytes | str) -> str:
    """`sha256:` and hex, for the fields `before` and `after`. Not for short secrets: those can be guessed from it."""
    return "sha256:" + hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def remember(path: Path, one: Act) -> int:
    """Write an act; its place in the chain. `path`: audit.db, made if missing.

    Raises:
        LedgerTrouble: it cannot be written.
    """
    with changing(path) as connection:
        return audittable.append_act(connection, one)


def remember_all(path: Path, many: Sequence[Act]) -> None:
    """Write acts in their order, all of them or none.

    Raises:
        LedgerTrouble: they cannot be written.
    """
    with changing(path) as connection:
        for one in many:
            audittable.append_act(connection, one)


def checkpoint(path: Path, signer: Signer, now: float) -> Checkpoint | None:
    """Sign where the chain ends, and write that down as an act too; None when nothing is new.

    Raises:
        LedgerTrouble: it cannot be written.
    """
    with changing(path) as connection:
        name, base_seq, base_link = connection.execute(
            "SELECT name, base_seq, base_link FROM chain"
        ).fetchone()
        based = connection.execute(
            "SELECT 1 FROM checkpoints WHERE seq = ? AND kind = 'base'", (base_seq,)
        ).fetchone()
        if not based:
            write_checkpoint(connection, signed(signer, name, base_seq, base_link, now, "base"))
        seq, link = audittable.head(connection)
        last = connection.execute("SELECT max(seq) FROM checkpoints").fetchone()[0]
        own = connection.execute(
            "SELECT 1 FROM acts WHERE seq = ? AND action = ?", (seq, CHECKPOINT)
        ).fetchone()
        if based and seq <= last + (own is not None):  # its own act lies behind it
            return None
        made = signed(signer, name, seq, link, now, "head")
        write_checkpoint(connection, made)
        audittable.append_act(
            connection, new_act(CHECKPOINT, str(seq), actor="gemstead", detail=msgspec.structs.asdict(made))
        )
        return made


def begin_chain(path: Path, signer: Signer, now: float, detail: dict[str, Any]) -> Checkpoint | None:
    """End the chain where it is and begin another behind it, whose first record says so.

    Returns the old one's signed end; None when nothing is in it.

    For a file that others may have gone on with, as a backup that is put back: what is written from now on can never
    be taken for the records that the old chain had in the same places.

    Raises:
        LedgerTrouble: it cannot be written.
    """
    with changing(path) as connection:
        name, base, base_link, seq, link = connection.execute(
            "SELECT name, base_seq, base_link, head_seq, head_link FROM chain"
        ).fetchone()
        end = None
        if seq > base:
            if not connection.execute(
                "SELECT 1 FROM checkpoints WHERE seq = ? AND kind = 'base'", (base,)
            ).fetchone():
                write_checkpoint(connection, signed(signer, name, base, base_link, now, "base"))
            end = signed(signer, name, seq, link, now, "head")
            write_checkpoint(connection, end)
            row = (name, base, base_link, seq, link)
            connection.execute("INSERT INTO ended VALUES (?, ?, ?, ?, ?)", row)
        new, its_base = secrets.token_hex(8), secrets.token_bytes(LINK_BYTES)
        connection.execute(
            "UPDATE chain SET name = ?, base_seq = ?, base_link = ?, head_seq = ?, head_link = ?",
            (new, seq, its_base, seq, its_base),
        )
        write_checkpoint(connection, signed(signer, new, seq, its_base, now, "base"))
        told = {"end": None if end is None else msgspec.structs.asdict(end), **detail}
        at = audittable.append_act(connection, new_act(NEW_CHAIN, new, detail=told))
        _, its_link = audittable.head(connection)
        write_checkpoint(connection, signed(signer, new, at, its_link, now, "head"))
        return end


def signed(signer: Signer, chain: str, seq: int, link: bytes, at: float, kind: str) -> Checkpoint:
    """A signed checkpoint of these values."""
    return signer.sign(Checkpoint(chain=chain, seq=seq, link=link.hex(), at=at, key_id="", kind=kind))


def write_checkpoint(connection: sqlite3.Connection, one: Checkpoint) -> None:
    """Keep it in the file; it replaces one of the same place and key."""
    connection.execute(
        "INSERT OR REPLACE INTO checkpoints (seq, link, at, key_id, kind, signature) VALUES (?, ?, ?, ?, ?, ?)",
        (one.seq, one.link, one.at, one.key_id, one.kind, one.signature),
    )


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on audit.db, durable when it ends.

    Raises:
        LedgerTrouble: the file cannot be written.
    """
    with plainly(path):
        connection = open_to_write(path, audittable.MIGRATIONS)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")
        finally:
            connection.close()
