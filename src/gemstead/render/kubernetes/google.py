"""What only Google's clusters have: node classes with the right cards, and pods that act as Google's accounts.

A ComputeClass makes nodes for each pool. Workload identity lets a pod's account act as a service account of the
project, without a key: `render terraform` makes the accounts and allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemstead.catalog.machines import carrying
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes.hardware import GKE_CARDS, cards_here, is_google, tpu
from gemstead.render.kubernetes.objects import ENGINE, Object, engine_name, made

ACTS_AS = "iam.gke.io/gcp-service-account"
ASKED = ("gcp-sm:", "gs://")  # what in the file Google's APIs answer


def identity(deployment: Deployment, part: str) -> Object:
    """Annotations of the account of `part` (gateway, engine); none elsewhere, or where no project is named."""
    cloud = deployment.deploy.cloud
    if not is_google(deployment) or not cloud.project or part not in ("gateway", "engine"):
        return {}
    own = {"gateway": "gateway", "engine": "engines"}[part]
    account = cloud.service_account or f"{deployment.name}-{own}@{cloud.project}.iam.gserviceaccount.com"
    why = "as the file says" if cloud.service_account else "made by `gemstead render terraform`"
    return {ACTS_AS: Because(account, f"its pods act as this account of the project, without a key; {why}")}


def asks_google(deployment: Deployment) -> bool:
    """Whether the gateway asks Google's APIs: secrets or buckets that the file names."""
    said = deployment.spec.model_dump(mode="json", exclude={"deploy"}, exclude_defaults=True)
    return any(text.startswith(ASKED) for text in _texts(said))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def objects(deployment: Deployment, pool: Pool) -> list[Object]:
    """The pool's ComputeClass; nothing elsewhere, or without cards."""
    if not is_google(deployment) or not pool.needs.gpus:
        return []
    card = pool.setup.accelerator
    machine_id = card.parent or card.id
    count = cards_here(pool, deployment)
    fitting = sorted(
        (one for one in carrying(machine_id) if one.cloud == "gcp" and one.count >= count),
        key=lambda one: one.count,
    )
    machines = [one for one in fitting if one.count == fitting[0].count] if fitting else []
    # Of machines with the same cards, the one whose memory holds what the pod asks for is the larger: the last.
    machine = machines[-1].name if machines else ""
    rule: Object = {}
    if machine:
        rule["machineType"] = Because(
            machine, f"{count} x {card.name} for one pod; the smallest that has them"
        )
    if name := GKE_CARDS.get(machine_id):
        rule["gpu"] = {
            "type": name,
            "count": fitting[0].count if fitting else count,
            "driverVersion": "default",
        }
    name, shape, chips = tpu(pool, deployment)
    if name:
        slice_ = {"type": name, "topology": shape, "count": chips}
        rule = {"tpu": Because(slice_, f"{count} x {card.name} for one pod; one machine's")}
    priorities: list[Any] = []
    if deployment.deploy.hardware.spot:
        priorities.append(Because({**rule, "spot": True}, "spot machines first, while there are any"))
    priorities.append({**rule, "spot": False})
    return [
        made(
            "cloud.google.com/v1",
            "ComputeClass",
            engine_name(deployment, pool),
            deployment,
            component=ENGINE,
            pool=pool,
            namespaced=False,
            spec={
                "priorities": priorities,
                "nodePoolAutoCreation": {"enabled": True},
                "activeMigration": Because(
                    {"optimizeRulePriority": False}, "moving an engine costs a start of minutes"
                ),
                "autoscalingPolicy": {"consolidationDelayMinutes": Because(15, "nodes outlive a short lull")},
                "nodePoolConfig": {
                    "imageStreaming": Because({"enabled": True}, "images of 10 GB start at once")
                },
                "whenUnsatisfiable": Because("DoNotScaleUp", "a node without this card would be of no use"),
            },
        )
    ]
