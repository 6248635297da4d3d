"""Every form that the ledger's tables ever had, and the ways from one to the next and back: one list for SQLite and
PostgreSQL.

A *branch* is a set of tables that change together: `keys`, `audit`, `batches`, `ship` (each a SQLite file of its own)
and `shared` (only in PostgreSQL, whose one database holds all five). A branch is a tuple of `Step`s; step n of branch b
is called `b_n`. Whoever changes a table adds one step, with its statements for both.

Two roads lead along the list. A SQLite file is brought forward by whoever opens it (`ledger/database.py`), which costs
nothing but the statements. Everything else goes through Alembic (`road.py`): PostgreSQL both ways, and SQLite both ways
when somebody asks for it. Both roads run the same statements, and a test holds both ends against each other.

Steps only add (tables, columns with defaults, indexes) wherever that is possible, so that gateways of the version
before go on while others are brought forward.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemstead.ledger.migrations import audit, batches, keys, shared, ship
from gemstead.ledger.migrations.step import Step

BRANCHES: Mapping[str, tuple[Step, ...]] = {
    "keys": keys.STEPS,
    "audit": audit.STEPS,
    "batches": batches.STEPS,
    "ship": ship.STEPS,
    "shared": shared.STEPS,
}
IN_POSTGRES = ("keys", "audit", "shared", "batches", "ship")
FILES = {"keys.db": "keys", "audit.db": "audit", "batches.db": "batches", "ship.db": "ship"}


def newest(branch: str) -> str:
    """The name of a branch's last step."""
    return f"{branch}_{len(BRANCHES[branch])}"
