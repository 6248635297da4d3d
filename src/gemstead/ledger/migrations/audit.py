"""The tables of audit records. What they mean is said in `ledger/audittable.py`.

In PostgreSQL there is a chain for each gateway that ever wrote, so every row names its chain. A record comes there with
its place and its link, once, and is not written anew.
"""

from __future__ import annotations

from gemstead.ledger.migrations.step import STRICT, Step

STEPS: tuple[Step, ...] = (
    Step(
        sqlite=(
            f"""CREATE TABLE audit (
            seq INTEGER PRIMARY KEY,
            call_id TEXT NOT NULL UNIQUE,
            began REAL NOT NULL,
            route TEXT NOT NULL,
            tenant TEXT NOT NULL,
            app TEXT NOT NULL,
            user TEXT NOT NULL,
            key_id TEXT NOT NULL,
            client TEXT NOT NULL,
            model TEXT NOT NULL,
            pool TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            version TEXT NOT NULL,
            prompt_hash TEXT NOT NULL,
            stream INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            tokens_from TEXT NOT NULL,
            bytes_in INTEGER NOT NULL,
            bytes_out INTEGER NOT NULL,
            queued_s REAL NOT NULL,
            first_token_s REAL,
            seconds REAL NOT NULL,
            status INTEGER NOT NULL,
            outcome TEXT NOT NULL
        ){STRICT}""",
            "CREATE INDEX audit_began ON audit (began)",
            f"""CREATE TABLE gaps (
            began REAL NOT NULL,
            ended REAL NOT NULL,
            records INTEGER NOT NULL
        ){STRICT}""",
        ),
        sqlite_back=("DROP TABLE audit", "DROP TABLE gaps"),
        postgres=(
            """CREATE TABLE gemstead_audit (
            chain text NOT NULL,
            seq bigint NOT NULL,
            call_id text NOT NULL,
            began float8 NOT NULL,
            route text NOT NULL,
            tenant text NOT NULL,
            app text NOT NULL,
            "user" text NOT NULL,
            key_id text NOT NULL,
            client text NOT NULL,
            model text NOT NULL,
            pool text NOT NULL,
            endpoint text NOT NULL,
            version text NOT NULL,
            prompt_hash text NOT NULL,
            stream bigint NOT NULL,
            attempts bigint NOT NULL,
            prompt_tokens bigint NOT NULL,
            cached_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            tokens_from text NOT NULL,
            bytes_in bigint NOT NULL,
            bytes_out bigint NOT NULL,
            queued_s float8 NOT NULL,
            first_token_s float8,
            seconds float8 NOT NULL,
            status bigint NOT NULL,
            outcome text NOT NULL,
            PRIMARY KEY (chain, seq)
        )""",
            "CREATE INDEX gemstead_audit_began ON gemstead_audit (began)",
            "CREATE INDEX gemstead_audit_call_id ON gemstead_audit (call_id)",
            """CREATE TABLE gemstead_gaps (
            chain text NOT NULL,
            n bigint NOT NULL,
            began float8 NOT NULL,
            ended float8 NOT NULL,
            records bigint NOT NULL,
            PRIMARY KEY (chain, n)
        )""",
        ),
        postgres_back=("DROP TABLE gemstead_audit", "DROP TABLE gemstead_gaps"),
    ),
    Step(
        sqlite=("ALTER TABLE audit ADD COLUMN reason TEXT NOT NULL DEFAULT ''",),
        sqlite_back=("ALTER TABLE audit DROP COLUMN reason",),
        postgres=("ALTER TABLE gemstead_audit ADD COLUMN reason text NOT NULL DEFAULT ''",),
        postgres_back=("ALTER TABLE gemstead_audit DROP COLUMN reason",),
    ),
    Step(
        sqlite=(
            "ALTER TABLE audit ADD COLUMN link BLOB",
            f"""CREATE TABLE acts (
            seq INTEGER PRIMARY KEY,
            link BLOB NOT NULL,
            act_id TEXT NOT NULL UNIQUE,
            at REAL NOT NULL,
            action TEXT NOT NULL,
            actor TEXT NOT NULL,
            role TEXT NOT NULL,
            tenant TEXT NOT NULL,
            client TEXT NOT NULL,
            target TEXT NOT NULL,
            outcome TEXT NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL,
            detail TEXT NOT NULL
        ){STRICT}""",
            f"""CREATE TABLE chain (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            name TEXT NOT NULL,
            base_seq INTEGER NOT NULL,
            base_link BLOB NOT NULL,
            head_seq INTEGER NOT NULL,
            head_link BLOB NOT NULL
        ){STRICT}""",
            "INSERT INTO chain SELECT 1, lower(hex(randomblob(8))), coalesce(max(seq), 0), randomblob(32), "
            "coalesce(max(seq), 0), x'' FROM audit",
            "UPDATE chain SET head_link = base_link",
            f"CREATE TABLE stubs (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL, link BLOB NOT NULL){STRICT}",
            f"""CREATE TABLE checkpoints (
            seq INTEGER NOT NULL,
            link TEXT NOT NULL,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            signature TEXT NOT NULL,
            PRIMARY KEY (seq, kind, key_id)
        ){STRICT}""",
            f"""CREATE TABLE holds (
            hold_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            since REAL,
            until REAL,
            reason TEXT NOT NULL,
            made REAL NOT NULL,
            released REAL
        ){STRICT}""",
        ),
        sqlite_back=(
            "DROP TABLE acts",
            "DROP TABLE chain",
            "DROP TABLE stubs",
            "DROP TABLE checkpoints",
            "DROP TABLE holds",
            "ALTER TABLE audit DROP COLUMN link",
        ),
        postgres=(
            "ALTER TABLE gemstead_audit ADD COLUMN link bytea",
            """CREATE TABLE gemstead_acts (
            chain text NOT NULL,
            seq bigint NOT NULL,
            link bytea NOT NULL,
            act_id text NOT NULL,
            at float8 NOT NULL,
            action text NOT NULL,
            actor text NOT NULL,
            role text NOT NULL,
            tenant text NOT NULL,
            client text NOT NULL,
            target text NOT NULL,
            outcome text NOT NULL,
            before text NOT NULL,
            after text NOT NULL,
            detail text NOT NULL,
            PRIMARY KEY (chain, seq)
        )""",
            "CREATE INDEX gemstead_acts_at ON gemstead_acts (at)",
            """CREATE TABLE gemstead_chains (
            name text PRIMARY KEY,
            node text NOT NULL,
            base_seq bigint NOT NULL,
            base_link bytea NOT NULL,
            head_seq bigint NOT NULL,
            head_link bytea NOT NULL,
            began float8 NOT NULL,
            seen float8 NOT NULL
        )""",
            """CREATE TABLE gemstead_stubs (
            chain text NOT NULL,
            seq bigint NOT NULL,
            leaf bytea NOT NULL,
            link bytea NOT NULL,
            PRIMARY KEY (chain, seq)
        )""",
            """CREATE TABLE gemstead_checkpoints (
            chain text NOT NULL,
            seq bigint NOT NULL,
            link text NOT NULL,
            at float8 NOT NULL,
            key_id text NOT NULL,
            kind text NOT NULL,
            signature text NOT NULL,
            PRIMARY KEY (chain, seq, kind, key_id)
        )""",
            """CREATE TABLE gemstead_holds (
            hold_id text PRIMARY KEY,
            tenant text NOT NULL,
            since float8,
            until float8,
            reason text NOT NULL,
            made float8 NOT NULL,
            released float8
        )""",
        ),
        postgres_back=(
            "DROP TABLE gemstead_acts",
            "DROP TABLE gemstead_chains",
            "DROP TABLE gemstead_stubs",
            "DROP TABLE gemstead_checkpoints",
            "DROP TABLE gemstead_holds",
            "ALTER TABLE gemstead_audit DROP COLUMN link",
        ),
    ),
    Step(
        sqlite=(
            "ALTER TABLE holds ADD COLUMN by_key TEXT NOT NULL DEFAULT '*'",
            "ALTER TABLE holds ADD COLUMN by_user TEXT NOT NULL DEFAULT '*'",
        ),
        sqlite_back=("ALTER TABLE holds DROP COLUMN by_key", "ALTER TABLE holds DROP COLUMN by_user"),
        postgres=(
            "ALTER TABLE gemstead_holds ADD COLUMN by_key text NOT NULL DEFAULT '*'",
            "ALTER TABLE gemstead_holds ADD COLUMN by_user text NOT NULL DEFAULT '*'",
        ),
        postgres_back=(
            "ALTER TABLE gemstead_holds DROP COLUMN by_key",
            "ALTER TABLE gemstead_holds DROP COLUMN by_user",
        ),
    ),
    Step(
        sqlite=(
            f"""CREATE TABLE ended (
            name TEXT PRIMARY KEY,
            base_seq INTEGER NOT NULL,
            base_link BLOB NOT NULL,
            head_seq INTEGER NOT NULL,
            head_link BLOB NOT NULL
        ){STRICT}""",
        ),
        sqlite_back=("DROP TABLE ended",),
        postgres=(),  # it has a row for each chain anyway
        postgres_back=(),
    ),
)
