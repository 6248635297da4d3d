"""The tables of files and batches: each gateway's own, beside the files themselves. See `ledger/batches.py`."""

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
    ),
)
