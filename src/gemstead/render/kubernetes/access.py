"""Who may do what in the namespace: the namespace itself, accounts without rights, priorities, and roles for people.

No pod of ours asks the cluster anything, so no account has a right and no token is mounted. Three groups of people have
roles: operators change workloads and cannot read secrets, developers look, auditors see what is there and nothing that
callers have written (no logs).
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import google
from gemstead.render.kubernetes.objects import Object, made

READ = ["get", "list", "watch"]
CHANGE = [*READ, "patch", "update"]


def objects(deployment: Deployment) -> list[Object]:
    """Namespace, accounts, priorities, roles and their bindings."""
    accounts = [
        made(
            "v1",
            "ServiceAccount",
            f"{deployment.name}-{part}",
            deployment,
            component=part,
            annotations=google.identity(deployment, part),
            automountServiceAccountToken=False,
        )
        for part in ("gateway", "engine", "models")
    ]
    return [namespace(deployment), *accounts, *_priorities(deployment), *_roles(deployment)]


def namespace(deployment: Deployment) -> Object:
    """The namespace, which takes only pods without rights."""
    found = made("v1", "Namespace", deployment.deploy.namespace, deployment, namespaced=False)
    mode = "pod-security.kubernetes.io"
    found["metadata"]["labels"] |= {
        f"{mode}/enforce": Because("restricted", "the cluster itself refuses a pod with more rights"),
        f"{mode}/warn": "restricted",
        f"{mode}/audit": "restricted",
    }
    if deployment.deploy.kubernetes.mesh == "istio":
        found["metadata"]["labels"]["istio-injection"] = "enabled"
    return found


def _priorities(deployment: Deployment) -> list[Object]:
    rows = (
        ("gateway", 1_000_000, "without it nobody reaches any model"),
        ("engine", 900_000, "before batch work, after the gateway"),
    )
    return [
        made(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            f"{deployment.name}-{part}",
            deployment,
            component=part,
            namespaced=False,
            value=Because(value, why),
            globalDefault=False,
            description=f"The {part} of {deployment.name}",
        )
        for part, value, why in rows
    ]


def _roles(deployment: Deployment) -> list[Object]:
    engines = ["deployments", "statefulsets"]
    look: list[Any] = [
        {"apiGroups": [""], "resources": ["pods", "services", "configmaps", "events", "persistentvolumeclaims"],
         "verbs": READ},
        {"apiGroups": ["apps"], "resources": [*engines, "replicasets"], "verbs": READ},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": READ},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": READ},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": READ},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": READ},
    ]  # fmt: skip
    logs = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    operate: list[Any] = [
        *look,
        logs,
        {"apiGroups": ["apps"], "resources": engines, "verbs": CHANGE},
        {"apiGroups": ["apps"], "resources": [f"{one}/scale" for one in engines], "verbs": CHANGE},
        {"apiGroups": ["leaderworkerset.x-k8s.io", "argoproj.io"],
         "resources": ["leaderworkersets", "leaderworkersets/scale", "rollouts", "rollouts/scale"], "verbs": CHANGE},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]},
        {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
    ]  # fmt: skip
    audit: list[Any] = [
        *look,
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": READ},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": READ},
    ]
    people = (("operator", operate), ("developer", [*look, logs]), ("auditor", audit))
    found: list[Object] = []
    for who, rules in people:
        name = f"{deployment.name}-{who}"
        found.append(
            made("rbac.authorization.k8s.io/v1", "Role", name, deployment, component=who, rules=rules)
        )
        group = {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Group",
            "name": f"{deployment.name}-{who}s",
        }
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        found.append(
            made(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                name,
                deployment,
                component=who,
                roleRef=role,
                subjects=Because([group], "a group of your identity provider"),
            )
        )
    return found
