"""Certificates, secrets and the mesh: cert-manager, External Secrets, Istio, Linkerd.

Linkerd's proxies encrypt what goes between pods that carry its annotations, and `default-inbound-policy` turns away
whoever has no identity (`objects.meshed`). Whose identity an engine accepts is said by either mesh's own objects.
"""

from __future__ import annotations

from gemstead.render.because import Because
from gemstead.render.deployment import ADMIN_PORT, ENGINE_PORT, Deployment
from gemstead.render.gatewayfile import secret_names
from gemstead.render.kubernetes import enginetls
from gemstead.render.kubernetes.cache import token_key
from gemstead.render.kubernetes.objects import ENGINE, GATEWAY, PICKER, Object, made, selector


def objects(deployment: Deployment) -> list[Object]:
    """What the file asks for of these."""
    kubernetes = deployment.deploy.kubernetes
    found: list[Object] = []
    if kubernetes.issuer:
        found.append(_certificate(deployment))
    found += enginetls.objects(deployment)
    if kubernetes.secret_store and (names := wanted_secrets(deployment)):
        found.append(_secrets(deployment, names))
    if kubernetes.mesh == "istio":
        found += _istio(deployment)
    if kubernetes.mesh == "linkerd":
        found += _linkerd(deployment)
    return found


def wanted_secrets(deployment: Deployment) -> list[str]:
    """Keys that the Secret `NAME-secrets` must have."""
    names = set(secret_names(deployment))
    if token := token_key(deployment):
        names.add(token)
    return sorted(names)


def _certificate(deployment: Deployment) -> Object:
    namespace = deployment.deploy.namespace
    inside = [deployment.name, f"{deployment.name}.{namespace}", f"{deployment.name}.{namespace}.svc"]
    host = [deployment.deploy.host] if deployment.deploy.host else []
    return made(
        "cert-manager.io/v1",
        "Certificate",
        f"{deployment.name}-gateway",
        deployment,
        component=GATEWAY,
        spec={
            "secretName": f"{deployment.name}-tls",
            "dnsNames": Because(host, "a public issuer signs public names only") if host else inside,
            "duration": "2160h",
            "renewBefore": Because("720h", "a month to notice that renewing fails; the gateway reads it again"),
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["server auth"],
            "issuerRef": {"kind": "ClusterIssuer", "name": deployment.deploy.kubernetes.issuer,
                          "group": "cert-manager.io"},
        },
    )  # fmt: skip


def _secrets(deployment: Deployment, names: list[str]) -> Object:
    store = deployment.deploy.kubernetes.secret_store
    name = f"{deployment.name}-secrets"
    return made(
        "external-secrets.io/v1",
        "ExternalSecret",
        name,
        deployment,
        spec={
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": store},
            "target": {"name": name, "creationPolicy": "Owner", "deletionPolicy": "Retain"},
            "data": [
                {"secretKey": one, "remoteRef": {"key": f"{deployment.name}-{one}".lower().replace("_", "-")}}
                for one in names
            ],
        },
    )


def _istio(deployment: Deployment) -> list[Object]:
    namespace, name = deployment.deploy.namespace, deployment.name
    accounts = [f"{name}-gateway"]
    routes = deployment.deploy.kubernetes.routes
    if inside := bool(routes and routes.inference):
        accounts += [f"{name}-picker", f"{name}-inference-istio"]  # Istio names a Gateway's account so
    principals = [f"cluster.local/ns/{namespace}/sa/{account}" for account in accounts]
    found = [
        made(
            "security.istio.io/v1",
            "PeerAuthentication",
            name,
            deployment,
            spec={"mtls": {"mode": Because("STRICT", "nothing in this namespace is spoken in clear")}},
        ),
        _but(
            deployment,
            GATEWAY,
            {ADMIN_PORT: "PERMISSIVE"},
            "metrics and health, for who has no sidecar",
        ),
        made(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            f"{name}-engines",
            deployment,
            component=ENGINE,
            spec={
                "selector": {"matchLabels": selector(deployment, ENGINE)},
                "action": "ALLOW",
                "rules": [
                    {
                        "from": [{"source": {"principals": principals}}],
                        "to": [{"operation": {"ports": [str(ENGINE_PORT)]}}],
                    }
                ],
            },
        ),
        made(
            "networking.istio.io/v1",
            "DestinationRule",
            f"{name}-engines",
            deployment,
            component=ENGINE,
            spec={
                "host": f"*.{namespace}.svc.cluster.local",
                "trafficPolicy": {
                    "tls": {"mode": "ISTIO_MUTUAL"},
                    "connectionPool": {"tcp": {"connectTimeout": "5s"}},
                },
            },
        ),
    ]
    if inside:
        why = "the picker speaks TLS itself, and its probes and metrics come from outside the mesh"
        found.append(_but(deployment, PICKER, {9002: "DISABLE", 9003: "PERMISSIVE", 9090: "PERMISSIVE"}, why))
    return found


def _linkerd(deployment: Deployment) -> list[Object]:
    """Engines are spoken to by the gateway (and the picker), and by who reads metrics."""
    name, kubernetes = f"{deployment.name}-engines", deployment.deploy.kubernetes
    accounts = [f"{deployment.name}-gateway"]
    if kubernetes.routes and kubernetes.routes.inference:
        accounts.append(f"{deployment.name}-picker")
    callers: list[Object | Because] = [{"kind": "ServiceAccount", "name": account} for account in accounts]
    watchers = {"kind": "Namespace", "name": kubernetes.monitoring_namespace}
    callers.append(Because(watchers, "who reads metrics, if it is in the mesh"))
    group = "policy.linkerd.io"
    return [
        made(
            f"{group}/v1beta3",
            "Server",
            name,
            deployment,
            component=ENGINE,
            spec={
                "podSelector": {"matchLabels": selector(deployment, ENGINE)},
                "port": ENGINE_PORT,
                "proxyProtocol": Because("HTTP/1", "said, so that the first bytes need not be waited for"),
                "accessPolicy": Because(
                    "deny", "engines know no keys: who is not named below is turned away"
                ),
            },
        ),
        made(
            f"{group}/v1alpha1",
            "MeshTLSAuthentication",
            name,
            deployment,
            component=ENGINE,
            spec={"identityRefs": callers},
        ),
        made(
            f"{group}/v1alpha1",
            "AuthorizationPolicy",
            name,
            deployment,
            component=ENGINE,
            spec={
                "targetRef": {"group": group, "kind": "Server", "name": name},
                "requiredAuthenticationRefs": [
                    {"group": group, "kind": "MeshTLSAuthentication", "name": name}
                ],
            },
        ),
    ]


def _but(deployment: Deployment, component: str, ports: dict[int, str], why: str) -> Object:
    """STRICT but for these ports."""
    return made(
        "security.istio.io/v1",
        "PeerAuthentication",
        f"{deployment.name}-{component}",
        deployment,
        component=component,
        spec={
            "selector": {"matchLabels": selector(deployment, component)},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": Because({str(port): {"mode": mode} for port, mode in ports.items()}, why),
        },
    )
