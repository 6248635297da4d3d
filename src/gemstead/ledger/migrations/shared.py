"""The tables that only a shared store has: its name, and the secrets that all gateways need (`postgres/vault.py`).

`needs` is the least number of steps (of all branches together) that a Gemstead must know to use the store: a step that
older gateways cannot live with raises it.
"""

from __future__ import annotations

from gemstead.ledger.migrations.step import Step

STEPS: tuple[Step, ...] = (
    Step(
        postgres=(
            "CREATE TABLE gemstead_store (store_id text NOT NULL, needs bigint NOT NULL)",
            "INSERT INTO gemstead_store VALUES (replace(gen_random_uuid()::text, '-', ''), 7)",
            """CREATE TABLE gemstead_sealed (
            name text NOT NULL,
            number bigint NOT NULL,
            at float8 NOT NULL,
            value bytea NOT NULL,
            PRIMARY KEY (name, number)
        )""",
        ),
        postgres_back=("DROP TABLE gemstead_store", "DROP TABLE gemstead_sealed"),
    ),
    Step(  # wrong break-glass passwords, whichever gateway they were tried at (`postgres/tries.py`)
        postgres=("CREATE TABLE gemstead_tries (at float8 NOT NULL)",),
        postgres_back=("DROP TABLE gemstead_tries",),
    ),
)
