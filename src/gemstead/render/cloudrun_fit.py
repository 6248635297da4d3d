"""What an instance of Cloud Run carries, and how long it takes from nothing: arithmetic, before a line is written.

Limits are Cloud Run's; the plan is fitted into them, or refused with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from gemstead.plan.startup import LEAST_ALLOWANCE_S, TIMES, Startup, startup
from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool

CPU_MOST, MEMORY_MOST_GIB = 8, 32  # of an instance without a card
GATEWAY_CPU, GATEWAY_GIB = 1, 1
# Cloud Run's cards: (its name, least and most CPUs, least and most GiB of an instance); least values from
# https://cloud.google.com/run/docs/configuring/services/gpu, most from its pages on CPU and memory limits
CARDS = {
    "l4": ("nvidia-l4", 4, 8, 16, 32),
    "rtx-pro-6000-server": ("nvidia-rtx-pro-6000", 20, 44, 80, 176),
}
CPUS = (1, 2, 4, 6, 8, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44)  # that a container may have
PROBE_S = 10
PROBE_MOST_GPU_S, PROBE_MOST_S = 1800, 240  # failureThreshold x periodSeconds; more is refused by Cloud Run
HARDWARE_S = 5.0  # from a request to a container with its card and driver, as Google says
IMAGE_STREAMED = (
    0.3e9  # bytes a second at which Cloud Run streams an image's layers: our guess, to be measured
)
FUSE_AHEAD_GIB = 1  # what reading ahead holds; it counts to the container


def cpus(pool: Pool, card: tuple[str, int, int, int, int]) -> Because:
    """The engine's share: the gateway needs one, and Cloud Run counts them together."""
    wished = min(card[2] - GATEWAY_CPU, max(card[1], int(pool.needs.cpus.value)))
    asked = max(one for one in CPUS if one <= wished)
    if not pool.needs.gpus:
        return Because(str(asked), pool.needs.cpus.reason)
    return Because(
        str(asked), f"Cloud Run gives {card[0]} {card[1]} to {card[2]}, one of which is the gateway's"
    )


def memory(pool: Pool, card: tuple[str, int, int, int, int]) -> Because:
    """The engine's memory, within what Cloud Run gives beside the gateway."""
    need = int(pool.needs.memory_gib.value) + FUSE_AHEAD_GIB
    asked = max(card[3], min(need, card[4] - GATEWAY_GIB))
    return Because(
        f"{asked}Gi", f"{pool.needs.memory_gib.reason}; Cloud Run allows {card[3]} to {card[4]} GiB in all"
    )


def allowance_of(pool: Pool) -> tuple[int, str]:
    """Seconds for the start-up probe within what Cloud Run takes, and why."""
    most = PROBE_MOST_GPU_S if pool.needs.gpus else PROBE_MOST_S
    if pool.startup.allowance_s <= most:
        return pool.startup.allowance_s // PROBE_S * PROBE_S, pool.startup.reason
    return most, f"Cloud Run allows {most} s; wished were {pool.startup.allowance_s}: {pool.startup.reason}"


def storage(deployment: Deployment, pool: Pool) -> str:
    """Where this pool's weights come from: "image", "bucket-fuse" or "bucket-stream"."""
    kind = deployment.deploy.cache.kind
    if pool.setup.engine == "ollama" or kind == "image":
        return "image"
    return "bucket-fuse" if kind == "bucket-stream" and pool.setup.engine != "vllm" else str(kind)


def card_of(pool: Pool) -> tuple[str, int, int, int, int]:
    """What Cloud Run gives beside the pool's card: its name, least and most CPUs, least and most GiB."""
    if not pool.needs.gpus:
        return ("", 1, CPU_MOST, 1, MEMORY_MOST_GIB)
    return CARDS[pool.setup.accelerator.id]


def cold_start(pool: Pool, where: str) -> dict[str, float]:
    """Seconds of each phase from a call at no instance to the first token, by phase."""
    weights = pool.setup.weights_bytes or pool.setup.checkpoint.weights_bytes
    began = pool.startup
    return {
        "instance with its card and driver": HARDWARE_S,
        f"reading {weights / 1e9:.1f} GB of weights": weights / IMAGE_STREAMED
        if where == "image"
        else began.read_s,
        "compiling and capturing graphs": began.prepare_cold_s,
    }


def cold_s(pool: Pool) -> float:
    """Seconds from nothing to the first answer."""
    return HARDWARE_S + pool.startup.cold_s


def fitted(deployment: Deployment) -> Deployment:
    """The deployment as Cloud Run can carry it: its storage, and start-up by it."""
    cache = deployment.deploy.cache
    kind = cache.kind if cache.kind != "volume" else "bucket-fuse" if cache.bucket else "image"
    if kind.startswith("bucket") and not cache.bucket:
        raise Refused(Reason.BAD_REQUEST, "deploy.cache.bucket: name the bucket that holds the weights")
    if not deployment.deploy.cloud.project:
        raise Refused(Reason.BAD_REQUEST, "deploy.cloud.project: name the Google Cloud project")
    if not deployment.pools:
        raise Refused(Reason.BAD_REQUEST, "every model has endpoints of its own: there is nothing to run")
    deploy = deployment.deploy.model_copy(update={"cache": cache.model_copy(update={"kind": kind})})
    spec = deployment.spec.model_copy(update={"deploy": deploy})
    found = replace(deployment, spec=spec)
    return replace(
        found, pools=tuple(replace(pool, startup=_starting(found, _held(pool))) for pool in found.pools)
    )


def _held(pool: Pool) -> Pool:
    """The pool, when an instance can hold it."""
    card = pool.setup.accelerator
    if card.vendor != "cpu" and card.id not in CARDS:
        names = " and ".join(("L4", "RTX PRO 6000"))
        raise Refused(
            Reason.BAD_REQUEST, f"Cloud Run has no {card.name}; it has {names}: deploy.hardware.gpu"
        )
    if pool.setup.tp > 1:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name} takes {pool.setup.tp} cards and an instance of Cloud Run has one: choose a smaller "
            "checkpoint (`quantization`), the RTX PRO 6000, or Kubernetes",
        )
    if card.vendor == "cpu" and int(pool.needs.memory_gib.value) + GATEWAY_GIB > MEMORY_MOST_GIB:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name} needs {pool.needs.memory_gib.value} GiB and an instance of Cloud Run has {MEMORY_MOST_GIB}",
        )
    return pool


def _starting(deployment: Deployment, pool: Pool) -> Startup:
    """How long a start takes there: weights in the image are streamed from the registry while they are read."""
    where = storage(deployment, pool)
    if where != "image":  # mounted without a file cache: a guess, as fast as a network disk
        return startup(pool.setup, "network-disk" if where == "bucket-fuse" else where)
    made = startup(pool.setup, "nvme")
    weights = pool.setup.weights_bytes or pool.setup.checkpoint.weights_bytes
    read_s = weights / IMAGE_STREAMED
    allowance = ceil(max(LEAST_ALLOWANCE_S, TIMES * (read_s + made.prepare_cold_s)) / 60) * 60
    reason = (
        f"streaming {weights / 1e9:.1f} GB of weights with the image takes about {read_s:.0f} s and a first start "
        f"{made.prepare_cold_s:.0f} s more; {TIMES:g} times that, because a start cut short begins again from nothing"
    )
    return replace(made, read_s=read_s, allowance_s=allowance, reason=reason)
