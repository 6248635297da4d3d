"""What a gateway worker is told of an endpoint: facts from outside, and what an engine last said about itself.

A module of its own, because it must not be compiled: both are decoded from messages, and mypyc keeps no annotation such
as `int | None`, so that every worker would refuse every message. `tests/packaging/test_compiled_messages.py` watches.
"""

from __future__ import annotations

import msgspec


class EngineTls(msgspec.Struct, frozen=True, kw_only=True):
    """Files of mutual TLS with an engine; empty ones are not used."""

    ca: str = ""  # who signed the engine's certificate
    certificate: str = ""  # what the gateway shows
    key: str = ""


class EndpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about an endpoint before any call. Sent to gateway workers as JSON."""

    name: str
    pool: str  # the model name that this endpoint serves; endpoints of one pool are interchangeable
    host: str
    port: int
    tls: bool = False
    tls_name: str = ""  # whom its certificate names, where `host` is one address of many; empty: the host
    tls_files: EngineTls | None = None
    base_path: str = ""  # put before every path, such as "/openai" for an engine behind a prefix
    engine: str = "external"  # a key of engines.ENGINES
    served_model: str = ""  # the name that the engine itself uses; empty: whatever the caller wrote
    version: str = ""  # model revision or file, for the audit record
    release: str = ""  # which release of its pool it runs; a rollout divides the calls between releases
    weight: float = 1.0  # its part of the pool's calls beside the others'; all alike: whoever is freest
    context_tokens: int = 0  # longest prompt plus answer; 0 is unknown
    region: str = ""  # where it is; a tenant's calls may have to stay there
    slots: int = 0  # requests that the engine runs at once; 0 is unknown
    knee: int = 0  # how many of them are worth running, where a plan has said so; 0: by the figures below
    # What the plan foresees; 0 is unknown. The picker begins with these and learns the real ones.
    kv_tokens: int = 0  # tokens that the KV cache holds
    cache_tokens: int = 0  # prompt tokens that it can still find afterwards; 0: as many as kv_tokens
    prefill_tokens_s: float = 0.0  # prompt tokens per second while prefilling
    decode_step_s: float = 0.0  # seconds from one token to the next when a request runs alone
    decode_step_slot_s: float = 0.0  # what each further running request adds to that
    adapters: tuple[str, ...] | None = None  # it has now, where loaded on demand; None: all of its model's
    kv_events: str = (
        ""  # ZeroMQ address at which it says what its prefix cache stores and drops; empty: it does not
    )
    kv_replay: str = ""  # address at which it says again what was missed
    api_key: str = ""  # what the engine wants as bearer token; never shown
    ready: bool = True
    draining: bool = False
    asleep: bool = False  # or being woken: calls wait for it (gateway/waitroom.py)
    thinking: bool = False  # whether the model thinks when a request does not say
    thinking_set: bool = False  # the engine was started so; else a request has to be told

    def __repr__(self) -> str:
        return f"EndpointFacts({self.name} {self.pool} {self.host}:{self.port} ready={self.ready})"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's figures. Missing ones are None: they are never a silent zero."""

    at: float  # monotonic seconds of the scrape
    running: int | None = None
    waiting: int | None = None
    kv_used: float | None = None  # a share, 0 to 1
    adapters: tuple[str, ...] | None = None  # LoRA adapters that are loaded now
