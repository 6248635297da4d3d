"""What a target renders: the plan for somewhere else, with everything that is said in files and nothing that is not.

A `Deployment` is made once from the one file (`wiring/deployment.py`) and handed to every target, so that Compose and
Kubernetes disagree in form only. Figures that were decided carry their reason (`Because`). One `Pool` is one model's
replicas, all alike; the gateway stands before all pools.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gemstead.engines.flag import Command
from gemstead.plan.layout import Layout
from gemstead.plan.placement import Placement
from gemstead.plan.setup import GIB, Setup
from gemstead.plan.startup import Startup
from gemstead.render.because import Because
from gemstead.render.images import Digests, Image, chosen
from gemstead.spec.deploy import DeploySpec
from gemstead.spec.model import ModelSpec, Spec

GATEWAY_PORT, ADMIN_PORT, ENGINE_PORT = 4367, 4368, 8000
CPU_CORES = (
    8  # of a replica that computes on the processor; llama.cpp gains little beyond its memory channels
)
CPU_OF_GPU = (
    8  # processor cores for each card: tokenising and the step loop; published vLLM charts ask for 4 to 12
)
SHM_GIB_A_CARD = 4  # ranks of one replica talk through shared memory; Docker's own 64 MiB hangs NCCL
CACHE_SPARE = 1.25  # room for a second revision's changed shards beside the first while it is changed


@dataclass(frozen=True, slots=True)
class Needs:
    """What one replica asks of its host. Sizes in whole GiB."""

    cpus: Because
    memory_gib: Because
    gpus: int
    gpu_resource: str  # such as "nvidia.com/gpu"; empty without cards
    shm_gib: Because
    disk_gib: Because  # for the model's files


@dataclass(frozen=True, slots=True)
class Pool:
    """One model's replicas as they run elsewhere."""

    name: str  # fit for DNS: "gemma-4-31b"
    model: ModelSpec
    layout: Layout
    placement: Placement  # of any replica: devices are the host's business
    command: Command
    image: Image
    replicas: Because
    needs: Needs
    startup: Startup
    longest_answer_s: int

    @property
    def setup(self) -> Setup:
        return self.layout.setup

    @property
    def drain_s(self) -> Because:
        """How long a replica that is stopped may take."""
        return Because(
            self.longest_answer_s + 30,
            f"the longest answer may take {self.longest_answer_s} s, and 30 s to end",
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """The whole service as it runs elsewhere."""

    spec: Spec
    pools: tuple[Pool, ...]
    gateway: Image
    version: str  # of Gemstead
    notes: tuple[str, ...] = field(default=())
    digests: Digests = field(default_factory=dict)  # of images, as the lock file has them

    def image(self, reference: str) -> str:
        """An image that stands in a file, by its digest where that is known."""
        return chosen(reference, self.digests).reference

    @property
    def deploy(self) -> DeploySpec:
        return self.spec.deploy

    @property
    def name(self) -> str:
        return self.spec.deploy.name


def needs_of(layout: Layout) -> Needs:
    """What one replica of a layout asks of its host."""
    setup, vendor = layout.setup, layout.setup.accelerator.vendor
    weights_gib = -(-(setup.weights_bytes or setup.checkpoint.weights_bytes) // GIB)
    disk = Because(
        int(weights_gib * CACHE_SPARE) + 10,
        f"{weights_gib} GiB of weights, a quarter more for changed files, 10 GiB for compiled kernels and logs",
    )
    if vendor == "cpu":
        memory = -(-layout.memory.used_bytes // GIB) + 2
        return Needs(
            Because(CPU_CORES, "the processor computes; beyond its memory channels more cores gain little"),
            Because(memory, "weights, cache and buffers of the plan, and 2 GiB for the process"),
            0,
            "",
            Because(1, "one process: little is shared"),
            disk,
        )
    resource = {
        "nvidia": "nvidia.com/gpu",
        "amd": "amd.com/gpu",
        "google": "google.com/tpu",
        "intel": "gpu.intel.com/xe",
    }
    name = resource.get(vendor, "nvidia.com/gpu")
    if setup.accelerator.is_slice:
        name = f"nvidia.com/mig-{setup.accelerator.id.rpartition('/')[2]}"  # as NVIDIA's device plugin names slices
    return Needs(
        Because(
            CPU_OF_GPU * setup.tp,
            f"{CPU_OF_GPU} cores for each card: tokenising and the step loop must not wait",
        ),
        Because(
            max(16, weights_gib + 8 * setup.tp),
            f"{weights_gib} GiB of weights pass the page cache as they load, and 8 GiB a card for its process",
        ),
        setup.tp,
        name,
        Because(
            SHM_GIB_A_CARD * setup.tp,
            "ranks of one replica talk through it; the default of 64 MiB hangs NCCL",
        ),
        disk,
    )
