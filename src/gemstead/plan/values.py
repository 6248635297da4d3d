"""The values that planning produces: what the machine is, what will run on it, how each process starts.

`plan(spec, ...)` makes a `Plan` of `Replica`s; an engine adapter turns each into a `Launch`; supervision runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it costs the catalogue, which a machine without a GPU does not need
    from gemstead.plan.placement import Placement


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or one slice of a card, that an engine may be given."""

    name: (
        str  # as its driver writes it: "NVIDIA H100 80GB HBM3"; a slice: "NVIDIA H100 80GB HBM3 MIG 1g.20gb"
    )
    vendor: str = "nvidia"  # nvidia | amd | intel
    index: int = 0  # as its driver counts; of a slice: that of its card
    uuid: str = ""  # "GPU-...", "MIG-..."; empty: it is named by its index
    memory_mib: int = 0  # as its driver reports it; 0: not said
    used_mib: int = 0  # by others, now
    cpus: tuple[
        int, ...
    ] = ()  # processors on its side of the machine; empty: it has no sides, or nobody knows

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice, which only its UUID names."""
        return self.uuid.startswith("MIG-")


@dataclass(frozen=True, slots=True)
class Machine:
    """What `operate/probe.py` found. Sizes in bytes."""

    cpus: int  # that this process may use
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    os: str = "linux"
    arch: str = "x86_64"
    gpus: tuple[str, ...] = ()
    cards: tuple[
        Card, ...
    ] = ()  # the same, each as an engine is given it; slices stand for a card that is cut


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter that an engine loads and callers name."""

    name: str
    path: str  # a folder, a GGUF file, or a repository on the hub
    rank: int = 16


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The files of one model on this machine."""

    path: str
    projector: str = ""  # the mmproj GGUF; empty: no images
    demonstration: bool = False
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What an engine is expected to hold and do (`plan/foreseen.py`); 0 is not worked out."""

    kv_tokens: int = 0  # that the cache holds
    cache_tokens: int = 0  # of prompts, that it can find again
    prefill_tokens_s: float = 0.0
    step_s: float = 0.0  # from one token to the next when a request runs alone
    step_slot_s: float = 0.0  # what each further one adds


NOTHING_FORESEEN = Foreseen()


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine process as planned, before an engine adapter has put it into words (`engines/*.py`)."""

    name: str  # unique, such as "gemma-4-e2b-0"
    pool: str
    engine: str  # a key of engines.ENGINES
    model: ModelFile
    context_tokens: int  # per request
    slots: int  # requests served at once
    threads: int
    host: str
    port: int
    thinking: bool = False  # the default when a request does not say
    start_s: float = 1800.0
    log_level: str = "info"
    placement: Placement | None = None  # of an engine that is told in flags; None: the embedded one
    cards: tuple[
        Card, ...
    ] = ()  # that it has to itself, or its share of; empty: none, or whichever there are
    cpus: tuple[int, ...] = ()  # processors to stay on; empty: any
    adapters: tuple[LoraAdapter, ...] = ()
    adapters_on_demand: bool = False
    adapters_most: int = 0  # loaded at once then; 0: all of them
    flags: tuple[str, ...] = ()  # the user's own, each as on a command line
    sleeps: bool = (
        False  # whether it can be put to sleep (vLLM), which opens further doors on its loopback port
    )
    kv_events: str = ""  # folder of sockets at which it says what its prefix cache holds; empty: it does not
    kv_tokens: int = 0  # that the plan expects its cache to hold; 0: not worked out
    foreseen: Foreseen = field(default=NOTHING_FORESEEN, compare=False)  # another estimate is no other engine


@dataclass(frozen=True, slots=True)
class Launch:
    """One engine process: what to start, where it will listen, how to see that it is well.

    Engine output goes to `log`. `env` is added to what an engine may see of the supervisor's environment
    (`engines.surroundings`); a secret in it is masked.
    """

    name: str  # unique, such as "gemma-4-e2b-0"
    pool: str
    engine: str
    argv: tuple[str, ...]
    host: str
    port: int
    env: dict[str, str] = field(default_factory=dict, repr=False)
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    served_model: str = ""
    version: str = ""
    context_tokens: int = 0  # per request
    slots: int = 1  # requests served at once
    api_key: str = field(default="", repr=False)
    start_s: float = 1800.0  # allowance from start to ready
    demonstration: bool = False
    cpus: tuple[int, ...] = ()  # processors that it and its children stay on; empty: any
    afterwards: tuple[
        tuple[str, ...], ...
    ] = ()  # commands to run once it listens (Ollama makes its model then)
    loads: tuple[tuple[str, dict[str, object]], ...] = ()  # requests to send once it is ready: path and body
    kv_tokens: int = 0  # that the plan expects its cache to hold; 0: not worked out
    adapters: dict[str, str] = field(default_factory=dict)  # loaded when calls name them: paths by name
    adapters_most: int = 0  # of these at once; 0: all of them
    kv_events: str = ""  # ZeroMQ address of what it says of its prefix cache; empty: it says nothing
    kv_replay: str = ""
    foreseen: Foreseen = NOTHING_FORESEEN
    thinking: bool = False  # whether the model thinks when a request does not say
    thinking_set: bool = True  # the engine is started so; Ollama has to be told in each request
    draft_tokens: int = 0  # that a drafter writes ahead; 0: none
    engine_version: str = ""  # "0.32.0"; empty: the one that Gemstead brings, or not known


@dataclass(frozen=True, slots=True)
class Plan:
    """What this machine will run for a spec."""

    replicas: tuple[Replica, ...]
    notes: tuple[str, ...] = ()  # sentences for the user: what was decided and why
