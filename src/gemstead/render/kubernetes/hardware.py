"""Where an engine's pods may run: the cards they ask for, the nodes that have them, and how replicas are spread.

Cards are asked for as extended resources of a device plugin, or as resource claims (DRA). A slice of a card (MIG) is a
resource of its own name, and so are AMD's, Intel's and Google's. Nodes with cards are tainted by their installers, so
that nothing else lands there; engines tolerate exactly that. Spot machines are preferred where they are allowed, never
required: with none to be had, pods run on others.
"""

from __future__ import annotations

from typing import Any

from gemstead.plan.setup import GIB
from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes.objects import ENGINE, Object, engine_name, made, selector

# Labels that spot machines carry, by whoever makes them, and the taints that GKE and Azure put on them.
SPOT = {
    "cloud.google.com/gke-spot": "true",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")
# Device classes of the DRA drivers, by vendor.
CLASSES = {
    "nvidia": "gpu.nvidia.com",
    "amd": "gpu.amd.com",
    "intel": "gpu.intel.com",
    "google": "tpu.google.com",
}
# Names by which GKE labels nodes with a card (docs.cloud.google.com/kubernetes-engine/docs/concepts/gpus).
GKE_CARDS = {
    "l4": "nvidia-l4",
    "t4": "nvidia-tesla-t4",
    "a100-40": "nvidia-tesla-a100",
    "a100-80-sxm": "nvidia-a100-80gb",
    "h100-sxm": "nvidia-h100-80gb",
    "h200-sxm": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
    "gb200": "nvidia-gb200",
    "rtx-pro-6000-server": "nvidia-rtx-pro-6000",
}


# TPUs by GKE's name and the shape of one machine's chips, which a pod has to name both
# (docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, single-host slices).
GKE_TPUS = {
    "tpu-v6e": ("tpu-v6e-slice", {1: "1x1", 4: "2x2", 8: "2x4"}),
    "tpu-v5e": ("tpu-v5-lite-podslice", {1: "1x1", 4: "2x2", 8: "2x4"}),
    "tpu-v5p": ("tpu-v5p-slice", {4: "2x2x1"}),
}


def tpu(pool: Pool, deployment: Deployment) -> tuple[str, str, int]:
    """GKE's name of the pool's TPU, the shape that holds a pod's chips, and how many that are; empty: it has none."""
    name, shapes = GKE_TPUS.get(pool.setup.accelerator.id, ("", {}))
    fitting = [count for count in sorted(shapes) if count >= cards_here(pool, deployment)]
    return (name, shapes[fitting[0]], fitting[0]) if fitting else ("", "", 0)


def is_google(deployment: Deployment) -> bool:
    """Whether the cluster is Google's."""
    routes = deployment.deploy.kubernetes.routes
    return routes is not None and routes.flavour == "gke"


def own_devices(pool: Pool) -> bool:
    """Whether its cards are device files with an owner and a group, which only they may open: AMD's and Intel's."""
    return bool(pool.needs.gpus) and pool.setup.accelerator.vendor in ("amd", "intel")


def groups(deployment: Deployment, pool: Pool) -> Object:
    """The groups by which a pod's user may open its cards, where the file says their numbers.

    Without them containerd has to give the devices to the pod's user: `device_ownership_from_security_context`
    (kubernetes.io, "Non-root Containers And Devices"). NVIDIA's files are open to everybody.

    Raises:
        Refused: the file says something else than numbers.
    """
    said = str(deployment.deploy.options.get("device_groups", "")).replace(" ", "")
    if not said or not own_devices(pool):
        return {}
    if not all(one.isdigit() for one in said.split(",")):
        raise Refused(
            Reason.BAD_REQUEST,
            f"deploy.options.device_groups: `{said[:64]}` is no list of numbers; on a node with cards, "
            "`stat -c %g /dev/dri/renderD128` says which: write 992, or 44,992",
        )
    numbers = [int(one) for one in said.split(",")]
    return {"supplementalGroups": Because(numbers, "the groups that own the cards' devices on the nodes")}


def notes(deployment: Deployment) -> list[str]:
    """What a user should know of the cards before the first start."""
    found = []
    if any(own_devices(pool) and not groups(deployment, pool) for pool in deployment.pools):
        found.append(
            "the cards' devices belong to a group of the nodes: say its number in deploy.options.device_groups (stat "
            "-c %g /dev/dri/renderD128), or set containerd's device_ownership_from_security_context"
        )
    return found


def nodes(pool: Pool, deployment: Deployment) -> int:
    """Nodes that one replica spans."""
    each = deployment.deploy.kubernetes.cards_per_node
    return max(1, -(-pool.needs.gpus // each))


def cards_here(pool: Pool, deployment: Deployment) -> int:
    """Cards of one pod of the replica."""
    return pool.needs.gpus // nodes(pool, deployment)


def claimed(deployment: Deployment, pool: Pool) -> bool:
    """Whether cards come by a resource claim."""
    return bool(pool.needs.gpus) and deployment.deploy.kubernetes.devices == "dra"


def resources(deployment: Deployment, pool: Pool) -> Object:
    """What one pod's engine container asks for: as much as it may have, so that it is the last to be evicted."""
    over, needs = nodes(pool, deployment), pool.needs
    memory = -(-int(needs.memory_gib.value) // over) + int(needs.shm_gib.value) // over
    asked: Object = {
        "cpu": Because(str(-(-int(needs.cpus.value) // over)), needs.cpus.reason),
        "memory": Because(
            f"{memory}Gi", f"{needs.memory_gib.reason}; and its shared memory, which counts as memory"
        ),
        "ephemeral-storage": Because("12Gi", "what it writes to /tmp, and its log"),
    }
    if pool.needs.gpus and not claimed(deployment, pool):
        asked[pool.needs.gpu_resource] = Because(
            str(cards_here(pool, deployment)), f"{pool.setup.accelerator.name}, as the plan has it"
        )
    found: Object = {
        "requests": asked,
        "limits": Because(
            {name: value.value for name, value in asked.items()},
            "as requested: of all pods those that keep within what they asked for are evicted last",
        ),
    }
    if claimed(deployment, pool):
        found["claims"] = [{"name": "cards"}]
    return found


def claim_template(deployment: Deployment, pool: Pool) -> Object:
    """The resource claim that each pod gets its own of."""
    setup = pool.setup
    card = setup.accelerator
    if card.is_slice:
        profile = card.id.rpartition("/")[2]
        wanted = f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"
        device = "mig.nvidia.com"
    else:
        device = CLASSES.get(card.vendor, "gpu.nvidia.com")
        gib = card.memory_bytes // GIB * 95 // 100
        wanted = f"device.capacity['{device}'].memory.compareTo(quantity('{gib}Gi')) >= 0"
    exactly: Object = {
        "deviceClassName": device,
        "allocationMode": "ExactCount",
        "count": cards_here(pool, deployment),
        "selectors": [
            {
                "cel": {
                    "expression": Because(
                        wanted, f"the plan is made for {card.name} and fits nothing smaller"
                    )
                }
            }
        ],
    }
    devices: Object = {"requests": [{"name": "cards", "exactly": exactly}]}
    return made(
        "resource.k8s.io/v1",
        "ResourceClaimTemplate",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={"spec": {"devices": devices}},
    )


def scheduling(deployment: Deployment, pool: Pool) -> Object:
    """The fields of a pod that say where it may run."""
    kubernetes = deployment.deploy.kubernetes
    found: Object = {}
    selected = dict(kubernetes.node_selector)
    if is_google(deployment) and pool.needs.gpus:
        selected |= {"cloud.google.com/compute-class": engine_name(deployment, pool)}
    name, shape, _ = tpu(pool, deployment)
    if name:
        selected |= {"cloud.google.com/gke-tpu-accelerator": name, "cloud.google.com/gke-tpu-topology": shape}
    if selected:
        found["nodeSelector"] = selected
    if kubernetes.runtime_class and pool.needs.gpus:
        found["runtimeClassName"] = kubernetes.runtime_class
    found["affinity"] = _affinity(deployment, pool)
    found["topologySpreadConstraints"] = spread(selector(deployment, ENGINE, pool))
    if tolerated := _tolerations(deployment, pool):
        found["tolerations"] = tolerated
    if claimed(deployment, pool):
        found["resourceClaims"] = [
            {"name": "cards", "resourceClaimTemplateName": engine_name(deployment, pool)}
        ]
    return found


def spread(chosen: dict[str, str]) -> list[Any]:
    """Evenly over zones, then over nodes, where that is possible."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": chosen},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def apart(chosen: dict[str, str]) -> Object:
    """Rather not two of these on one node."""
    term = {"labelSelector": {"matchLabels": chosen}, "topologyKey": "kubernetes.io/hostname"}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": term}]}


def _affinity(deployment: Deployment, pool: Pool) -> Object:
    preferred: list[Any] = []
    card = pool.setup.accelerator
    if card.vendor == "nvidia" and not is_google(deployment):
        least = str(int(card.memory_mib * 0.95)) if not card.is_slice else ""
        if least:
            term = {
                "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [least]}]
            }
            preferred.append(
                Because(
                    {"weight": 100, "preference": term},
                    f"nodes whose cards hold as much as the {card.name} of the plan; require one with node_selector",
                )
            )
    if deployment.deploy.hardware.spot:
        preferred += [
            {
                "weight": 80,
                "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]},
            }
            for key, value in SPOT.items()
        ]
    found: Object = {"podAntiAffinity": apart({**selector(deployment, ENGINE, pool)})}
    if preferred:
        found["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
    if nodes(pool, deployment) > 1:
        together: Object = {
            "labelSelector": {"matchLabels": selector(deployment, ENGINE, pool)},
            "topologyKey": "topology.kubernetes.io/zone",
        }
        found["podAffinity"] = {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": together}]
        }
    return found


def _tolerations(deployment: Deployment, pool: Pool) -> list[Any]:
    found: list[Any] = []
    if pool.needs.gpus:
        key = pool.needs.gpu_resource
        key = "nvidia.com/gpu" if key.startswith("nvidia.com/") else key
        found.append(
            Because(
                {"key": key, "operator": "Exists", "effect": "NoSchedule"},
                "nodes with cards turn away what does not ask for them",
            )
        )
    if deployment.deploy.hardware.spot:
        found += [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in SPOT_TAINTS]
    return found
