"""Node pools: for each model machines with its cards, of the smallest type that carries a replica.

Types and their cards are Google's; which machine is chosen is arithmetic on the catalogue. Spot comes first where it is
allowed, and a pool goes down to nothing when nobody calls.
"""

from __future__ import annotations

from gemstead.catalog.machines import CloudMachine, carrying
from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.hcl import Block, Expr

# What Google calls each card that is added to a machine; types that carry their cards need none of these.
CARDS = {
    "h100-sxm": "nvidia-h100-80gb", "h200-sxm": "nvidia-h200-141gb", "b200": "nvidia-b200", "l4": "nvidia-l4",
    "a100-80-sxm": "nvidia-a100-80gb", "a100-40": "nvidia-tesla-a100", "t4": "nvidia-tesla-t4",
    "rtx-pro-6000-server": "nvidia-rtx-pro-6000",
}  # fmt: skip


GENERAL = "e2-standard-4"


def general() -> Block:
    """The pool of everything that asks for no card."""
    return _pool_block("general", GENERAL, "gateway, picker and what else needs no card", 1, 4, inner=())


def pools(deployment: Deployment, pool: Pool) -> list[Block]:
    """A model's pools: on spot machines first where they are allowed.

    Raises:
        Refused: Google rents no machine with the planned card.
    """
    hardware = deployment.deploy.hardware
    machine = machine_for(pool)
    if machine is None:
        return []
    cards, each = int(pool.replicas.value) * pool.needs.gpus, machine.count
    most = -(-cards // each)
    inner = _accelerators(pool, machine)
    why = f"{pool.setup.model.title}: {cards} cards of {pool.setup.accelerator.name} in machines of {each}"
    tpu = pool.setup.accelerator.vendor == "google"
    found = [_pool_block(pool.name, machine.name, why, 0, max(most, 1), inner=inner, gpu=True, tpu=tpu)]
    if hardware.spot:
        reason = "spot machines first, for a fraction of the price; those above are the fallback when these are taken"
        found.append(
            _pool_block(
                f"{pool.name}-spot",
                machine.name,
                reason,
                0,
                max(most, 1),
                inner=inner,
                gpu=True,
                tpu=tpu,
                spot=True,
            )
        )
    return found


def machine_for(pool: Pool) -> CloudMachine | None:
    """The smallest of Google's machines that holds one replica; None where the plan takes no card.

    Raises:
        Refused: there is none.
    """
    card = pool.setup.accelerator
    if card.vendor == "cpu":
        return None
    able = [
        one for one in carrying(card.parent or card.id) if one.cloud == "gcp" and one.count >= pool.needs.gpus
    ]
    if not able:
        raise Refused(
            Reason.BAD_REQUEST,
            f"Google Cloud rents no machine with {pool.needs.gpus} x {card.name}: name another in deploy.hardware.gpu",
        )
    return min(able, key=lambda one: one.count)


def _accelerators(pool: Pool, machine: CloudMachine) -> tuple[Block, ...]:
    kind = CARDS.get(machine.accelerator)
    if kind is None:
        return ()
    driver = Block(
        "gpu_driver_installation_config",
        body={"gpu_driver_version": Because("LATEST", "vLLM's images want a driver of this year")},
    )
    return (Block("guest_accelerator", body={"type": kind, "count": machine.count}, inner=(driver,)),)


def _pool_block(
    name: str,
    machine: str,
    reason: str,
    least: int,
    most: int,
    *,
    inner: tuple[Block, ...],
    gpu: bool = False,
    tpu: bool = False,
    spot: bool = False,
) -> Block:
    """One node pool; GKE taints the nodes of TPUs itself (`google.com/tpu`), and those of other cards it does not."""
    node = {
        "machine_type": machine,
        "service_account": Expr("google_service_account.nodes.email"),
        "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "disk_size_gb": Because(
            200 if gpu else 50,
            "an engine's image is 10 to 20 GB; weights lie elsewhere" if gpu else "images and logs",
        ),
        "disk_type": "pd-balanced",
        "spot": spot,
        "labels": {"gemstead.dev/pool": name},
    }
    guards = (
        Block(
            "shielded_instance_config",
            body={
                "enable_secure_boot": Because(True, "Google's own drivers are signed"),
                "enable_integrity_monitoring": True,
            },
        ),
        Block(
            "workload_metadata_config",
            body={"mode": Because("GKE_METADATA", "pods cannot ask for the node's own account")},
        ),
    )
    taint = (
        (
            Block(
                "taint",
                body={"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"},
                reason="nothing but engines runs beside the cards",
            ),
        )
        if gpu and not tpu
        else ()
    )
    return Block(
        "resource",
        ("google_container_node_pool", name.replace("-", "_")),
        {
            "name": name[:40],
            "cluster": Expr("google_container_cluster.main.id"),
            "location": Expr("var.region"),
        },
        (
            Block(
                "autoscaling",
                body={
                    "total_min_node_count": least,
                    "total_max_node_count": most,
                    "location_policy": Because("ANY", "cards are where they are free"),
                },
            ),
            Block("management", body={"auto_repair": True, "auto_upgrade": True}),
            Block(
                "upgrade_settings",
                body={
                    "max_surge": Because(
                        0 if gpu else 1,
                        "no spare card is waited for while nodes are upgraded"
                        if gpu
                        else "one more while nodes are upgraded",
                    ),
                    "max_unavailable": 1 if gpu else 0,
                },
            ),
            Block("node_config", body=node, inner=(*inner, *guards, *taint)),
        ),
        reason=reason,
    )
