"""The words that the head process and its gateway workers exchange: one JSON object per line, over a socket pair.

Head to worker: `Configure` (first, and at each reload), `Fleet` (endpoints changed), `Loads` (engine figures),
`SigningKeys` (issuers' keys, when they changed or were asked for), `Report` (asks for a `Figures` at once), `Drain`.
Worker to head: `Listening`, `Figures` (its metrics, each second and when asked), `Drained`, `Trouble`,
`Needed`, `UnknownKey`, `CallerSeen`.
"""

from __future__ import annotations

import msgspec

from gemstead.gateway.issuers import Came, Signing
from gemstead.gateway.settings import GatewaySettings
from gemstead.traffic.endpoint import EndpointFacts, Load
from gemstead.traffic.hold import Crossed
from gemstead.traffic.window import Batch, Cap, Grant


class Configure(msgspec.Struct, tag="configure"):
    settings: GatewaySettings


class Fleet(msgspec.Struct, tag="fleet"):
    endpoints: tuple[EndpointFacts, ...]


class Loads(msgspec.Struct, tag="loads"):
    loads: dict[str, Load]  # by endpoint name


class SigningKeys(msgspec.Struct, tag="signing_keys"):
    issuers: dict[str, Signing]  # by the issuer's name


class Report(msgspec.Struct, tag="report"):
    number: int = 0  # echoed in Figures
    limits: bool = False  # also say what its calls hold of limits


class Drain(msgspec.Struct, tag="drain"):
    pass


class Listening(msgspec.Struct, tag="listening"):
    host: str
    port: int
    pid: int


class Held(msgspec.Struct, array_like=True):
    """What one worker has of a limit."""

    cap: Cap
    held: int  # by calls that run
    ahead: int = 0  # taken from the store, and lying here for the next calls
    used: int = -1  # worked out here, where no store counts; -1: the store knows


class Figures(msgspec.Struct, tag="figures"):
    """A worker's metrics since its start (observe.metrics.Registry.snapshot)."""

    number: int
    snapshot: dict[str, dict[str, list[float]]]
    in_flight: dict[str, int]  # by endpoint name
    waiting: dict[str, int] = {}  # calls that wait, by model; none: not there
    limits: list[Held] = []  # only when asked for
    adapters: dict[
        str, list[str]
    ] = {}  # used since the last time, by endpoint, where they are loaded on demand


class Drained(msgspec.Struct, tag="drained"):
    unfinished: int


class Trouble(msgspec.Struct, tag="trouble"):
    """Something an operator should see: a refused setting, a ledger that cannot be written."""

    message: str


class Needed(msgspec.Struct, tag="needed"):
    """A call has come for a model that sleeps."""

    pool: str


class NeedAdapter(msgspec.Struct, tag="need_adapter"):
    """Calls wait for an adapter, or would be answered sooner if one more engine had it."""

    pool: str
    adapter: str


class AdapterFailed(msgspec.Struct, tag="adapter_failed"):
    """An adapter that calls wait for cannot be loaded."""

    pool: str
    adapter: str
    why: str


class UnknownKey(msgspec.Struct, tag="unknown_key"):
    """A token is signed with a key that the issuer did not have when its keys were last fetched."""

    issuer: str
    kid: str = ""


class CallerSeen(msgspec.Struct, tag="caller_seen"):
    """Somebody came by a token or certificate: for the first time today, or with other roles than before."""

    came: Came


class Take(msgspec.Struct, tag="take"):
    """What a worker wants of the counters that the head keeps."""

    batch: Batch


class Given(msgspec.Struct, tag="given"):
    """The answer to the batch of that number."""

    number: int
    grants: list[Grant]


class BudgetCrossed(msgspec.Struct, tag="budget_crossed"):
    """A budget has come to a share of its limit."""

    crossed: Crossed


ToWorker = AdapterFailed | Given | Configure | Fleet | Loads | SigningKeys | Report | Drain
ToHead = (
    NeedAdapter
    | Take
    | BudgetCrossed
    | Listening
    | Figures
    | Drained
    | Trouble
    | Needed
    | UnknownKey
    | CallerSeen
)
