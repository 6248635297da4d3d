"""What every object of the cluster has: names, labels, and the shape that Kubernetes wants.

All objects carry `app.kubernetes.io/part-of`, so that they can be listed, compared and removed together. Selectors use
only labels that never change with a version: a Deployment's selector cannot be changed once it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool

Object = dict[str, Any]
POOL = "gemstead/pool"
GATEWAY, ENGINE, MODELS, PICKER = "gateway", "engine", "models", "picker"


def selector(deployment: Deployment, component: str, pool: Pool | None = None) -> dict[str, str]:
    """Labels that pick out the pods of a part."""
    found = {
        "app.kubernetes.io/name": "gemstead",
        "app.kubernetes.io/instance": deployment.name,
        "app.kubernetes.io/component": component,
    }
    return found | ({POOL: pool.name} if pool else {})


def labels(deployment: Deployment, component: str = "", pool: Pool | None = None) -> dict[str, str]:
    """Labels of an object of a part."""
    base = selector(deployment, component or "service", pool)
    return base | {
        "app.kubernetes.io/part-of": deployment.name,
        "app.kubernetes.io/version": deployment.version,
        "app.kubernetes.io/managed-by": "gemstead",
    }


def made(
    api: str,
    kind: str,
    name: Any,
    deployment: Deployment,
    *,
    component: str = "",
    pool: Pool | None = None,
    annotations: Mapping[str, Any] | None = None,
    namespaced: bool = True,
    **content: Any,
) -> Object:
    """One object with its names and labels; `content` is its other top-level fields."""
    metadata: Object = {"name": name}
    if namespaced:
        metadata["namespace"] = deployment.deploy.namespace
    metadata["labels"] = labels(deployment, component, pool)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def engine_name(deployment: Deployment, pool: Pool) -> str:
    """Name of a pool's workload and of its Service."""
    return f"{deployment.name}-{pool.name}"[:57].rstrip("-")


def restricted(**more: Any) -> Object:
    """A container's security context, as Pod Security's `restricted` wants it and no looser anywhere."""
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **more,
    }


def pod_security(user: int) -> Object:
    """A pod's security context: one user without rights, who owns what it writes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def meshed(deployment: Deployment) -> Object:
    """Annotations by which a mesh takes a pod in."""
    if deployment.deploy.kubernetes.mesh != "linkerd":
        return {}
    return {
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/default-inbound-policy": Because(
            "cluster-authenticated", "who has no identity of the mesh is turned away"
        ),
    }
