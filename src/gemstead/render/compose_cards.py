"""Cards on one host: which replica gets which, and how Docker is told.

NVIDIA's are reserved by number. AMD's and Intel's are devices of the kernel: each replica is given the render nodes of
its cards and no others, because inside a container a variable can be unset and a node that is not there cannot be
opened. Nodes are numbered from 128 in the order of the cards, unless a processor's own graphics come first; then `.env`
says which is which. Devices belong to a group whose number differs between hosts, and Docker reads group names in the
image, where llama.cpp's have none (its docs/docker.md): so `.env` says the number, and nothing starts without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool

FIRST_NODE = 128  # drivers/gpu/drm/drm_file.c
GROUP = "RENDER_GROUP"
BY_PATH = "/dev/dri/by-path"


def seats(deployment: Deployment) -> Iterator[tuple[str, Pool, tuple[str, ...]]]:
    """(service, pool, indices of its cards) of every replica; cards are dealt out once."""
    card = 0
    for pool in deployment.pools:
        for number in range(int(pool.replicas.value)):
            cards = tuple(str(card + one) for one in range(pool.needs.gpus))
            card += pool.needs.gpus
            yield f"{pool.name}-{number}", pool, cards


def given(pool: Pool, cards: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a service by which it gets its cards; `volumes` are to be added to its own."""
    vendor = pool.setup.accelerator.vendor
    if not cards or vendor not in ("amd", "intel"):
        return {}
    nodes = [f"${{{_variable(card)}:-{_node(card)}}}" for card in cards]
    found: dict[str, Any] = {
        "devices": Because(
            (["/dev/kfd"] if vendor == "amd" else []) + nodes, "its cards and no others; .env can say others"
        ),
        "group_add": Because(
            [f"${{{GROUP}:?say it in .env: stat -c %g {_node('0')}}}"],
            "the number of the group that may open them: names are read in the image, and not all know this one",
        ),
    }
    if vendor == "intel":
        found["volumes"] = [
            Because(f"{BY_PATH}:{BY_PATH}:ro", "oneCCL looks its devices up there and ends without it")
        ]
    return found


def reservation(pool: Pool, cards: tuple[str, ...]) -> dict[str, Any]:
    """The reservation of NVIDIA's cards, for `deploy.resources`."""
    if not cards or pool.setup.accelerator.vendor != "nvidia":
        return {}
    devices = {
        "driver": "nvidia",
        "device_ids": Because(list(cards), "its cards and no others"),
        "capabilities": ["gpu"],
    }
    return {"reservations": {"devices": [devices]}}


def settings(deployment: Deployment) -> str:
    """Lines of `.env.example` on the cards; empty: nothing has to be said."""
    dealt = [
        (name, card)
        for name, pool, cards in seats(deployment)
        for card in cards
        if pool.setup.accelerator.vendor in ("amd", "intel")
    ]
    if not dealt:
        return ""
    lines = "".join(f"# {_variable(card)}={_node(card)}   # {name}\n" for name, card in dealt)
    return (
        f"# The number of the group that owns the cards' devices: stat -c %g {_node('0')}\n{GROUP}=\n"
        f"# Cards, where the processor's own graphics come first (ls -l {BY_PATH}):\n{lines}"
    )


def _variable(card: str) -> str:
    return f"CARD_{card}"


def _node(card: str) -> str:
    return f"/dev/dri/renderD{FIRST_NODE + int(card)}"
