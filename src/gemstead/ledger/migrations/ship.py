"""The tables of what has been sent where: each gateway's own. See `ledger/ship/cursors.py`."""

from __future__ import annotations

from gemstead.ledger.migrations.step import STRICT, Step

STEPS: tuple[Step, ...] = (
    Step(
        sqlite=(
            f"""CREATE TABLE cursors (
            sink TEXT PRIMARY KEY,
            chain TEXT NOT NULL DEFAULT '',
            seq INTEGER NOT NULL DEFAULT 0,
            turn INTEGER NOT NULL DEFAULT 0,
            shipped INTEGER NOT NULL DEFAULT 0,
            shipped_at REAL,
            trouble TEXT NOT NULL DEFAULT '',
            trouble_since REAL
        ){STRICT}""",
            f"""CREATE TABLE refused (
            sink TEXT NOT NULL,
            seq INTEGER NOT NULL,
            why TEXT NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (sink, seq)
        ){STRICT}""",
        ),
        sqlite_back=("DROP TABLE cursors", "DROP TABLE refused"),
    ),
)
