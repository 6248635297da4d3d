"""Several gateways before one store: how many there are, what each keeps, and who changes their number.

With `ledger.store` keys, batches and records are in PostgreSQL, and every gateway has a disk of its own for what the
store does not have yet: while the store is away, calls are served and their records wait there. That is why they are a
StatefulSet and not a Deployment: a disk that went with its pod would take accepted records along, and a gateway that
finds its disk again goes on with the chain that it has begun. The first gateway of a new version brings the store's
tables forward while the others wait; steps only add, so gateways of the version before go on meanwhile.

Without a store there is one gateway.
"""

from __future__ import annotations

from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes.objects import GATEWAY, Object, made

BUSY_PERCENT = 60  # of the processors that a gateway asks for; beyond it a second's burst is felt
GROWTH = 4  # most gateways, in multiples of those that are always there
LEDGER_GIB = 10
BESIDE_SPOOL_GIB = 2  # keys, files of its own, and what SQLite needs beside them
START_S = 300  # the first start of a version waits until the store's tables are brought forward


def shared(deployment: Deployment) -> bool:
    """Whether gateways share a store, so that there may be several."""
    return deployment.spec.ledger.store is not None


def checked(deployment: Deployment) -> None:
    """Nothing, where the gateways can reach what they share.

    Raises:
        Refused: nobody has said where it is.
    """
    kubernetes, spec = deployment.deploy.kubernetes, deployment.spec
    said = {
        "ledger.store": spec.ledger.store,
        "limits.store": spec.limits.store,
        "traffic.sharing.store": spec.traffic.sharing and spec.traffic.sharing.store,
    }
    named = [name for name, store in said.items() if store]
    if named and not kubernetes.stores and not kubernetes.egress:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{', '.join(named)}: the network lets gateways only where the file says, so say where that is: "
            "deploy.kubernetes.stores: [{addresses: [10.0.7.4/32], port: 5432}]",
        )


def count(deployment: Deployment) -> Because:
    """How many gateways there are."""
    if not shared(deployment):
        why = "keys and records are a file, which one process writes; a second would not know its keys"
        return Because(1, why)
    said = deployment.deploy.gateways
    why = "deploy.gateways" if "gateways" in deployment.deploy.model_fields_set else "one may fail"
    return Because(said, f"{why}; keys and records are in the store that they share")


def disk(deployment: Deployment) -> Because:
    """The size of each gateway's disk."""
    spool = -(-deployment.spec.ledger.spool_mib // 1024) + BESIDE_SPOOL_GIB
    if not shared(deployment):
        return Because(f"{LEDGER_GIB}Gi", "keys, and records of about 20 million calls")
    if spool <= LEDGER_GIB:
        return Because(f"{LEDGER_GIB}Gi", "as without a store: a claim cannot be changed in a StatefulSet")
    why = (
        f"records that the store does not have yet (ledger.spool_mib), and {BESIDE_SPOOL_GIB} GiB beside them"
    )
    return Because(f"{spool}Gi", why)


def scaled(deployment: Deployment) -> bool:
    """Whether their number follows the load."""
    return shared(deployment) and deployment.deploy.kubernetes.scaling != "off"


def workload(deployment: Deployment) -> Object:
    """What the StatefulSet says beside its pods. What cannot be changed later is the same for one and for several."""
    found: Object = {} if scaled(deployment) else {"replicas": count(deployment)}
    found["podManagementPolicy"] = Because("Parallel", "no gateway waits for another")
    if shared(deployment):
        found["updateStrategy"] = {
            "type": Because("RollingUpdate", "one after the other, each when its running answers have ended")
        }
        found["minReadySeconds"] = Because(10, "one that dies at once ends the update")
    return found


def objects(deployment: Deployment) -> list[Object]:
    """What changes their number; nothing where nobody does."""
    if not scaled(deployment):
        return []
    least = int(count(deployment).value)
    cpu: Any = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": BUSY_PERCENT}},
    }
    name = f"{deployment.name}-gateway"
    spec: Object = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name},
        "minReplicas": count(deployment),
        "maxReplicas": Because(
            GROWTH * least, f"{GROWTH} times as many: beyond that engines are what callers wait for"
        ),
        "metrics": [
            Because(cpu, "a gateway is busy with its processors; who waits for engines says nothing of it")
        ],
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": Because(30, "a gateway is there within seconds")},
            "scaleDown": {
                "stabilizationWindowSeconds": Because(600, "a stream that runs is waited for: rather late"),
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
            },
        },
    }
    return [made("autoscaling/v2", "HorizontalPodAutoscaler", name, deployment, component=GATEWAY, spec=spec)]


def notes(deployment: Deployment) -> list[str]:
    """What a user should know of several gateways, or of one."""
    deploy, spec = deployment.deploy, deployment.spec
    if not shared(deployment):
        wanted = deploy.gateways > 1 and "gateways" in deploy.model_fields_set
        why = "one gateway is rendered: its keys and records are a file, which one process writes; for several name "
        return [why + "ledger.store, a PostgreSQL"] if wanted else []
    if spec.traffic.sharing is not None:
        return []
    return [
        "each gateway picks engines by what it has sent them itself: traffic.sharing lets them tell each other"
    ]
