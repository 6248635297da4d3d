"""How callers come in: a Gateway of the Gateway API before Gemstead's, in four flavours, and Google's policies with it.

    caller ──TLS──> Gateway ──> Gemstead (keys, limits, audit) ──> engines

The Gateway ends TLS, redirects plain HTTP, and knows nothing of tokens. Its time limits are the longest answer's, not
the usual half minute. Weights send part of the calls to another version; a mirror gets copies.
"""

from __future__ import annotations

from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import ADMIN_PORT, Deployment
from gemstead.render.kubernetes.gateway import has_tls, longest_s
from gemstead.render.kubernetes.objects import Object, made
from gemstead.spec.kubernetes import RoutesSpec

API = "gateway.networking.k8s.io/v1"
CLASSES = {
    "gke": "gke-l7-regional-external-managed",
    "istio": "istio",
    "kgateway": "kgateway",
    "envoy-gateway": "eg",
}
INSIDE = {"gke": "gke-l7-rilb"}  # classes of Gateways that only the cluster's network reaches


def objects(deployment: Deployment) -> list[Object]:
    """The Gateway, its routes and the flavour's policies; nothing where none is asked for.

    Raises:
        Refused: Model Armor elsewhere than on Google's Gateway, or no host name.
    """
    routes = deployment.deploy.kubernetes.routes
    if routes is None:
        return []
    if not deployment.deploy.host:
        raise Refused(Reason.BAD_REQUEST, "deploy.host: a Gateway needs the name that callers use")
    if routes.armor and routes.flavour != "gke":
        raise Refused(
            Reason.BAD_REQUEST,
            "deploy.kubernetes.routes.armor: Model Armor is in Google's Gateway (gke) only",
        )
    if routes.flavour == "gke" and not routes.proxies:
        raise Refused(
            Reason.BAD_REQUEST,
            "deploy.kubernetes.routes.proxies: Google's Gateway calls from the proxy-only subnet, which network "
            "policies must name: gcloud compute networks subnets list --filter=purpose=REGIONAL_MANAGED_PROXY",
        )
    found = [_gateway(deployment, routes), _redirect(deployment), _route(deployment, routes)]
    if routes.flavour == "gke":
        found += _google(deployment, routes)
    if routes.flavour == "envoy-gateway":
        found.append(_envoy(deployment))
    if has_tls(deployment) and routes.flavour != "gke":
        found.append(_backend_tls(deployment))
    return found


def gateway_name(deployment: Deployment) -> str:
    """Name of the Gateway that callers use."""
    return f"{deployment.name}-callers"


def seconds(deployment: Deployment) -> int:
    """How long a call may take: the longest answer, and a minute to wait for its turn."""
    return longest_s(deployment) + 60


def _why_long(deployment: Deployment) -> str:
    return f"the longest answer may take {longest_s(deployment)} s; the usual limit would cut it off"


