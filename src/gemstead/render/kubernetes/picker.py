"""The endpoint picker of a pool: who answers Envoy's question which engine takes a call. Ours, or llm-d's.

It may watch its pool and the pods of it, and nothing else; nobody but the cluster's proxies reaches it.
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.dockerfile import USER
from gemstead.render.kubernetes.cache import small
from gemstead.render.kubernetes.hardware import spread
from gemstead.render.kubernetes.objects import (
    ENGINE,
    PICKER,
    Object,
    engine_name,
    made,
    pod_security,
    restricted,
    selector,
)
from gemstead.render.kubernetes.scaling import at_once
from gemstead.render.yamltext import document
from gemstead.spec.kubernetes import InferenceSpec

EXT_PROC, HEALTH, METRICS_PORT = 9002, 9003, 9090
LLM_D = "ghcr.io/llm-d/llm-d-router:v0.10.0"


def named(deployment: Deployment, pool: Pool) -> str:
    """Name of a pool's endpoint picker."""
    return f"{engine_name(deployment, pool)}-picker"


def settings(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
    """What the picker is told: ours by its own file, llm-d's by an EndpointPickerConfig."""
    if chosen.picker == "llm-d":
        names = ["prefix-cache-scorer", "queue-scorer", "kv-cache-utilization-scorer"]
        weights = (3, 2, 2)
        text = document(
            {
                "apiVersion": "llm-d.ai/v1alpha1",
                "kind": "EndpointPickerConfig",
                "plugins": [{"type": one} for one in (*names, "max-score-picker", "single-profile-handler")],
                "schedulingProfiles": [
                    {
                        "name": "default",
                        "plugins": [
                            *({"pluginRef": one, "weight": n} for one, n in zip(names, weights, strict=True)),
                            {"pluginRef": "max-score-picker"},
                        ],
                    }
                ],
            }
        )
    else:
        text = document(
            {
                "pool": engine_name(deployment, pool),
                "kubernetes": {"namespace": deployment.deploy.namespace},
                "engine": pool.setup.engine,
                "slots": Because(at_once(pool), "requests that one engine runs at once, as planned"),
                "context": pool.setup.length,
                "drain_s": pool.longest_answer_s,
            }
        )
    return made(
        "v1",
        "ConfigMap",
        named(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        data={"picker.yaml": text},
    )


def service(deployment: Deployment, pool: Pool) -> Object:
    """The address at which Envoy asks the picker."""
    return made(
        "v1",
        "Service",
        named(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        spec={
            "selector": selector(deployment, PICKER, pool),
            "ports": [
                {"name": "ext-proc", "port": EXT_PROC, "targetPort": EXT_PROC, "protocol": "TCP",
                 "appProtocol": "http2"},
            ],
        },
    )  # fmt: skip


def workload(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
    """The picker's pods."""
    if chosen.picker == "llm-d":
        image = Because(deployment.image(LLM_D), "llm-d's router, which serves InferencePool v1")
        command = [
            "--pool-name", engine_name(deployment, pool), "--pool-namespace", deployment.deploy.namespace,
            "--grpc-port", str(EXT_PROC), "--grpc-health-port", str(HEALTH), "--config-file", "/etc/picker/picker.yaml",
        ]  # fmt: skip
        said: Object = {"args": command}
    else:
        image = Because(
            deployment.deploy.images.get("picker", deployment.gateway.reference),
            "the gateway's image, which `gemstead render docker` builds with what a picker needs",
        )
        said = {
            "command": ["/opt/gemstead/bin/python", "-m", "gemstead", "epp"],
            "args": ["--file", "/etc/picker/picker.yaml"],
        }
    probe = {"grpc": {"port": HEALTH}, "periodSeconds": 5, "timeoutSeconds": 2}
    container: Object = {
        "name": "picker",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **said,
        "ports": [
            {"name": "ext-proc", "containerPort": EXT_PROC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "securityContext": restricted(),
        "resources": small("1", "1Gi"),
        "readinessProbe": probe,
        "livenessProbe": {**probe, "initialDelaySeconds": 10, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "file", "mountPath": "/etc/picker", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }
    pod: Object = {
        "serviceAccountName": f"{deployment.name}-picker",
        "automountServiceAccountToken": Because(
            True, "it watches the pool and its pods, and may nothing else"
        ),
        "enableServiceLinks": False,
        "priorityClassName": f"{deployment.name}-gateway",
        "securityContext": pod_security(USER),
        "topologySpreadConstraints": spread(selector(deployment, PICKER, pool)),
        "containers": [container],
        "volumes": [
            {"name": "file", "configMap": {"name": named(deployment, pool)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }
    return made(
        "apps/v1",
        "Deployment",
        named(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        spec={
            "replicas": Because(1, "one picker sees every call of its pool; two would each know half"),
            "selector": {"matchLabels": selector(deployment, PICKER, pool)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": selector(deployment, PICKER, pool)}, "spec": pod},
        },
    )


def access(deployment: Deployment) -> list[Object]:
    """What pickers may do in the cluster: see their pool and its pods."""
    name = f"{deployment.name}-picker"
    found = [
        made("v1", "ServiceAccount", name, deployment, component=PICKER, automountServiceAccountToken=False)
    ]
    look = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": look},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": look},
        {
            "apiGroups": ["llm-d.ai", "inference.networking.x-k8s.io"],
            "resources": ["inferenceobjectives", "inferencemodelrewrites"],
            "verbs": look,
        },
    ]
    rbac = "rbac.authorization.k8s.io"
    role = made(f"{rbac}/v1", "Role", name, deployment, component=PICKER, rules=rules)
    binding = made(
        f"{rbac}/v1",
        "RoleBinding",
        name,
        deployment,
        component=PICKER,
        roleRef={"apiGroup": rbac, "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": deployment.deploy.namespace}],
    )
    return [*found, role, binding]


def network(deployment: Deployment, pool: Pool) -> Object:
    """Who may ask the picker, and whom it may ask."""
    engines = [{"podSelector": {"matchLabels": selector(deployment, ENGINE, pool)}}]
    egress: list[Any] = [{"to": engines, "ports": [{"port": ENGINE_PORT, "protocol": "TCP"}]}]
    api = {
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}],
        "ports": [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}],
    }
    egress.append(Because(api, "the cluster's API, whose address only the cluster knows: narrow it"))
    ports = [{"port": EXT_PROC, "protocol": "TCP"}, {"port": HEALTH, "protocol": "TCP"}]
    return made(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        named(deployment, pool),
        deployment,
        component="network",
        spec={
            "podSelector": {"matchLabels": selector(deployment, PICKER, pool)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [Because({"ports": ports}, "proxies of the Gateway, wherever they run")],
            "egress": egress,
        },
    )
