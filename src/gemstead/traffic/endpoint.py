"""An endpoint is one engine process (or one engine that someone else runs) that can take calls.

`EndpointFacts` come from outside (the file, the supervisor); `Load` comes from the engine's own metrics;
what the gateway itself has in flight is counted here, because it is the first and the freshest signal.

The picker looks at every endpoint of a pool for every call, so what it needs from a `Load` is worked out
once, when the load arrives: `elsewhere` (work that did not come through this gateway worker) and
`fresh_until`. Nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import msgspec

from gemstead.traffic.breaker import CLOSED, Breaker

if TYPE_CHECKING:
    from gemstead.traffic.call import Call

STALE_S = 5.0  # a load older than this says nothing; five missed scrapes at one per second
KV_MOST = 0.95  # above this share `kv_pressure` stops growing, so that one figure cannot drown all others


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
    slots: int = 0  # requests that the engine runs at once; 0 is unknown
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
    """An endpoint as one gateway worker sees it. Mutable: counters move with every call.

    Loads are taken in through `observe`; in-flight figures move only through `Picker.charge`,
    `Picker.first_token` and `Picker.settle`.
    """

    facts: EndpointFacts
    load: Load | None = None
    in_flight: int = 0
    prefill_tokens: int = 0  # prompt tokens sent and not yet answered with a first token
    served: int = 0
    failures: int = 0
    breaker: Breaker = CLOSED
    name: str = field(init=False)  # as in the facts, which may be replaced but never renamed
    elsewhere: float = 0.0  # what the last load adds to our own count, in calls
    fresh_until: float = inf  # an engine that never offered metrics is never stale
    probe: Call | None = field(default=None, repr=False)  # the call that tries whether the engine is back

    def __post_init__(self) -> None:
        self.name = self.facts.name
        if self.load is not None:
            self.observe(self.load)

    def observe(self, load: Load) -> None:
        """Take in what the engine says. A load that is older than the last one is passed over."""
        if self.load is not None and load.at < self.load.at:
            return
        self.load = load
        self.fresh_until = load.at + STALE_S
        known = (load.running or 0) + (load.waiting or 0)
        self.elsewhere = max(0, known - self.in_flight) + (load.waiting or 0) + kv_pressure(load.kv_used)


def kv_pressure(kv_used: float | None) -> float:
    """How much a filling KV cache weighs, in calls: nothing when empty, 1 at a half, 9 at nine tenths.

    The shape u/(1-u) is the mean wait of a queue at utilisation u: small until the cache is nearly full,
    where an engine starts to preempt.
    """
    if kv_used is None:
        return 0.0
    used = min(max(kv_used, 0.0), KV_MOST)
    return used / (1.0 - used)
