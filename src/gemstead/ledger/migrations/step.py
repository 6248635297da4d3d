"""One step from a form of the tables to the next, in both dialects, and back again."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

Statements = tuple[str, ...]
STRICT = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""  # RHEL 9 still links 3.34


@dataclass(frozen=True, slots=True)
class Step:
    """The statements of one step. An empty tuple: nothing is to be done in that database."""

    sqlite: Statements = ()
    sqlite_back: Statements = ()
    postgres: Statements = ()
    postgres_back: Statements = ()


def forward(steps: tuple[Step, ...]) -> tuple[Statements, ...]:
    """The steps as SQLite takes them, for `ledger/database.py`."""
    return tuple(step.sqlite for step in steps)
