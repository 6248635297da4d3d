"""The gateway in the cluster: a pod with its own disk, a Service, its file, and its budget.

Its keys and records lie in a file that one process writes, so there is one of it: a second would not know the first
one's keys. A restart takes seconds, and its disk follows it to another node. With a store that gateways share
(`ledger.store`) there are several: see `several.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import ADMIN_PORT, GATEWAY_PORT, Deployment
from gemstead.render.docker_gateway import STATE
from gemstead.render.dockerfile import USER
from gemstead.render.gatewayfile import from_files, gateway_file, secret_names
from gemstead.render.kubernetes import enginetls, several
from gemstead.render.kubernetes.cache import SECRETS, secret_volume, small
from gemstead.render.kubernetes.hardware import apart, spread
from gemstead.render.kubernetes.objects import (
    GATEWAY,
    Object,
    made,
    meshed,
    pod_security,
    restricted,
    selector,
)
from gemstead.spec.kubernetes import RegionSpec
from gemstead.spec.model import TlsSpec

TLS = "/etc/gemstead-tls"  # not below /etc/gemstead, which is mounted read-only
PRESTOP_S = 10


def objects(deployment: Deployment) -> list[Object]:
    """Everything of the gateway but who may reach it."""
    several.checked(deployment)
    enginetls.checked(deployment)
    text = file(deployment)
    return [
        _file(deployment, text),
        _service(deployment),
        _budget(deployment),
        _workload(deployment, text),
        *several.objects(deployment),
    ]


def has_tls(deployment: Deployment) -> bool:
    """Whether the gateway itself speaks TLS: the file says so, or there is an issuer and no mesh that does it."""
    kubernetes = deployment.deploy.kubernetes
    return deployment.spec.gateway.tls is not None or (bool(kubernetes.issuer) and kubernetes.mesh == "off")


def beyond(deployment: Deployment) -> list[RegionSpec]:
    """Clusters that take what has no room in this one."""
    return [region for region in deployment.deploy.kubernetes.regions if region.burst and region.url]


def digest(text: str) -> str:
    """What a pod carries of its file, so that another file makes another pod."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_alone(deployment: Deployment) -> str:
    """The file of a cluster that sends no calls to others; no line feed at its end, which Kustomize's patches lose."""
    return file(deployment, alone=True).rstrip("\n")


def file(deployment: Deployment, *, alone: bool = False) -> str:
    """The gateway's `gemstead.yaml`; `alone`: of a cluster that sends no calls to others."""
    spec = deployment.spec
    if has_tls(deployment):
        old = spec.gateway.tls
        tls = TlsSpec(
            certificate=f"{TLS}/tls.crt",
            key=f"{TLS}/tls.key",
            client_ca=f"{TLS}/ca.crt" if old and old.client_ca else None,
            client_certificate=old.client_certificate if old else "optional",
        )
        spec = spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"tls": tls})})
    urls = {pool.name: [enginetls.url(deployment, pool)] for pool in deployment.pools}
    text = gateway_file(
        replace(deployment, spec=spec),
        urls,
        state_dir=STATE,
        discover=True,
        beyond=[] if alone else beyond(deployment),
        endpoint=enginetls.endpoint(deployment),
    )
    return from_files(text, SECRETS)


def longest_s(deployment: Deployment) -> int:
    """Seconds of the longest answer of any model."""
    return max((pool.longest_answer_s for pool in deployment.pools), default=60)


def _file(deployment: Deployment, text: str) -> Object:
    return made(
        "v1",
        "ConfigMap",
        f"{deployment.name}-gateway",
        deployment,
        component=GATEWAY,
        data={"gemstead.yaml": text},
    )


def _service(deployment: Deployment) -> Object:
    tls = has_tls(deployment)
    port = {
        "name": "https" if tls else "http",
        "port": 443 if tls else 80,
        "targetPort": "callers",
        "protocol": "TCP",
        "appProtocol": "https" if tls else "http",
    }
    return made(
        "v1",
        "Service",
        deployment.name,
        deployment,
        component=GATEWAY,
        spec={
            "type": Because("ClusterIP", "reached from outside through a Gateway or an Ingress, if at all"),
            "selector": selector(deployment, GATEWAY),
            "ports": [port],
        },
    )


