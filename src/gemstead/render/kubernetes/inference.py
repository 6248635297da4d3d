"""Gateway API Inference Extension: an InferencePool for each model, who picks in it, and routes by the model's name.

    pods of the cluster ──> Gateway (inside only) ──by model──> InferencePool ──asks──> endpoint picker ──> engine

This Gateway has no keys and writes no audit, so it has an address inside the cluster's network only; callers from
outside come through Gemstead. The picker is Gemstead's (`gemstead epp`) or llm-d's. Bodies are read to find the model's
name, which is put into the header that the routes match.
"""

from __future__ import annotations

from typing import Any

from gemstead.refused import Reason, Refused
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
from gemstead.render.kubernetes.routes import API, CLASSES, INSIDE, seconds
from gemstead.render.kubernetes.scaling import at_once
from gemstead.render.yamltext import document
from gemstead.spec.kubernetes import InferenceSpec, RoutesSpec

MODEL_HEADER = "X-Gateway-Model-Name"  # set by the body-based router
EXT_PROC, HEALTH, METRICS_PORT = 9002, 9003, 9090
LLM_D = "ghcr.io/llm-d/llm-d-router:v0.10.0"
PRIORITIES = (("critical", 10), ("standard", 0), ("sheddable", -10))


def objects(deployment: Deployment) -> list[Object]:
    """Everything of the extension; nothing where it is not asked for.

    Raises:
        Refused: an engine without the metrics that a picker reads.
    """
    routes = deployment.deploy.kubernetes.routes
    if routes is None or routes.inference is None:
        return []
    found = [_gateway(deployment, routes), *_access(deployment)]
    for pool in deployment.pools:
        if pool.setup.engine == "ollama":
            raise Refused(
                Reason.BAD_REQUEST,
                f"{pool.name}: Ollama shows no metrics to pick by; an InferencePool wants another engine",
            )
        found += _of_pool(deployment, pool, routes, routes.inference)
    return found


def picker_name(deployment: Deployment, pool: Pool) -> str:
    """Name of a pool's endpoint picker."""
    return f"{engine_name(deployment, pool)}-picker"


def _of_pool(deployment: Deployment, pool: Pool, routes: RoutesSpec, chosen: InferenceSpec) -> list[Object]:
    found = [
        _pool(deployment, pool, chosen),
        *(_objective(deployment, pool, chosen, name, value) for name, value in PRIORITIES),
        _route(deployment, pool, routes),
        _picker_file(deployment, pool, chosen),
        _picker_service(deployment, pool),
        _picker(deployment, pool, chosen),
        _picker_network(deployment, pool),
    ]
    if pool.model.aliases:
        found.append(_rewrite(deployment, pool, chosen))
    if routes.flavour == "gke":
        found += _google(deployment, pool)
    if routes.flavour == "istio":
        found.append(_istio(deployment, pool))
    return found


def _gateway(deployment: Deployment, routes: RoutesSpec) -> Object:
    listener = {
        "name": "http",
        "port": 80,
        "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    spec: Object = {
        "gatewayClassName": INSIDE.get(routes.flavour, routes.gateway_class or CLASSES[routes.flavour]),
        "listeners": [listener],
    }
    if routes.flavour != "gke":
        labels = {"networking.istio.io/service-type": "ClusterIP"} if routes.flavour == "istio" else {}
        if labels:
            spec["infrastructure"] = Because(
                {"annotations": labels}, "reached from inside only: it has no keys"
            )
    return made(API, "Gateway", f"{deployment.name}-inference", deployment, component=PICKER, spec=spec)


