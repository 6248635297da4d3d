"""Whether an object of Kubernetes is ready, from its own status; and from its pods, what is wrong when it is not.

A kind without a status that says so (ConfigMap, Service, policies) is ready when it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gemstead.operate.apply.piece import Seen

Object = dict[str, Any]
STUCK = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)


def seen(one: Object) -> Seen:
    """How the object is doing."""
    status, spec = one.get("status") or {}, one.get("spec") or {}
    kind = one["kind"]
    counted = kind in ("Deployment", "StatefulSet", "DaemonSet", "LeaderWorkerSet", "Rollout")
    if counted and status.get("observedGeneration", 0) < one["metadata"].get("generation", 1):
        return Seen(False, "the cluster has not looked at it yet")
    if kind in ("Deployment", "Rollout"):
        return _deployment(spec, status)
    if kind == "StatefulSet":
        wanted = spec.get("replicas", 1)
        updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
        return _counted(min(updated, ready), wanted)
    if kind == "DaemonSet":
        return _counted(
            min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)),
            status.get("desiredNumberScheduled", 0),
        )
    if kind == "LeaderWorkerSet":
        wanted = spec.get("replicas", 1)
        return _counted(min(status.get("updatedReplicas", 0), status.get("readyReplicas", 0)), wanted)
    if kind == "Job":
        return _job(status)
    if kind == "PersistentVolumeClaim" and status.get("phase") == "Lost":
        return Seen(False, "its volume is lost", hopeless=True)
    if kind == "Namespace" and status.get("phase") == "Terminating":
        return Seen(False, "it is being removed; wait until it is gone, then apply again", hopeless=True)
    return Seen(True)


def _deployment(spec: Object, status: Object) -> Seen:
    wanted = spec.get("replicas", 1)
    for condition in status.get("conditions", []):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return Seen(False, condition.get("message") or "it made no progress in time", hopeless=True)
    if status.get("replicas", 0) > status.get("updatedReplicas", 0):
        return Seen(
            False, f"{status.get('replicas', 0) - status.get('updatedReplicas', 0)} old pods still there"
        )
    return _counted(min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0)), wanted)


def _counted(there: int, wanted: int) -> Seen:
    return Seen(True) if there >= wanted else Seen(False, f"{there} of {wanted} ready")


def _job(status: Object) -> Seen:
    for condition in status.get("conditions", []):
        if condition.get("status") != "True":
            continue
        if condition.get("type") in ("Complete", "SuccessCriteriaMet"):
            return Seen(True)
        if condition.get("type") == "Failed":
            return Seen(False, condition.get("message") or "the job failed", hopeless=True)
    return Seen(False, "it runs" if status.get("active") else "it has not begun")


def trouble(pods: Iterable[Object]) -> str:
    """What is wrong with the pods, in a sentence; empty when nothing is known to be."""
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in STUCK or waiting.get("reason") == "CrashLoopBackOff":
                said = waiting.get("message", "")
                return f"pod {name}: {waiting['reason']} {said}".strip()[:300]
        for condition in status.get("conditions", []):
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return f"pod {name} finds no node: {condition.get('message', '')}"[:300]
    return ""
