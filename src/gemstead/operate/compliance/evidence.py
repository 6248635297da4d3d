"""What this installation can show: read from its file and its ledger, changing neither."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gemstead.ledger import audittable
from gemstead.ledger.database import LedgerTrouble, reading
from gemstead.ledger.key import Key
from gemstead.ledger.keys import open_keys
from gemstead.spec.model import Spec
from gemstead.spec.secrets import references

REVIEWED, DRILLED = "access.review", "restore.drill"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found. Times in Unix seconds; None: never, or it cannot be read."""

    spec: Spec
    now: float
    keys: tuple[Key, ...]
    records: int
    oldest: float | None
    checkpoint: float | None
    reviewed: float | None
    drilled: float | None
    secrets: int
    trouble: tuple[str, ...] = ()


def gather(spec: Spec, keys: Path, audit: Path, now: float) -> Evidence:
    """The evidence of the installation whose ledger lies at these two paths."""
    trouble: list[str] = []
    found: tuple[Key, ...] = ()
    values: tuple[int, float | None, float | None, float | None, float | None] = (0, None, None, None, None)
    try:
        found = tuple(open_keys(keys, b"").list())
    except LedgerTrouble as error:
        trouble.append(str(error))
    try:
        with reading(audit, audittable.MIGRATIONS) as connection:
            if connection is not None:
                values = _audit(connection)
    except LedgerTrouble as error:
        trouble.append(str(error))
    return Evidence(spec, now, found, *values, len(list(references(spec))), tuple(trouble))


def _audit(
    connection: sqlite3.Connection,
) -> tuple[int, float | None, float | None, float | None, float | None]:
    def one(query: str, *values: str) -> float | None:
        with closing(connection.execute(query, values)) as rows:
            found: float | None = rows.fetchone()[0]
        return found

    act = "SELECT max(at) FROM acts WHERE action = ? AND outcome = 'done'"
    return (
        int(one("SELECT count(*) FROM audit") or 0),
        one("SELECT min(began) FROM audit"),
        one("SELECT max(at) FROM checkpoints WHERE kind = 'head'"),
        one(act, REVIEWED),
        one(act, DRILLED),
    )
