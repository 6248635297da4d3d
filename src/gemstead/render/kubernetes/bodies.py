"""Body-based routing on Google's Gateway: a small service reads the model's name in a request's body and puts it into
the header that the routes of several InferencePools match. With one model no body has to be read.

Other Gateways take it by their own means (an EnvoyFilter, an EnvoyExtensionPolicy): the extension's chart
`body-based-routing` brings these, and a note says so.
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import Deployment
from gemstead.render.dockerfile import USER
from gemstead.render.kubernetes.cache import small
from gemstead.render.kubernetes.hardware import is_google
from gemstead.render.kubernetes.network import GOOGLE_CHECKS, proxies
from gemstead.render.kubernetes.objects import Object, made, pod_security, restricted, selector

IMAGE = "registry.k8s.io/gateway-api-inference-extension/bbr:v1.3.0"
PORT, HEALTH = 9004, 9005
COMPONENT = "bodies"
CLUSTER_API = {
    "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}],
    "ports": [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}],
}


def wanted(deployment: Deployment) -> bool:
    """Whether the model's name has to be read from bodies."""
    routes = deployment.deploy.kubernetes.routes
    return bool(routes and routes.inference) and len(deployment.pools) > 1


def objects(deployment: Deployment) -> list[Object]:
    """The router and what calls it, on Google's Gateway and for several models."""
    if not wanted(deployment) or not is_google(deployment):
        return []
    name = f"{deployment.name}-bodies"
    chosen = selector(deployment, COMPONENT)
    service = {
        "selector": chosen,
        "ports": [
            {"name": "grpc", "port": PORT, "targetPort": PORT, "protocol": "TCP", "appProtocol": "HTTP2"}
        ],
    }
    extension = {
        "name": "model-name",
        "authority": "bodies.internal",
        "timeout": "1s",
        "failOpen": Because(False, "without its model's name a call matches no route"),
        "supportedEvents": ["RequestHeaders", "RequestBody", "RequestTrailers"],
        "requestBodySendMode": "FullDuplexStreamed",
        "backendRef": {"group": "", "kind": "Service", "name": name, "port": PORT},
    }
    gateway = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": f"{deployment.name}-inference",
    }
    check = {"type": "GRPC", "grpcHealthCheck": {"portSpecification": "USE_FIXED_PORT", "port": HEALTH}}
    reference = {"group": "", "kind": "Service", "name": name}
    blocks: list[Any] = [{"ipBlock": {"cidr": block}} for block in GOOGLE_CHECKS]
    callers = [*proxies(deployment, f"{deployment.name}-inference"), *blocks]
    ports = [{"port": port, "protocol": "TCP"} for port in (PORT, HEALTH)]
    policy = {
        "podSelector": {"matchLabels": chosen},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": callers, "ports": ports}],
        "egress": [
            Because(CLUSTER_API, "the cluster's API, whose address only the cluster knows: narrow it")
        ],
    }
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]

    def one(api: str, kind: str, **content: Any) -> Object:
        return made(api, kind, name, deployment, component=COMPONENT, **content)

    return [
        one("v1", "ServiceAccount", automountServiceAccountToken=False),
        one(f"{rbac}/v1", "Role", rules=rules),
        one(
            f"{rbac}/v1",
            "RoleBinding",
            roleRef={"apiGroup": rbac, "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name, "namespace": deployment.deploy.namespace}],
        ),
        one("v1", "Service", spec=service),
        one("apps/v1", "Deployment", spec=_workload(deployment, name, chosen)),
        one("networking.k8s.io/v1", "NetworkPolicy", spec=policy),
        one(
            "networking.gke.io/v1",
            "HealthCheckPolicy",
            spec={"default": {"config": check}, "targetRef": reference},
        ),
        one(
            "networking.gke.io/v1",
            "GCPRoutingExtension",
            spec={
                "targetRefs": [gateway],
                "extensionChains": [{"name": "bodies", "extensions": [extension]}],
            },
        ),
    ]


def _workload(deployment: Deployment, name: str, chosen: dict[str, str]) -> Object:
    probe = {"grpc": {"port": HEALTH}, "periodSeconds": 5, "timeoutSeconds": 2}
    image = deployment.image(deployment.deploy.images.get("bodies", IMAGE))
    container: Object = {
        "name": "bodies",
        "image": Because(image, "the extension's own body-based router; another by deploy.images.bodies"),
        "imagePullPolicy": "IfNotPresent",
        "args": ["--streaming"],
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "ports": [{"name": "grpc", "containerPort": PORT, "protocol": "TCP"}],
        "securityContext": restricted(),
        "resources": small("500m", "256Mi"),
        "readinessProbe": probe,
        "livenessProbe": {**probe, "initialDelaySeconds": 10, "failureThreshold": 6},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    pod: Object = {
        "serviceAccountName": name,
        "automountServiceAccountToken": Because(
            True, "it watches maps from adapters to models, and may nothing else"
        ),
        "enableServiceLinks": False,
        "priorityClassName": f"{deployment.name}-gateway",
        "securityContext": pod_security(USER),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    return {
        "replicas": Because(
            2, "it knows nothing of calls before, so two are as good as one, and one may fail"
        ),
        "selector": {"matchLabels": chosen},
        "template": {"metadata": {"labels": chosen}, "spec": pod},
    }
