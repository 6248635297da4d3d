"""The tables of keys and of what is denied. What they mean is said in `ledger/keytable.py` and `ledger/denials.py`.

In PostgreSQL a key has one column more: `changed`, the count of changes at which it became what it is, by which a
gateway fetches only what is new to it.
"""

from __future__ import annotations

from gemstead.ledger.migrations.step import STRICT, Step

STEPS: tuple[Step, ...] = (
    Step(
        sqlite=(
            f"""CREATE TABLE keys (
            key_id TEXT NOT NULL PRIMARY KEY,
            hash BLOB NOT NULL UNIQUE,
            last4 TEXT NOT NULL,
            tenant TEXT NOT NULL,
            app TEXT NOT NULL,
            user TEXT NOT NULL,
            roles TEXT NOT NULL,
            priority INTEGER NOT NULL,
            models TEXT,
            rate_limit TEXT,
            note TEXT NOT NULL,
            created REAL NOT NULL,
            expires REAL,
            revoked_at REAL,
            replaced_by TEXT,
            last_used REAL
        ){STRICT}""",
            f"CREATE TABLE changes (n INTEGER NOT NULL){STRICT}",
            "INSERT INTO changes VALUES (1)",
        ),
        sqlite_back=("DROP TABLE keys", "DROP TABLE changes"),
        postgres=(
            """CREATE TABLE gemstead_keys (
            key_id text PRIMARY KEY,
            hash bytea NOT NULL UNIQUE,
            last4 text NOT NULL,
            tenant text NOT NULL,
            app text NOT NULL,
            "user" text NOT NULL,
            roles text NOT NULL,
            priority bigint NOT NULL,
            models text,
            rate_limit text,
            note text NOT NULL,
            created float8 NOT NULL,
            expires float8,
            revoked_at float8,
            replaced_by text,
            last_used float8,
            changed bigint NOT NULL
        )""",
            "CREATE INDEX gemstead_keys_changed ON gemstead_keys (changed)",
            "CREATE TABLE gemstead_changes (n bigint NOT NULL)",
            "INSERT INTO gemstead_changes VALUES (1)",
        ),
        postgres_back=("DROP TABLE gemstead_keys", "DROP TABLE gemstead_changes"),
    ),
    Step(  # in PostgreSQL the pepper itself is there, sealed (shared.py)
        sqlite=(f"CREATE TABLE pepper (proof BLOB NOT NULL){STRICT}",),
        sqlite_back=("DROP TABLE pepper",),
    ),
    Step(
        sqlite=(
            "ALTER TABLE keys ADD COLUMN networks TEXT NOT NULL DEFAULT '[]'",
            f"""CREATE TABLE denied (
    issuer TEXT NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    at REAL NOT NULL,
    forever INTEGER NOT NULL,
    expires REAL,
    note TEXT NOT NULL,
    PRIMARY KEY (issuer, kind, value)
){STRICT}""",
        ),
        sqlite_back=("DROP TABLE denied", "ALTER TABLE keys DROP COLUMN networks"),
        postgres=(
            "ALTER TABLE gemstead_keys ADD COLUMN networks text NOT NULL DEFAULT '[]'",
            """CREATE TABLE gemstead_denied (
            issuer text NOT NULL,
            kind text NOT NULL,
            value text NOT NULL,
            at float8 NOT NULL,
            forever bigint NOT NULL,
            expires float8,
            note text NOT NULL,
            PRIMARY KEY (issuer, kind, value)
        )""",
        ),
        postgres_back=("DROP TABLE gemstead_denied", "ALTER TABLE gemstead_keys DROP COLUMN networks"),
    ),
)
