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
from gemstead.render.kubernetes import picker
from gemstead.render.kubernetes.objects import (
    ENGINE,
    PICKER,
    Object,
    engine_name,
    made,
    selector,
)
from gemstead.render.kubernetes.routes import API, CLASSES, INSIDE, seconds
from gemstead.spec.kubernetes import InferenceSpec, RoutesSpec

MODEL_HEADER = "X-Gateway-Model-Name"  # set by the body-based router
PRIORITIES = (("critical", 10), ("standard", 0), ("sheddable", -10))


def objects(deployment: Deployment) -> list[Object]:
    """Everything of the extension; nothing where it is not asked for.

    Raises:
        Refused: an engine without the metrics that a picker reads.
    """
    routes = deployment.deploy.kubernetes.routes
    if routes is None or routes.inference is None:
        return []
    found = [_gateway(deployment, routes), *picker.access(deployment)]
    for pool in deployment.pools:
        if pool.setup.engine == "ollama":
            raise Refused(
                Reason.BAD_REQUEST,
                f"{pool.name}: Ollama shows no metrics to pick by; an InferencePool wants another engine",
            )
        found += _of_pool(deployment, pool, routes, routes.inference)
    return found


def _of_pool(deployment: Deployment, pool: Pool, routes: RoutesSpec, chosen: InferenceSpec) -> list[Object]:
    found = [
        _pool(deployment, pool, chosen),
        *(_objective(deployment, pool, chosen, name, value) for name, value in PRIORITIES),
        _route(deployment, pool, routes),
        picker.settings(deployment, pool, chosen),
        picker.service(deployment, pool),
        picker.workload(deployment, pool, chosen),
        picker.network(deployment, pool),
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
        "name": picker.named(deployment, pool),
        "port": {"number": picker.EXT_PROC},
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
    host = f"{picker.named(deployment, pool)}.{deployment.deploy.namespace}.svc.cluster.local"
    tls = {"mode": "SIMPLE", "insecureSkipVerify": True}
    return made(
        "networking.istio.io/v1",
        "DestinationRule",
        picker.named(deployment, pool),
        deployment,
        component=PICKER,
        pool=pool,
        spec={"host": host, "trafficPolicy": {"tls": Because(tls, "pickers sign their own certificate")}},
    )
