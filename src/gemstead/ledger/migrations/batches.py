"""The tables of files and batches. See `ledger/batches.py` (a gateway's own) and `ledger/postgres/batches.py` (shared).

In a store the bytes of files, and the answers of batches that go on, are there too, in parts that are sealed.
"""

from __future__ import annotations

from gemstead.ledger.migrations.step import STRICT, Step

STEPS: tuple[Step, ...] = (
    Step(
        sqlite=(
            f"""CREATE TABLE files (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            file_id TEXT NOT NULL UNIQUE,
            tenant TEXT NOT NULL,
            purpose TEXT NOT NULL,
            expires_at INTEGER,
            row TEXT NOT NULL
        ){STRICT}""",
            f"""CREATE TABLE batches (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            batch_id TEXT NOT NULL UNIQUE,
            tenant TEXT NOT NULL,
            input_file_id TEXT NOT NULL,
            ended_at INTEGER NOT NULL,
            caller TEXT NOT NULL,
            row TEXT NOT NULL
        ){STRICT}""",
            "CREATE INDEX files_of ON files (tenant, seq)",
            "CREATE INDEX batches_of ON batches (tenant, seq)",
        ),
        sqlite_back=("DROP TABLE files", "DROP TABLE batches"),
        postgres=(
            """CREATE TABLE gemstead_files (
            seq bigserial PRIMARY KEY,
            file_id text NOT NULL UNIQUE,
            tenant text NOT NULL,
            purpose text NOT NULL,
            expires_at bigint,
            bytes bigint NOT NULL,
            row text NOT NULL
        )""",
            """CREATE TABLE gemstead_file_parts (
            file_id text NOT NULL,
            n bigint NOT NULL,
            at float8 NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (file_id, n)
        )""",
            """CREATE TABLE gemstead_batches (
            seq bigserial PRIMARY KEY,
            batch_id text NOT NULL UNIQUE,
            tenant text NOT NULL,
            input_file_id text NOT NULL,
            ended_at bigint NOT NULL,
            caller text NOT NULL,
            row text NOT NULL,
            progress text NOT NULL DEFAULT '',
            holder text NOT NULL DEFAULT '',
            lease_until float8 NOT NULL DEFAULT 0,
            turn bigint NOT NULL DEFAULT 0,
            cancel_asked bigint NOT NULL DEFAULT 0
        )""",
            """CREATE TABLE gemstead_answers (
            batch_id text NOT NULL,
            n bigserial,
            data bytea NOT NULL,
            PRIMARY KEY (batch_id, n)
        )""",
            "ALTER TABLE gemstead_file_parts ALTER COLUMN data SET STORAGE EXTERNAL",  # sealed: nothing to compress
            "ALTER TABLE gemstead_answers ALTER COLUMN data SET STORAGE EXTERNAL",
            "CREATE INDEX gemstead_files_of ON gemstead_files (tenant, seq)",
            "CREATE INDEX gemstead_batches_of ON gemstead_batches (tenant, seq)",
            "CREATE INDEX gemstead_batches_going_on ON gemstead_batches (seq) WHERE ended_at = 0",
        ),
        postgres_back=(
            "DROP TABLE gemstead_files",
            "DROP TABLE gemstead_file_parts",
            "DROP TABLE gemstead_batches",
            "DROP TABLE gemstead_answers",
        ),
    ),
)
