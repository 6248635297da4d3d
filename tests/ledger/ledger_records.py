"""Records for the tests of the ledger."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from gemstead.ledger.audit import AuditRecord

BEGAN = 1_800_000_000.0


def record(number: int = 0, **values: object) -> AuditRecord:
    """A served call, told apart by its number."""
    fields: dict[str, object] = {
        "call_id": f"call-{number:06d}",
        "began": BEGAN + number,
        "route": "/v1/chat/completions",
        "tenant": "acme",
        "key_id": "gms_abcdefgh",
        "model": "gemma4:e2b",
        "pool": "gemma-4-e2b",
        "endpoint": "gemma-4-e2b-0",
        "stream": True,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 20,
        "first_token_s": 0.25,
        "seconds": 1.5,
        "status": 200,
        "outcome": "served",
    }
    return AuditRecord(**{**fields, **values})  # type: ignore[arg-type]


def call_ids(path: Path) -> list[str]:
    """What the file holds, in the order of writing."""
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT call_id FROM audit ORDER BY seq")]
    finally:
        connection.close()


def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    """Waits for something that another thread or process does."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
