"""What only Google's clusters have: a ComputeClass for each pool, which makes nodes with the right cards."""

from __future__ import annotations

from typing import Any

from gemstead.catalog.machines import carrying
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes.hardware import GKE_CARDS, cards_here, is_google
from gemstead.render.kubernetes.objects import ENGINE, Object, engine_name, made


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