def _gateway(deployment: Deployment, routes: RoutesSpec) -> Object:
    host = deployment.deploy.host
    secure = {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": host,
        "tls": {
            "mode": "Terminate",
            "certificateRefs": [
                {"group": "", "kind": "Secret", "name": f"{deployment.name}-tls"},
            ],
        },
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    plain = {
        "name": "http",
        "port": 80,
        "protocol": "HTTP",
        "hostname": host,
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    return made(
        API,
        "Gateway",
        gateway_name(deployment),
        deployment,
        spec={
            "gatewayClassName": Because(
                routes.gateway_class or CLASSES[routes.flavour], f"the class that {routes.flavour} installs"
            )
            if not routes.gateway_class
            else routes.gateway_class,
            "listeners": [secure, Because(plain, "only to send callers to HTTPS")],
        },
    )


def _parent(deployment: Deployment, section: str) -> Object:
    return {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway_name(deployment),
            "sectionName": section}  # fmt: skip


def _redirect(deployment: Deployment) -> Object:
    rule = {
        "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]
    }
    return made(
        API,
        "HTTPRoute",
        f"{deployment.name}-to-https",
        deployment,
        spec={
            "parentRefs": [_parent(deployment, "http")],
            "hostnames": [deployment.deploy.host],
            "rules": [rule],
        },
    )


def _route(deployment: Deployment, routes: RoutesSpec) -> Object:
    port = 443 if has_tls(deployment) else 80
    main: Object = {"kind": "Service", "group": "", "name": deployment.name, "port": port}
    backends: list[Any] = [main]
    if routes.canary:
        main["weight"] = 100 - routes.canary_percent
        other = {**main, "name": routes.canary, "weight": routes.canary_percent}
        backends.append(Because(other, f"{routes.canary_percent} of 100 calls go to the other version"))
    rule: Object = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "backendRefs": backends,
    }
    if routes.flavour != "gke":  # Google's Gateway takes it from GCPBackendPolicy
        limit = f"{seconds(deployment)}s"
        rule["timeouts"] = Because({"request": limit, "backendRequest": limit}, _why_long(deployment))
    rules = [rule]
    if routes.canary:
        header = {"type": "Exact", "name": "x-gemstead-release", "value": "canary"}
        sure = {
            "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}, "headers": [header]}],
            "backendRefs": [{"kind": "Service", "group": "", "name": routes.canary, "port": port}],
        }
        rules.insert(0, Because(sure, "who asks for the other version by a header gets it"))  # type: ignore[arg-type]
    if routes.mirror:
        copy: Object = {"backendRef": {"kind": "Service", "group": "", "name": routes.mirror, "port": port}}
        if routes.flavour != "gke":
            copy["percent"] = routes.mirror_percent
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": copy}]
    return made(
        API,
        "HTTPRoute",
        f"{deployment.name}-callers",
        deployment,
        spec={
            "parentRefs": [_parent(deployment, "https")],
            "hostnames": [deployment.deploy.host],
            "rules": rules,
        },
    )


def _service_ref(deployment: Deployment) -> Object:
    return {"group": "", "kind": "Service", "name": deployment.name}


def _google(deployment: Deployment, routes: RoutesSpec) -> list[Object]:
    backend = made(
        "networking.gke.io/v1",
        "GCPBackendPolicy",
        deployment.name,
        deployment,
        spec={
            "default": {
                "timeoutSec": Because(seconds(deployment), _why_long(deployment)),
                "connectionDraining": {"drainingTimeoutSec": Because(
                    min(3600, longest_s(deployment)), "answers that run may end")},
                "logging": Because({"enabled": True, "sampleRate": 100_000},
                                   "a tenth of calls, without their content; Gemstead's audit has all"),
            },
            "targetRef": _service_ref(deployment),
        },
    )  # fmt: skip
    health = made(
        "networking.gke.io/v1",
        "HealthCheckPolicy",
        deployment.name,
        deployment,
        spec={
            "default": {
                "checkIntervalSec": 5,
                "timeoutSec": 5,
                "healthyThreshold": 1,
                "unhealthyThreshold": 2,
                "config": {
                    "type": "HTTP",
                    "httpHealthCheck": {
                        "portSpecification": "USE_FIXED_PORT",
                        "port": ADMIN_PORT,
                        "requestPath": Because("/readyz", "the default `/` says nothing of models"),
                    },
                },
            },
            "targetRef": _service_ref(deployment),
        },
    )
    found = [backend, health]
    if routes.armor:
        found.append(_armor(deployment, routes.armor.template))
    return found


def _armor(deployment: Deployment, template: str) -> Object:
    location = template.split("/")[3]
    extension = {
        "name": "model-armor",
        "googleAPIServiceName": f"modelarmor.{location}.rep.googleapis.com",
        "supportedEvents": [
            "RequestHeaders",
            "RequestBody",
            "RequestTrailers",
            "ResponseHeaders",
            "ResponseBody",
            "ResponseTrailers",
        ],
        "timeout": "1s",
        "failOpen": Because(False, "what could not be screened is not let through"),
        "metadata": {"model_armor_settings": _armor_settings(deployment, template)},
    }
    chain = {
        "name": "screen",
        "matchCondition": {"celExpressions": [{"celMatcher": 'request.path.startsWith("/v1/")'}]},
        "extensions": [extension],
    }
    return made(
        "networking.gke.io/v1",
        "GCPTrafficExtension",
        f"{deployment.name}-model-armor",
        deployment,
        spec={
            "targetRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway_name(deployment)}
            ],
            "extensionChains": [chain],
        },
    )


def _armor_settings(deployment: Deployment, template: str) -> str:
    import json

    rows = [
        {
            "model": pool.model.name,
            "model_response_template_id": template,
            "user_prompt_template_id": template,
        }
        for pool in deployment.pools
    ]
    return json.dumps(rows)


def _envoy(deployment: Deployment) -> Object:
    return made(
        "gateway.envoyproxy.io/v1alpha1",
        "BackendTrafficPolicy",
        deployment.name,
        deployment,
        spec={
            "targetRefs": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": "HTTPRoute",
                    "name": f"{deployment.name}-callers",
                }
            ],
            "timeout": {
                "tcp": {"connectTimeout": "5s"},
                "http": {"requestTimeout": Because(f"{seconds(deployment)}s", _why_long(deployment))},
            },
            "connection": {
                "bufferLimit": Because("32Mi", "a request with pictures is as large as the gateway allows")
            },
        },
    )


def _backend_tls(deployment: Deployment) -> Object:
    return made(
        "gateway.networking.k8s.io/v1",
        "BackendTLSPolicy",
        deployment.name,
        deployment,
        spec={
            "targetRefs": [_service_ref(deployment)],
            "validation": {
                "hostname": deployment.deploy.host or deployment.name,
                "wellKnownCACertificates": Because(
                    "System", "the gateway's certificate is a public issuer's"
                ),
            },
        },
    )
