"""An endpoint is one engine process (or one engine that someone else runs) that can take calls.

`EndpointFacts` come from outside (the file, the supervisor); `Load` comes from the engine's own metrics;
what the gateway itself has in flight is counted here, because it is the first and the freshest signal.

The picker looks at every endpoint of a pool for every call, so whatever can be worked out when a figure
changes is worked out then: `busy`, `open_from` and `well_until` are one comparison each.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

from gemstead.traffic.breaker import CLOSED, Breaker

if TYPE_CHECKING:
    from gemstead.traffic.call import Call
    from gemstead.traffic.roster import Roster

STALE_S = 5.0  # a load older than this says nothing; five missed scrapes at one per second
KV_FULL = 0.8  # KV share at which GIE's and llm-d's saturation detector call a server full
# So many tokens of prefill weigh as much as one more call in flight. Dynamo's KV router weighs a token to be
# prefilled like one of a running sequence (cost = prefill + decode blocks); 512 is a short chat's context.
CALL_TOKENS = 512
CALLS_PER_TOKEN = 1 / CALL_TOKENS
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
    release: str = ""  # which release of its pool it runs; a rollout divides the calls between releases
    weight: float = 1.0  # its part of the pool's calls beside the others'; all alike: whoever is freest
    context_tokens: int = 0  # longest prompt plus answer; 0 is unknown
    slots: int = 0  # requests that the engine runs at once; 0 is unknown
    # What the plan foresees; 0 is unknown. The picker begins with these and learns the real ones.
    kv_tokens: int = 0  # tokens that the KV cache holds
    prefill_tokens_s: float = 0.0  # prompt tokens per second while prefilling
    decode_step_s: float = 0.0  # seconds from one token to the next when a request runs alone
    decode_step_slot_s: float = 0.0  # what each further running request adds to that
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
    adapters: tuple[str, ...] | None = None  # LoRA adapters that are loaded now


class Endpoint:
    """An endpoint as one gateway worker sees it. Mutable: counters move with every call.

    `facts`, `load` and `breaker` are replaced whole; what follows from them for the picker is worked out then.
    The counters move only through `Picker.charge`, `Picker.first_token` and `Picker.settle`.
    """

    __slots__ = (
        "_breaker",
        "_facts",
        "_load",
        "busy",
        "elsewhere",
        "failures",
        "in_flight",
        "name",
        "open_from",
        "prefill_tokens",
        "probe",
        "roster",
        "served",
        "well_until",
    )

    def __init__(self, facts: EndpointFacts, load: Load | None = None) -> None:
        self.name = facts.name  # the facts may be replaced, the name stays
        self.in_flight = 0
        self.prefill_tokens = 0  # prompt tokens sent and not yet answered with a first token
        self.served = 0
        self.failures = 0
        self.roster: Roster | None = None  # told when what may be sent here changes
        self.probe: Call | None = None  # the call that tries whether the engine is back
        self.elsewhere = 0.0  # what the last load adds to our own count, in calls
        self.busy = 0.0  # all of it together, in calls: what one more call would find here
        self.open_from = -inf  # calls may be sent from this time on
        self.well_until = inf  # the last load is fresh and good until then; no load was ever bad
        self._facts = facts
        self._load: Load | None = None
        self._breaker = CLOSED
        self.facts = facts
        if load is not None:
            self.load = load

    def __repr__(self) -> str:
        return f"Endpoint({self.name} in_flight={self.in_flight} breaker={self._breaker.state})"

    @property
    def facts(self) -> EndpointFacts:
        return self._facts

    @facts.setter
    def facts(self, facts: EndpointFacts) -> None:
        self._facts = facts
        self.open_from = self._breaker.shut_until if self.takes_calls else inf
        if self.roster is not None:
            self.roster.revise()

    @property
    def takes_calls(self) -> bool:
        """Whether the engine is ready and not draining, whatever its breaker says."""
        return self._facts.ready and not self._facts.draining

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @breaker.setter
    def breaker(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.open_from = breaker.shut_until if self.takes_calls else inf
        if self.roster is not None:
            self.roster.revise()

    @property
    def load(self) -> Load | None:
        return self._load

    @load.setter
    def load(self, load: Load | None) -> None:
        """Take in what the engine says. An older load than the last one is passed over."""
        if load is not None and self._load is not None and load.at < self._load.at:
            return
        self._load = load
        self.elsewhere, self.well_until = 0.0, inf
        if load is not None:
            running, waiting = load.running or 0, load.waiting or 0
            self.elsewhere = max(0, running + waiting - self.in_flight) + waiting + kv_pressure(load.kv_used)
            self.well_until = load.at + STALE_S if (load.kv_used or 0.0) < KV_FULL else -inf
        self.weigh()
        if self.roster is not None:
            self.roster.revise()

    def is_stale(self, now: float) -> bool:
        """Whether the engine once offered metrics and has been silent for `STALE_S`."""
        return self._load is not None and now >= self._load.at + STALE_S

    def weigh(self) -> None:
        """Work out `busy` anew, after a counter has moved."""
        self.busy = self.in_flight + self.prefill_tokens * CALLS_PER_TOKEN + self.elsewhere


def kv_pressure(kv_used: float | None) -> float:
    """How much a filling KV cache weighs, in calls: nothing when empty, 1 at a half, 9 at nine tenths.

    The shape u/(1-u) is the mean wait of a queue at utilisation u: small until the cache is nearly full,
    where an engine starts to preempt.
    """
    if kv_used is None:
        return 0.0
    used = min(max(kv_used, 0.0), KV_MOST)
    return used / (1.0 - used)
