"""Who may talk to whom: nobody, but for what is listed here.

    callers ──4367──> gateway ──8000──> engines          everything ──53──> DNS
    monitoring ──4368──> gateway, ──8000──> engines      models Job ──443──> the hub

Engines go nowhere else: a model that is made to write an address into its answer cannot have it fetched, and weights
cannot be sent away.
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import ADMIN_PORT, ENGINE_PORT, GATEWAY_PORT, Deployment
from gemstead.render.kubernetes import cache, google, hardware
from gemstead.render.kubernetes.objects import (
    ENGINE,
    GATEWAY,
    MODELS,
    PICKER,
    Object,
    engine_name,
    made,
    selector,
)

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"]
GOOGLE_CHECKS = ("35.191.0.0/16", "130.211.0.0/22")  # Google's load balancers and their health checks
METADATA = ("169.254.169.254/32", "169.254.169.252/32")  # GKE's metadata server, for workload identity

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"  # label of the proxies that a Gateway gets
# Flavours whose proxies run beside the Gateway: namespace and port of what tells them their routes.
BESIDE = {"istio": ("istio-system", 15012), "kgateway": ("kgateway-system", 9977)}
# Namespace and ports of each mesh's control plane, which proxies ask for certificates and routes.
CONTROL_PLANES: dict[str, tuple[str, tuple[int, ...]]] = {
    "istio": ("istio-system", (15012,)),
    "linkerd": ("linkerd", (8080, 8086, 8090)),
}


def objects(deployment: Deployment) -> list[Object]:
    """Every policy of the namespace."""
    found = [
        _policy(deployment, "deny-all", {}, ingress=[], egress=[]),
        _policy(deployment, "dns", {}, egress=[_dns()]),
        _gateway(deployment),
        _engines(deployment),
    ]
    found += _data_plane(deployment)
    if cache.wanted(deployment):
        hub = {"to": [outside()], "ports": [_port(443)]}
        found.append(
            _policy(
                deployment,
                "models",
                selector(deployment, MODELS),
                egress=[Because(hub, "the hub has no fixed addresses; nothing private is reached")],
            )
        )
    if control := CONTROL_PLANES.get(deployment.deploy.kubernetes.mesh):
        name, ports = control
        rule = {"to": [in_namespace(name)], "ports": [_port(port) for port in ports]}
        found.append(_policy(deployment, "mesh", {}, egress=[rule]))
    for pool in deployment.pools:
        if hardware.nodes(pool, deployment) > 1:
            own = {"podSelector": {"matchLabels": selector(deployment, ENGINE, pool)}}
            found.append(
                _policy(
                    deployment,
                    f"{engine_name(deployment, pool)}-ranks",
                    selector(deployment, ENGINE, pool),
                    ingress=[{"from": [own]}],
                    egress=[Because({"to": [own]}, "ranks of one replica talk on ports that they choose")],
                )
            )
    return found


def proxies(deployment: Deployment, gateway: str) -> list[Any]:
    """Who a Gateway's proxies are: pods beside it, pods of another namespace, or addresses outside the cluster."""
    routes = deployment.deploy.kubernetes.routes
    if routes is None:
        return []
    if routes.flavour == "gke":
        return [{"ipBlock": {"cidr": block}} for block in routes.proxies]
    if routes.flavour in BESIDE:
        return [{"podSelector": {"matchLabels": {GATEWAY_NAME: gateway}}}]
    return [in_namespace("envoy-gateway-system")]


def _data_plane(deployment: Deployment) -> list[Object]:
    """What proxies that run in this namespace may do: take calls, and send them on."""
    routes = deployment.deploy.kubernetes.routes
    if routes is None or routes.flavour not in BESIDE:
        return []
    name, port = BESIDE[routes.flavour]
    control = {"to": [in_namespace(name)], "ports": [_port(port)]}
    ours: list[Any] = [{"podSelector": {"matchLabels": selector(deployment, GATEWAY)}}]
    found = [
        _policy(
            deployment,
            "callers-proxies",
            {GATEWAY_NAME: f"{deployment.name}-callers"},
            ingress=[Because({"ports": [_port(80), _port(443)]}, "everybody: callers come in here")],
            egress=[{"to": ours, "ports": [_port(GATEWAY_PORT)]}, control],
        )
    ]
    if routes.inference:
        engines = [{"podSelector": {"matchLabels": selector(deployment, ENGINE)}}]
        pickers = [{"podSelector": {"matchLabels": selector(deployment, PICKER)}}]
        found.append(
            _policy(
                deployment,
                "inference-proxies",
                {GATEWAY_NAME: f"{deployment.name}-inference"},
                ingress=[
                    Because(
                        {"from": [{"namespaceSelector": {}}], "ports": [_port(80)]},
                        "pods of this cluster: this Gateway asks for no keys",
                    )
                ],
                egress=[
                    {"to": engines, "ports": [_port(ENGINE_PORT)]},
                    {"to": pickers, "ports": [_port(9002)]},
                    control,
                ],
            )
        )
    return found


