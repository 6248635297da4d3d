"""The `ledger` section: what must survive a restart, and whether several gateways share it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gemstead.spec.part import FilePath, Name, Part, SecretRef


class LedgerSpec(Part):
    """What must survive a restart: keys, audit records, usage."""

    path: FilePath | None = Field(None, description="Folder of the ledger; default: `state_dir`")
    on_error: Literal["allow", "refuse"] = Field(
        "allow",
        description="Calls while audit records cannot be written (disk full): served and kept in "
        "memory, or refused",
    )
    store: SecretRef | None = Field(
        None,
        description="PostgreSQL that several gateways share, as a reference to a `postgresql://` URL; default: SQLite "
        "files of this gateway alone. Needs `gemstead[postgres]`; see docs/store.md",
        examples=["env:GEMSTEAD_STORE_URL"],
    )
    secret: SecretRef | None = Field(
        None,
        description="What seals the secrets that are kept in the store (of key hashes, prompt hashes and signatures), "
        "as a reference to a text of at least 32 characters; the same for all gateways",
        examples=["env:GEMSTEAD_STORE_SECRET"],
    )
    node: Name | None = Field(
        None, description="What this gateway is called in the store; default: the name of its machine"
    )
    spool_mib: int = Field(
        4096,
        ge=16,
        le=1_048_576,
        description="Most disk for audit records that the store does not have yet; when it is full, `on_error` says "
        "what becomes of calls",
    )

    stale_keys: Literal["serve", "refuse"] = Field(
        "serve",
        description="Callers while the store is away longer than `stale_keys_after_s`, so that keys may have been "
        "revoked unheard: served with the keys last known, or refused",
    )
    stale_keys_after_s: float = Field(
        3600.0,
        ge=5,
        le=31_536_000,
        description="How long keys last known count while the store is away, with `stale_keys: refuse`",
    )

    @model_validator(mode="after")
    def _whole(self) -> LedgerSpec:
        if (self.store is None) != (self.secret is None):
            raise ValueError("`store` and `secret` go together: give both, or neither")
        if self.stale_keys == "refuse" and self.store is None:
            raise ValueError("`stale_keys` is about a `store`, and there is none: leave it out")
        return self
