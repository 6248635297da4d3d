"""One record for every call, whatever happened to it, and one `Act` for every administrative act. Never content.

The exchange fills one `AuditRecord` and hands it over once. The audit log, the metrics, the usage report and
the bill are all read from this record.

Both are sealed into the hash chain (`chain.py`) as JSON without the fields that have their default value. So a field
that is added later needs a default, and a default never changes.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec


class AuditRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
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
    prompt_hash: str = ""  # "hmac-sha256:" + id of the key + ":" + hex; see PromptHashers
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


class Act(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Who changed what: keys, settings, engines, logins. Never a secret: what was and what is are given as hashes."""

    act_id: str
    at: float  # wall clock, Unix seconds
    action: str  # noun and verb, such as "key.create", "config.reload", "model.scale", "login"
    actor: str = (
        ""  # "user:" + name in the directory, "key:" + id, "os:" + user of this machine, "gemstead" itself
    )
    role: str = ""  # by which the actor might
    tenant: str = ""
    client: str = ""  # the peer's address; "" for the machine itself
    target: str = ""  # what was acted on, such as a key's id or a model's name
    outcome: str = "done"  # or "refused", "failed"
    before: str = ""  # "sha256:" + hex of what was, where that means something
    after: str = ""
    detail: str = ""  # further values as a JSON object, such as {"replicas":3}


KEY_ID_FIRST = "1"
SEEN = "identity.seen"  # the act that notes what somebody may do who came by a token or certificate


class HashKey(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of the secret behind prompt hashes. `tenant`: only for that one; "": for all others."""

    id: str
    secret: str  # hex
    tenant: str = ""

    def __repr__(self) -> str:
        return f"HashKey({self.id})"


class PromptHashers:
    """The keyed hash of prompts, by tenant. Keyed, because a bare hash of a short prompt can be guessed, and by tenant,
    so that nobody learns from hashes who else has sent the same.

    A tenant's key is HMAC-SHA256(secret of the generation, "tenant:" + name). The value names the generation.
    """

    MOST = 10_000  # tenants that are remembered

    def __init__(self, keys: tuple[HashKey, ...]) -> None:
        """Later keys come before earlier ones; the last for "" counts for tenants without one.

        Raises:
            ValueError: a secret is no hexadecimal.
        """
        self._keys = {key.tenant: (key.id, bytes.fromhex(key.secret)) for key in keys}
        self._hashers: dict[str, PromptHasher] = {}

    def hash(self, prompt: bytes, tenant: str) -> str:
        """`hmac-sha256:`, the key's id, `:` and 64 hex digits."""
        hasher = self._hashers.get(tenant)
        if hasher is None:
            hasher = self._made(tenant)
        return hasher.hash(prompt)

    def _made(self, tenant: str) -> PromptHasher:
        if len(self._hashers) >= self.MOST:
            self._hashers.clear()
        hasher = hasher_of(*(self._keys.get(tenant) or self._keys[""]), tenant)
        self._hashers[tenant] = hasher
        return hasher


def hasher_of(key_id: str, secret: bytes, tenant: str) -> PromptHasher:
    """The tenant's hasher under a generation's secret."""
    name = f"tenant:{tenant}".encode("utf-8", "surrogatepass")
    return PromptHasher(hmac.digest(secret, name, "sha256"), key_id)


class PromptHasher:
    """HMAC-SHA256 (RFC 2104) under one key.

    The two keyed halves are prepared once, which makes a short prompt twice as cheap as `hmac.digest`.
    """

    def __init__(self, key: bytes, key_id: str = KEY_ID_FIRST) -> None:
        if len(key) > 64:
            key = hashlib.sha256(key).digest()
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self._said = f"hmac-sha256:{key_id}:"

    def hash(self, prompt: bytes) -> str:
        """`hmac-sha256:`, the key's id, `:` and 64 hex digits."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(prompt)
        outer.update(inner.digest())
        return self._said + outer.hexdigest()
