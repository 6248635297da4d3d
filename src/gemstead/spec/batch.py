"""`batch:` in gemstead.yaml: what is kept and run when nobody waits for it."""

from __future__ import annotations

from pydantic import Field

from gemstead.spec.part import FilePath, Part


class BatchSpec(Part):
    """Offline batches: `/v1/files`, `/v1/batches` and `gemstead batch`."""

    enabled: bool = Field(True, description="`false`: files and batches are not offered")
    path: FilePath | None = Field(
        None, description="Folder of files and results; default: `batch` in `state_dir`"
    )
    concurrency: int = Field(
        32, ge=1, le=1024, description="Most lines that run at once; fewer while others call"
    )
    priority: int = Field(
        -1, ge=-100, le=0, description="Of every line; below zero is turned away while the model is busy"
    )
    window_h: int = Field(24, ge=1, le=720, description="Longest completion window that may be asked for")
    file_mib: int = Field(200, ge=1, le=10_240, description="Largest file that may be uploaded (then 413)")
    store_mib: int = Field(
        20_480,
        ge=1,
        le=16_777_216,
        description="Most that the files of all callers may take together in a shared `ledger.store` (then 507)",
    )
    lines: int = Field(50_000, ge=1, le=5_000_000, description="Most lines of one batch")
    retries: int = Field(
        3, ge=0, le=20, description="Further tries of a line that failed; a busy model costs none"
    )
    retention_days: int = Field(
        30, ge=1, le=3650, description="Files and ended batches are removed after this"
    )