def _pool(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
    reference = {
        "group": "",
        "kind": "Service",
        "name": picker_name(deployment, pool),
        "port": {"number": EXT_PROC},
        "failureMode": Because(
            chosen.failure,
            "without the picker no calls: any endpoint would lose the caches and overrun full engines"
            if chosen.failure == "FailClose"
            else "without the picker any endpoint",
        ),
    }
    return made(
        "inference.networking.k8s.io/v1",
        "InferencePool",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={
            "selector": {"matchLabels": selector(deployment, ENGINE, pool)},
            "targetPorts": [{"number": ENGINE_PORT}],
            "endpointPickerRef": reference,
        },
    )


def _reference(deployment: Deployment, pool: Pool) -> Object:
    return {
        "group": "inference.networking.k8s.io",
        "kind": "InferencePool",
        "name": engine_name(deployment, pool),
    }


def _objective(deployment: Deployment, pool: Pool, chosen: InferenceSpec, name: str, value: int) -> Object:
    return made(
        f"{chosen.objects}/v1alpha2",
        "InferenceObjective",
        f"{engine_name(deployment, pool)}-{name}",
        deployment,
        component=ENGINE,
        pool=pool,
        spec={
            "priority": Because(value, "below 0: turned away first") if value < 0 else value,
            "poolRef": _reference(deployment, pool),
        },
    )


def _rewrite(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
    served = pool.placement.name or pool.setup.checkpoint.repo
    rules = [
        {
            "matches": [{"model": {"type": "Exact", "value": alias}}],
            "targets": [{"modelRewrite": served, "weight": 1}],
        }
        for alias in pool.model.aliases
    ]
    return made(
        f"{chosen.objects}/v1alpha2",
        "InferenceModelRewrite",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={"poolRef": _reference(deployment, pool), "rules": rules},
    )


def _route(deployment: Deployment, pool: Pool, routes: RoutesSpec) -> Object:
    names = dict.fromkeys(
        (pool.placement.name or pool.setup.checkpoint.repo, pool.model.name, *pool.model.aliases)
    )
    matches: list[Any] = [
        {
            "path": {"type": "PathPrefix", "value": "/v1"},
            "headers": [{"type": "Exact", "name": MODEL_HEADER, "value": name}],
        }
        for name in names
    ]
    if len(deployment.pools) == 1:
        matches.append(
            Because(
                {"path": {"type": "PathPrefix", "value": "/v1"}}, "one model only: no name has to be read"
            )
        )
    rule: Object = {"matches": matches, "backendRefs": [{**_reference(deployment, pool), "weight": 1}]}
    if routes.flavour != "gke":
        limit = f"{seconds(deployment)}s"
        rule["timeouts"] = {"request": limit, "backendRequest": limit}
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": f"{deployment.name}-inference"}
    return made(
        API,
        "HTTPRoute",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={"parentRefs": [parent], "rules": [rule]},
    )


def _picker_file(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
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
        picker_name(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        data={"picker.yaml": text},
    )


def _picker_service(deployment: Deployment, pool: Pool) -> Object:
    return made(
        "v1",
        "Service",
        picker_name(deployment, pool),
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


def _picker(deployment: Deployment, pool: Pool, chosen: InferenceSpec) -> Object:
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
            {"name": "file", "configMap": {"name": picker_name(deployment, pool)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }
    return made(
        "apps/v1",
        "Deployment",
        picker_name(deployment, pool),
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


def _access(deployment: Deployment) -> list[Object]:
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


def _picker_network(deployment: Deployment, pool: Pool) -> Object:
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
        picker_name(deployment, pool),
        deployment,
        component="network",
        spec={
            "podSelector": {"matchLabels": selector(deployment, PICKER, pool)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [Because({"ports": ports}, "proxies of the Gateway, wherever they run")],
            "egress": egress,
        },
    )


def _google(deployment: Deployment, pool: Pool) -> list[Object]:
    target = _reference(deployment, pool)
    health = {"type": "HTTP", "httpHealthCheck": {"requestPath": "/health", "port": ENGINE_PORT}}
    return [
        made(
            "networking.gke.io/v1",
            "HealthCheckPolicy",
            engine_name(deployment, pool),
            deployment,
            component=ENGINE,
            pool=pool,
            spec={"default": {"config": health}, "targetRef": target},
        ),
        made(
            "networking.gke.io/v1",
            "GCPBackendPolicy",
            engine_name(deployment, pool),
            deployment,
            component=ENGINE,
            pool=pool,
            spec={"default": {"timeoutSec": seconds(deployment)}, "targetRef": target},
        ),
    ]


def _istio(deployment: Deployment, pool: Pool) -> Object:
    host = f"{picker_name(deployment, pool)}.{deployment.deploy.namespace}.svc.cluster.local"
    tls = {"mode": "SIMPLE", "insecureSkipVerify": True}
    return made(
        "networking.istio.io/v1",
        "DestinationRule",
        picker_name(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        spec={"host": host, "trafficPolicy": {"tls": Because(tls, "pickers sign their own certificate")}},
    )
