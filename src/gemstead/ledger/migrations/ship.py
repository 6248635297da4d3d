"""The tables of what has been sent where. See `ledger/ship/cursors.py` (a gateway's own) and
`ledger/postgres/cursors.py` (shared: one cursor for each receiver and chain, held by one gateway at a time)."""

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
        postgres=(
            """CREATE TABLE gemstead_cursors (
            sink text NOT NULL,
            chain text NOT NULL,
            seq bigint NOT NULL,
            turn bigint NOT NULL DEFAULT 0,
            shipped bigint NOT NULL DEFAULT 0,
            shipped_at float8,
            trouble text NOT NULL DEFAULT '',
            trouble_since float8,
            holder text NOT NULL DEFAULT '',
            lease_until float8 NOT NULL DEFAULT 0,
            PRIMARY KEY (sink, chain)
        )""",
            """CREATE TABLE gemstead_refused (
            sink text NOT NULL,
            chain text NOT NULL,
            seq bigint NOT NULL,
            why text NOT NULL,
            at float8 NOT NULL,
            PRIMARY KEY (sink, chain, seq)
        )""",
            # Of chains that began before there were shared cursors only their own gateway knows how far receivers are.
            "CREATE TABLE gemstead_shipping (since float8 NOT NULL)",
            "INSERT INTO gemstead_shipping VALUES (extract(epoch FROM clock_timestamp()))",
        ),
        postgres_back=(
            "DROP TABLE gemstead_cursors",
            "DROP TABLE gemstead_refused",
            "DROP TABLE gemstead_shipping",
        ),
    ),
)
