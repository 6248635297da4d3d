"""One record for every call, whatever happened to it. It never holds content.

The exchange fills one `AuditRecord` and hands it over once. The audit log, the metrics, the usage report and
the bill are all read from this record.
"""

from __future__ import annotations

import hashlib

import msgspec


class AuditRecord(msgspec.Struct, kw_only=True):
    """Who asked what of which model, and how it ended. Times in seconds; counts in tokens or bytes."""

    call_id: str
    began: float  # wall clock, Unix seconds
    route: str = ""  # such as "/v1/chat/completions"
    tenant: str = ""
    app: str = ""
    user: str = ""
    key_id: str = ""  # the key's public identifier, never the key
    client: str = ""  # the peer's address
    model: str = ""  # as the caller wrote it, cut to 128 characters
    pool: str = ""  # the pool that it was routed to
    endpoint: str = ""
    version: str = ""  # model revision or file that answered
    prompt_hash: str = ""  # "hmac-sha256:" + hex, keyed; see hash_prompt
    stream: bool = False
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    tokens_from: str = ""  # "engine" (its own usage), "counted" (stream events) or "" (none)
    bytes_in: int = 0
    bytes_out: int = 0
    queued_s: float = 0.0
    first_token_s: float | None = None  # from began
    seconds: float = 0.0
    status: int = 0  # HTTP status that the client saw; 0 if it left before one
    outcome: str = ""  # "served", "cut" (the engine died mid-answer), or a Reason's value
    reason: str = (
        ""  # what the operator should know beside the outcome: which engine failed how; never content
    )


class PromptHasher:
    """The keyed hash of prompts: HMAC-SHA256 (RFC 2104). Keyed, because a bare hash of a short prompt can be guessed.

    The two keyed halves are prepared once, which makes a short prompt twice as cheap as `hmac.digest`.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) > 64:
            key = hashlib.sha256(key).digest()
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def hash(self, prompt: bytes) -> str:
        """`hmac-sha256:` and 64 hex digits."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(prompt)
        outer.update(inner.digest())
        return "hmac-sha256:" + outer.hexdigest()
