"""The README of a bundle for a cluster: what is in it, in which order, and how to check, change, undo and remove it."""

from __future__ import annotations

from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import cache, hardware, several, trust
from gemstead.render.kubernetes.gateway import has_tls
from gemstead.render.kubernetes.objects import Object, engine_name


def text(deployment: Deployment, made: dict[str, list[Object]], target: str) -> str:
    """The README."""
    namespace = deployment.deploy.namespace
    rows = "\n".join(
        f"| `{engine_name(deployment, pool)}` | {pool.setup.model.title} | {int(pool.replicas.value)} | "
        f"{pool.needs.gpus or 'processor'} | {hardware.nodes(pool, deployment)} | {cache.kind(deployment, pool)} |"
        for pool in deployment.pools
    )
    wait = "\n".join(
        f"$ kubectl -n {namespace} get pods -l gemstead/pool={pool.name} -w     "
        f"# up to {pool.startup.allowance_s} s for the first start"
        for pool in deployment.pools
    )
    overlays = "".join(
        f"\n$ kubectl apply -k overlays/{region.name}     # {region.region or region.name}"
        for region in deployment.deploy.kubernetes.regions
    )
    kinds = sorted({one["kind"] for group in made.values() for one in group})
    return f"""# {deployment.name} in a cluster

Made by `gemstead render {target}`. Kubernetes 1.30 or later.

| workload | model | replicas | cards each | nodes each | weights from |
|---|---|---|---|---|---|
{rows}

Kinds: {", ".join(kinds)}.
{operators(deployment)}{secrets(deployment)}
```console
$ kubectl apply -k .{overlays}
{wait}
$ kubectl -n {namespace} exec sts/{deployment.name}-gateway -- gemstead keys create     # shows the key once
$ kubectl -n {namespace} exec sts/{deployment.name}-gateway -- gemstead check           # a dozen real requests
```

Change: render again, read `kubectl diff -k .`, `kubectl apply -k .`. Back: check the old files out and apply them, or
`kubectl -n {namespace} rollout undo deploy/NAME` for one model. Remove: `kubectl delete -k .`; the gateway's volume,
with keys and records, is kept until `kubectl -n {namespace} delete pvc -l app.kubernetes.io/name=gemstead`.
"""


def operators(deployment: Deployment) -> str:
    kubernetes = deployment.deploy.kubernetes
    wanted = []
    if kubernetes.scaling == "keda":
        wanted.append("KEDA")
    if kubernetes.scaling == "hpa":
        wanted.append("a metrics adapter (`prometheus-adapter-values.yaml` holds its rules)")
    if several.scaled(deployment):
        wanted.append("metrics-server, by whose figures the number of gateways follows the load")
    if kubernetes.monitoring == "prometheus-operator":
        wanted.append("Prometheus Operator")
    if kubernetes.issuer:
        wanted.append(f"cert-manager with the ClusterIssuer `{kubernetes.issuer}`")
    if kubernetes.secret_store:
        wanted.append(f"External Secrets with the ClusterSecretStore `{kubernetes.secret_store}`")
    if kubernetes.engine_tls == "cert-manager":
        wanted.append("cert-manager, for the certificates between gateway and engines")
    if kubernetes.mesh != "off":
        wanted.append(
            f"{kubernetes.mesh.capitalize()}, with its CNI plugin (its init container needs rights)"
        )
    if kubernetes.rollouts != "off":
        wanted.append("Argo Rollouts")
    if any(hardware.nodes(pool, deployment) > 1 for pool in deployment.pools):
        wanted.append("LeaderWorkerSet")
    if kubernetes.routes:
        wanted.append(f"Gateway API 1.4 ({kubernetes.routes.flavour})")
        if kubernetes.routes.inference:
            wanted.append("the Gateway API Inference Extension's CRDs, v1")
    if kubernetes.devices == "dra" and any(pool.needs.gpus for pool in deployment.pools):
        wanted.append("a DRA driver for the cards (Kubernetes 1.34)")
    elif any(pool.needs.gpus for pool in deployment.pools):
        wanted.append("the device plugin of the cards' maker")
    return f"\nThe cluster has to have: {'; '.join(wanted)}.\n" if wanted else ""


def secrets(deployment: Deployment) -> str:
    lines = []
    names = trust.wanted_secrets(deployment)
    if names and not deployment.deploy.kubernetes.secret_store:
        pairs = " ".join(f'--from-literal={name}="${name}"' for name in names)
        lines.append(
            f"$ kubectl -n {deployment.deploy.namespace} create secret generic {deployment.name}-secrets {pairs}"
        )
    routes = deployment.deploy.kubernetes.routes
    if (has_tls(deployment) or routes) and not deployment.deploy.kubernetes.issuer:
        lines.append(
            f"$ kubectl -n {deployment.deploy.namespace} create secret tls {deployment.name}-tls --cert=… --key=…"
        )
    if several.shared(deployment):
        lines.append(
            "# ledger.secret is at least 32 characters, the same for all gateways: openssl rand -hex 32"
        )
    if not lines:
        return ""
    return "\nBefore the first start, in the namespace:\n\n```console\n" + "\n".join(lines) + "\n```\n"
