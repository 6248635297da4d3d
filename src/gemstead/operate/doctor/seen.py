"""What was seen of a machine. None means that it could not be seen, which is not the same as none.

Sizes in bytes unless the name says otherwise; times in seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card as its driver describes it."""

    index: int
    name: str
    vendor: str  # nvidia or amd
    uuid: str = ""
    bus: str = ""  # PCI address as the kernel writes it: 0000:65:00.0
    memory_mib: int | None = None
    used_mib: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    pcie_gen: int | None = None
    pcie_gen_most: int | None = None
    pcie_width: int | None = None
    pcie_width_most: int | None = None
    throttled: tuple[
        str, ...
    ] = ()  # of: "hw thermal", "sw thermal", "power brake", "hw slowdown", "power cap"
    ecc: bool | None = None
    ecc_uncorrected: int | None = None  # since the driver was loaded
    ecc_corrected: int | None = None
    remap_pending: bool = False
    remap_failed: bool = False
    mig: bool = False
    persistence: bool | None = None
    processes: tuple[str, ...] = ()
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Gpus:
    """Every card of one vendor, with its driver."""

    vendor: str
    driver: str
    runtime: str  # the newest CUDA that the driver runs; ROCm's driver says nothing
    cards: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class Xid:
    """One line of NVIDIA's driver in the kernel's log."""

    code: int
    bus: str
    line: str


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that models are kept on."""

    folder: str
    free: int
    kind: str = ""  # file system, as the kernel names it
    read_bytes_s: float | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime."""

    name: str  # docker or podman
    answers: bool  # whether its service answers us
    gpus: bool | None  # whether it can hand cards to containers
    said: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """An address that the service wants."""

    address: str
    free: bool
    ours: bool = False  # the service itself holds it
    said: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """The place that models come from."""

    endpoint: str
    wanted: bool  # false: the file or the environment says offline
    resolves: bool | None = None
    status: int | None = None
    date: float | None = None  # its clock
    asked_at: float | None = None  # ours
    seconds: float | None = None
    said: str = ""
    token: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that the file names."""

    path: str
    until: float | None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is installed here."""

    name: str  # a key of engines
    version: str
    where: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One machine."""

    now: float
    os: str
    arch: str
    cpus: int
    memory: int
    memory_free: int
    numa_nodes: int = 1
    shared_memory: int | None = None  # size of /dev/shm
    gpus: tuple[Gpus, ...] = ()
    gpu_trouble: str = ""  # a card is in the machine, and its tool does not answer
    topology: tuple[tuple[str, ...], ...] = ()  # links between cards, as `nvidia-smi topo -m` writes them
    xids: tuple[Xid, ...] | None = None
    disk: Disk | None = None
    runtimes: tuple[Runtime, ...] = ()
    ports: tuple[Port, ...] = ()
    hub: Hub | None = None
    clock_synchronised: bool | None = None
    certificates: tuple[Certificate, ...] = ()
    engines: tuple[Engine, ...] = ()
    needs: int = 0  # bytes of the models that the file names and the disk does not hold yet
    container: bool = False  # we run in one

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """Every card of every vendor."""
        return tuple(card for gpus in self.gpus for card in gpus.cards)
