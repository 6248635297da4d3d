"""An endpoint is one engine process (or one engine that someone else runs) that can take calls.

`EndpointFacts` come from outside (the file, the supervisor); `Load` comes from the engine's own metrics;
what the gateway itself has in flight is counted here, because it is the first and the freshest signal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


class EndpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about an endpoint before any call. Sent to gateway workers as JSON."""

    name: str
    pool: str  # the model name that this endpoint serves; endpoints of one pool are interchangeable
    host: str
    port: int
    tls: bool = False
    base_path: str = ""  # put before every path, such as "/openai" for an engine behind a prefix
    engine: str = "external"  # a key of engines.ENGINES
    served_model: str = ""  # the name that the engine itself uses; empty: whatever the caller wrote
    version: str = ""  # model revision or file, for the audit record
    context_tokens: int = 0  # longest prompt plus answer; 0 is unknown
    api_key: str = ""  # what the engine wants as bearer token; never shown
    ready: bool = True
    draining: bool = False

    def __repr__(self) -> str:
        return f"EndpointFacts({self.name} {self.pool} {self.host}:{self.port} ready={self.ready})"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine last said about itself. Missing figures are None: they are never a silent zero."""

    at: float  # monotonic seconds of the scrape
    running: int | None = None
    waiting: int | None = None
    kv_used: float | None = None  # a share, 0 to 1


@dataclass(slots=True, eq=False)
class Endpoint:
    """An endpoint as one gateway worker sees it. Mutable: counters move with every call."""

    facts: EndpointFacts
    load: Load | None = None
    in_flight: int = 0
    prefill_tokens: int = 0  # prompt tokens sent and not yet answered with a first token
    served: int = 0
    failures: int = 0
    breaker: object = field(default=None, repr=False)  # traffic.breaker.Breaker

    @property
    def name(self) -> str:
        return self.facts.name