def _budget(deployment: Deployment) -> Object:
    return made(
        "policy/v1",
        "PodDisruptionBudget",
        f"{deployment.name}-gateway",
        deployment,
        component=GATEWAY,
        spec={
            "maxUnavailable": Because(
                1,
                "one after the other"
                if several.shared(deployment)
                else "there is one: it may be moved, which takes seconds",
            ),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(deployment, GATEWAY)},
        },
    )


def _workload(deployment: Deployment, text: str) -> Object:
    longest = longest_s(deployment)
    notes: Object = {
        "gemstead/config": Because(digest(text), "another file makes another pod: it is read at the start"),
        "kubectl.kubernetes.io/default-container": "gateway",
    }
    notes |= meshed(deployment)
    pod: Object = {
        "serviceAccountName": f"{deployment.name}-gateway",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": f"{deployment.name}-gateway",
        "terminationGracePeriodSeconds": Because(
            longest + 30 + PRESTOP_S, f"the longest answer may take {longest} s, and 30 s to end"
        ),
        "securityContext": pod_security(USER),
        "affinity": {"podAntiAffinity": apart(selector(deployment, GATEWAY))},
        "topologySpreadConstraints": spread(selector(deployment, GATEWAY)),
        "containers": [_container(deployment)],
        "volumes": _volumes(deployment),
    }
    claim = {
        "metadata": {"name": "state"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": several.disk(deployment)}},
        },
    }
    return made(
        "apps/v1",
        "StatefulSet",
        f"{deployment.name}-gateway",
        deployment,
        component=GATEWAY,
        spec={
            "serviceName": deployment.name,
            **several.workload(deployment),
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": selector(deployment, GATEWAY)},
            "persistentVolumeClaimRetentionPolicy": Because(
                {"whenDeleted": "Retain", "whenScaled": "Retain"}, "keys and records outlive a mistake"
            ),
            "template": {
                "metadata": {"labels": selector(deployment, GATEWAY), "annotations": notes},
                "spec": pod,
            },
            "volumeClaimTemplates": [claim],
        },
    )


def _container(deployment: Deployment) -> Object:
    mounts: list[Object] = [
        {"name": "state", "mountPath": STATE},
        {"name": "file", "mountPath": "/etc/gemstead", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    if has_tls(deployment):
        mounts.append({"name": "tls", "mountPath": TLS, "readOnly": True})
    mounts += enginetls.gateway_mount(deployment)[1]
    if secret_names(deployment):
        mounts.append({"name": "secrets", "mountPath": SECRETS, "readOnly": True})
    container: Object = {
        "name": "gateway",
        "image": Because(deployment.gateway.reference, deployment.gateway.reason),
        "imagePullPolicy": "IfNotPresent",
        "ports": [
            {"name": "callers", "containerPort": GATEWAY_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
    }
    return container | {
        "securityContext": restricted(),
        "resources": small("2", "2Gi", "1Gi"),
        "startupProbe": {**_asked("/healthz"), "periodSeconds": 2, "failureThreshold": _starts(deployment)},
        "readinessProbe": {
            **_asked("/readyz"),
            "periodSeconds": Because(
                5, "ready while a model answers; without one there is nothing to send here"
            ),
            "failureThreshold": 2,
        },
        "livenessProbe": {
            **_asked("/healthz"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": Because(6, "whether a model answers is no reason to restart the gateway"),
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRESTOP_S}}},
        "volumeMounts": mounts,
    }


def _starts(deployment: Deployment) -> Any:
    if not several.shared(deployment):
        return 60
    return Because(several.START_S // 2, "the first of a new version brings the store's tables forward")


def _asked(path: str) -> Object:
    return {"httpGet": {"path": path, "port": "admin"}, "timeoutSeconds": 5}


def _volumes(deployment: Deployment) -> list[Object]:
    held: list[Object] = [
        {"name": "file", "configMap": {"name": f"{deployment.name}-gateway"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}},
    ]
    if has_tls(deployment):
        secret = {"secretName": f"{deployment.name}-tls", "defaultMode": 0o440}
        held.append({"name": "tls", "secret": secret})
    held += enginetls.gateway_mount(deployment)[0]
    if names := secret_names(deployment):
        held.append(secret_volume(deployment, names))
    return held