def outside() -> Object:
    """Every address that is not private."""
    return {"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE}}


def in_namespace(name: str) -> Object:
    """All pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _port(number: int, protocol: str = "TCP") -> Object:
    return {"port": number, "protocol": protocol}


def _policy(
    deployment: Deployment,
    name: str,
    chosen: dict[str, str],
    ingress: list[Any] | None = None,
    egress: list[Any] | None = None,
) -> Object:
    spec: Object = {"podSelector": {"matchLabels": chosen} if chosen else {}}
    spec["policyTypes"] = [
        kind for kind, rules in (("Ingress", ingress), ("Egress", egress)) if rules is not None
    ]
    if ingress is not None:
        spec["ingress"] = ingress
    if egress is not None:
        spec["egress"] = egress
    full = name if name.startswith(deployment.name) else f"{deployment.name}-{name}"
    return made("networking.k8s.io/v1", "NetworkPolicy", full, deployment, component="network", spec=spec)


def _dns() -> Object:
    cluster = {**in_namespace("kube-system"), "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    return {
        "to": [
            cluster,
            Because({"ipBlock": {"cidr": "169.254.20.10/32"}}, "NodeLocal DNS, where there is one"),
        ],
        "ports": [_port(53, "UDP"), _port(53)],
    }


def _gateway(deployment: Deployment) -> Object:
    kubernetes = deployment.deploy.kubernetes
    callers: list[Any] = [Because({"namespaceSelector": {}}, "pods of this cluster; keys say who they are")]
    blocks = list(kubernetes.callers)
    if kubernetes.routes and hardware.is_google(deployment):
        blocks += [*kubernetes.routes.proxies, *GOOGLE_CHECKS]
    callers += [{"ipBlock": {"cidr": block}} for block in blocks]
    engines = [
        {"podSelector": {"matchLabels": selector(deployment, ENGINE, pool)}} for pool in deployment.pools
    ]
    egress: list[Any] = [{"to": engines, "ports": [_port(ENGINE_PORT)]}] if engines else []
    for port in sorted({_port_of(url) for url in _external(deployment)}):
        rule = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [_port(port)]}
        egress.append(Because(rule, "models that run elsewhere: narrow this to their addresses"))
    if google.asks_google(deployment):
        why = "secrets and buckets of Google's that the file names"
        egress.append(Because({"to": [outside()], "ports": [_port(443)]}, why))
        egress.append(_google_token("the token for them"))
    for one in kubernetes.stores:
        there: list[Any] = [{"ipBlock": {"cidr": block}} for block in one.addresses]
        if one.namespace:
            chosen = {"podSelector": {"matchLabels": dict(one.labels)}} if one.labels else {}
            there.append({**in_namespace(one.namespace), **chosen})
        egress.append(Because({"to": there, "ports": [_port(one.port)]}, "what gateways share, and no more"))
    if kubernetes.egress:
        rule = {"to": [{"ipBlock": {"cidr": block}} for block in kubernetes.egress]}
        egress.append(Because(rule, "as the file says"))
    ingress = [
        {"from": callers, "ports": [_port(GATEWAY_PORT)]},
        {"from": [in_namespace(kubernetes.monitoring_namespace)], "ports": [_port(ADMIN_PORT)]},
    ]
    if hardware.is_google(deployment):
        checks = [{"ipBlock": {"cidr": block}} for block in GOOGLE_CHECKS]
        ingress.append({"from": checks, "ports": [_port(ADMIN_PORT)]})
    return _policy(deployment, "gateway", selector(deployment, GATEWAY), ingress=ingress, egress=egress)


def _google_token(why: str) -> Because:
    """To GKE's metadata server, which says who a pod acts as."""
    account = [{"ipBlock": {"cidr": block}} for block in METADATA]
    return Because({"to": account, "ports": [_port(80), _port(988)]}, why)


def _external(deployment: Deployment) -> list[str]:
    own = [one.url for model in deployment.spec.models for one in model.endpoints]
    return own + [region.url for region in deployment.deploy.kubernetes.regions if region.url]


def _port_of(url: str) -> int:
    scheme, _, rest = url.partition("://")
    said = rest.partition("/")[0].rpartition(":")[2]
    return int(said) if said.isdigit() else 443 if scheme == "https" else 80


def _engines(deployment: Deployment) -> Object:
    kubernetes = deployment.deploy.kubernetes
    from_gateway: list[Any] = [{"podSelector": {"matchLabels": selector(deployment, GATEWAY)}}]
    routes = deployment.deploy.kubernetes.routes
    if routes and routes.inference:
        from_gateway.append({"podSelector": {"matchLabels": selector(deployment, PICKER)}})
        from_gateway += proxies(deployment, f"{deployment.name}-inference")
        if hardware.is_google(deployment):
            from_gateway += [{"ipBlock": {"cidr": block}} for block in GOOGLE_CHECKS]
    scrapes = in_namespace(deployment.deploy.kubernetes.monitoring_namespace)
    egress: list[Any] = []
    if any(cache.kind(deployment, pool).startswith("bucket") for pool in deployment.pools):
        egress.append(
            Because({"to": [outside()], "ports": [_port(443)]}, "weights come from a bucket over HTTPS")
        )
        egress.append(_google_token("the token for the bucket"))
    return _policy(
        deployment,
        "engines",
        selector(deployment, ENGINE),
        ingress=[
            {"from": [*from_gateway, scrapes], "ports": [_port(ENGINE_PORT)]},
            *([{"from": [scrapes], "ports": [_port(15020)]}] if kubernetes.mesh == "istio" else []),
        ],
        egress=egress,
    )
