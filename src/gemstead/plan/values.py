"""The values that planning produces: what the machine is, what will run on it, how each process starts.

`plan(spec, ...)` makes a `Plan` of `Replica`s; an engine adapter turns each into a `Launch`; supervision runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The files of one model on this machine."""

    path: str
    projector: str = ""  # the mmproj GGUF; empty: no images
    demonstration: bool = False
    bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class Launch:
    """One engine process: what to start, where it will listen, how to see that it is well.

    Engine output goes to `log`. `env` is added to the supervisor's environment; a secret in it is masked.
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What this machine will run for a spec."""

    replicas: tuple[Replica, ...]
    notes: tuple[str, ...] = ()  # sentences for the user: what was decided and why
