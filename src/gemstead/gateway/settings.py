"""What a gateway worker is told: plain values, resolved from the Spec by `wiring`, sent as one JSON line.

A worker never reads gemstead.yaml and never imports pydantic. A reload is a new `GatewaySettings`.
"""

from __future__ import annotations

import msgspec

from gemstead.gateway.issuers import Identity
from gemstead.ledger.audit import HashKey
from gemstead.traffic.budget import RuleBook
from gemstead.traffic.caller import RateLimit
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.queue import QueueBounds
from gemstead.traffic.rules import Rule


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. Towards the engine first, towards the client second."""

    connect_s: float = 5.0
    first_token_s: float = 600.0  # until the first byte of the answer; long prefill and thinking are normal
    between_tokens_s: float = 120.0
    total_s: float = 3600.0
    keep_alive_comment_s: float = 15.0  # a silent stream gets an SSE comment this often
    client_header_s: float = 10.0  # from the first byte of a request to the end of its headers
    client_body_s: float = 30.0  # longest pause inside a request body
    client_idle_s: float = 75.0  # an idle kept-alive connection
    client_write_s: float = 60.0  # longest time a client may accept nothing while we hold bytes for it
    drain_s: float = 60.0
    upstream_idle_s: float = 4.0  # idle engine connections are dropped; below vLLM's keep-alive of 5 s


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, counts otherwise."""

    header_bytes: int = 65_536
    body_bytes: int = 33_554_432
    connections: int = 10_000
    write_buffer_bytes: int = 262_144  # held for one client that reads slowly
    upstream_idle: int = 256  # idle connections kept per endpoint


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    certificate: str  # path of a PEM chain
    key: str  # path
    client_ca: str = ""  # path; set: client certificates are asked for
    client_required: bool = False


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Which media the gateway fetches for callers (fetch.py), and how much of them."""

    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # that are not public, and may be asked all the same
    plain_http: bool = False
    ca: str = ""  # path of a PEM file of authorities; "": the system's
    each_bytes: int = 16 << 20
    total_bytes: int = 24 << 20
    most: int = 16  # media of one request
    redirects: int = 3
    timeout_s: float = 20.0  # for all of one request
    concurrent: int = 8  # calls of one worker


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A model that callers can name."""

    name: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()  # LoRA adapters of the model; callers name them like models
    created: int = 0  # Unix seconds, for /v1/models
    owned_by: str = "google"
    context_tokens: int = 0  # longest prompt plus answer; 0: unknown, or what the endpoints say
    sticky: bool = False  # while a rollout divides the calls, a caller stays with one release


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """The process beside the gateway that keeps files and batches (passage.py), and its way back in."""

    host: str
    port: int
    secret: str  # both ways
    body_bytes: int = 201 << 20  # of an upload, with its form around it
    inner_port: int = 0  # on loopback, without TLS, where that process calls; 0: it calls at the usual port

    def __repr__(self) -> str:  # holds a secret
        return f"Aside({self.host}:{self.port})"


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """How this gateway tells others what it has in flight (sharing.py)."""

    store: str  # URL
    secret: str
    heads_kib_s: int = 64  # of hashes of prompts; 0: none

    def __repr__(self) -> str:  # holds secrets
        return f"Sharing(heads_kib_s={self.heads_kib_s})"


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 4367
    workers: int = 1
    pools: tuple[Pool, ...] = ()
    endpoints: tuple[EndpointFacts, ...] = ()
    keys_required: bool = True
    keys_path: str = ""  # the SQLite file of keys
    keys_most_age_s: float = 0.0  # since they were last known to be the store's; 0: they count however old
    ledger_path: str = ""  # the SQLite file of audit records; empty: none are kept (benchmarks only)
    ledger_most_bytes: int = 0  # size at which that file counts as full; 0: only the disk's
    ledger_on_error: str = "allow"  # or "refuse": what happens to calls while records cannot be written
    hash_key: str = ""  # hex; for prompt hashes, where hash_keys says nothing
    hash_keys: tuple[HashKey, ...] = ()  # generations of it, the latest last
    pepper: str = ""  # hex; for key hashes
    limit: RateLimit = RateLimit()
    rulebook: RuleBook = RuleBook()  # how much who may use
    limit_store: str = ""  # URL of the counters that several gateways share; "": the head keeps them
    limit_on_error: str = "refuse"  # or "allow", "local": calls while that store does not answer
    deadlines: Deadlines = Deadlines()
    bounds: Bounds = Bounds()
    tls: Tls | None = None
    aside: Aside | None = None
    identity: Identity = Identity()  # who else may call, and the roles of the file
    cors_origins: tuple[str, ...] = ()
    media: str = "refuse"  # addresses of media in requests; or "fetch": we do; "engine": the engine may
    fetch: Fetch = msgspec.field(default_factory=Fetch)
    # Of each model's waiting calls, in each worker. Made anew: compiled, a Struct does not know that it is frozen.
    queue: QueueBounds = msgspec.field(default_factory=lambda: QueueBounds(starting_wait_s=120.0))
    weights: dict[str, float] = {}  # of tenants in the queue; 1 where none is given
    aims: dict[str, float] = {}  # seconds after which a tenant's waiting call is of no use; "" for all others
    routing: tuple[Rule, ...] = ()  # the first that is for a call counts
    region: str = ""  # of endpoints that say none
    regions: dict[str, str] = {}  # by tenant: where its calls have to stay
    policy: str = ""  # a key of traffic.policies.POLICIES; "": the product's own
    sharing: Sharing | None = None  # with other gateways; from the start of the process on
    hedge: bool = False  # second copies of late calls
    retries: int = 2  # further endpoints tried before the first byte
    vertex: tuple[str, ...] = ()  # Vertex AI's predict and health routes; none: it does not call here

    def __repr__(self) -> str:  # holds secrets
        return f"GatewaySettings({self.host}:{self.port} pools={[pool.name for pool in self.pools]})"
