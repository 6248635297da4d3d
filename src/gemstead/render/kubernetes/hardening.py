"""Twenty points that make a bundle hard to misuse, each a check over the objects as they are applied.

They hold for whatever is rendered (`tests/render/test_hardening.py` takes each away and sees that its check notices),
and `gemstead apply` and a reviewer may run them over files that somebody has changed. Sources: the Kubernetes Pod
Security Standards (`restricted`), the NSA/CISA Kubernetes Hardening Guide 1.2, and what has gone wrong with engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Check = Callable[[list[Object]], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Point:
    """One point: its name, what it demands, and who breaks it."""

    name: str
    demands: str
    broken: Check


def faults(objects: Iterable[Object]) -> list[str]:
    """Every point that is broken, with the object that breaks it; none when all hold."""
    every = list(objects)
    return [f"{point.name}: {who}" for point in POINTS for who in point.broken(every)]


def pods(objects: Iterable[Object]) -> Iterator[tuple[str, Any, Any]]:
    """(who, labels, pod spec) of each template."""
    for one in objects:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec") or {}
        group = spec.get("leaderWorkerTemplate") or {}
        for template in (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate")):
            if template and "containers" in (template.get("spec") or {}):
                yield name, template["metadata"].get("labels", {}), template["spec"]


def containers(objects: Iterable[Object]) -> Iterator[tuple[str, Any]]:
    """(who, container) of each container, those that only begin a pod included."""
    for name, _, pod in pods(objects):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}/{container['name']}", container


def _of_pod(holds: Callable[[Any], bool]) -> Check:
    return lambda objects: (name for name, _, pod in pods(objects) if not holds(pod))


def _of_container(holds: Callable[[Any], bool]) -> Check:
    return lambda objects: (name for name, container in containers(objects) if not holds(container))


def _of_kind(kind: str, holds: Callable[[Any], bool]) -> Check:
    def check(objects: list[Object]) -> Iterator[str]:
        found = [one for one in objects if one["kind"] == kind]
        if not found:
            yield f"there is no {kind}"
        yield from (f"{kind}/{one['metadata']['name']}" for one in found if not holds(one))

    return check


def _security(container: Any, name: str) -> Any:
    return (container.get("securityContext") or {}).get(name)


def _not_root(pod: Any) -> bool:
    said = pod.get("securityContext") or {}
    return said.get("runAsNonRoot") is True and int(said.get("runAsUser", 0)) > 0


def _no_host(pod: Any) -> bool:
    shared = any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    paths = any("hostPath" in volume for volume in pod.get("volumes", []))
    ports = any("hostPort" in port for one in pod["containers"] for port in one.get("ports", []))
    return not (shared or paths or ports)


def _bounded(container: Any) -> bool:
    said = container.get("resources") or {}
    needed = ("cpu", "memory", "ephemeral-storage")
    return all(name in (said.get(half) or {}) for half in ("requests", "limits") for name in needed)


def _exact_image(container: Any) -> bool:
    image = container["image"]
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return bool("@sha256:" in image or tag not in ("", "latest"))


def _bounded_volumes(pod: Any) -> bool:
    return all("sizeLimit" in volume["emptyDir"] for volume in pod.get("volumes", []) if "emptyDir" in volume)


def _restricted_namespace(one: Any) -> bool:
    labels: Mapping[str, str] = one["metadata"].get("labels", {})
    return labels.get("pod-security.kubernetes.io/enforce") == "restricted"


def _denied(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] == "NetworkPolicy" and not one["spec"]["podSelector"]:
            spec = one["spec"]
            closed = set(spec["policyTypes"]) == {"Ingress", "Egress"}
            if closed and not spec.get("ingress") and not spec.get("egress"):
                return
    yield "no policy denies everything to everyone"


def _chosen(policy: Any, labels: Mapping[str, str]) -> bool:
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def _engine_ingress(objects: list[Object]) -> Iterator[str]:
    """Engines are reached by named pods and namespaces, on one port."""
    for name, labels, _ in pods(objects):
        if labels.get("app.kubernetes.io/component") != "engine":
            continue
        for policy in objects:
            if policy["kind"] != "NetworkPolicy" or not _chosen(policy, labels):
                continue
            for rule in policy["spec"].get("ingress", []):
                sides = rule.get("from", [])
                if not sides or any(side == {"namespaceSelector": {}} or _anyone(side) for side in sides):
                    yield f"{name} is reached by anyone through {policy['metadata']['name']}"


def _anyone(side: Any) -> bool:
    return str(side.get("ipBlock", {}).get("cidr", "")).endswith("/0")


def _engine_egress(objects: list[Object]) -> Iterator[str]:
    """Engines reach no address that is not theirs to reach: nothing in clear, nothing private."""
    for name, labels, _ in pods(objects):
        if labels.get("app.kubernetes.io/component") != "engine":
            continue
        for policy in objects:
            if policy["kind"] != "NetworkPolicy" or not _chosen(policy, labels):
                continue
            for rule in policy["spec"].get("egress", []):
                open_ = [side for side in rule.get("to", []) if _anyone(side)]
                ports = {port.get("port") for port in rule.get("ports", [])}
                if not rule.get("to") or (
                    open_ and (ports != {443} or not open_[0]["ipBlock"].get("except"))
                ):
                    yield f"{name} goes anywhere through {policy['metadata']['name']}"


def _no_right(one: Any) -> bool:
    rules = one.get("rules") or []
    wild = any("*" in rule.get(part, []) for rule in rules for part in ("apiGroups", "resources", "verbs"))
    secrets = any("secrets" in rule.get("resources", []) for rule in rules)
    exec_ = any("pods/exec" in rule.get("resources", []) for rule in rules)
    return not (wild or secrets or exec_)


def _no_plain_secret(container: Any) -> bool:
    words = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")
    return not any(
        "value" in one and one["value"] and any(word in one["name"].upper() for word in words)
        for one in container.get("env", [])
    )


def _engine_only(check: Callable[[Any], bool]) -> Check:
    return lambda objects: (
        name
        for name, labels, pod in pods(objects)
        if labels.get("app.kubernetes.io/component") == "engine" and not check(pod)
    )


def _patient(pod: Any) -> bool:
    """A pod that takes calls has five minutes or more to start, and is asked before it is killed."""
    one = pod["containers"][0]
    if "ports" not in one:
        return True  # a worker of a group: its leader answers
    start = one.get("startupProbe") or {}
    allowed = start.get("periodSeconds", 10) * start.get("failureThreshold", 3)
    return allowed >= 300 and "readinessProbe" in one and "livenessProbe" in one


def _drains(pod: Any) -> bool:
    one = pod["containers"][0]
    return pod.get("terminationGracePeriodSeconds", 30) > 60 and (
        "ports" not in one or "preStop" in (one.get("lifecycle") or {})
    )


def _gateways(objects: list[Object]) -> Iterator[str]:
    """The gateway ends its answers before it goes, and several are spread, with a disk each that outlives them."""
    for one in objects:
        labels = one["metadata"].get("labels", {})
        if one["kind"] != "StatefulSet" or labels.get("app.kubernetes.io/component") != "gateway":
            continue
        spec, name = one["spec"], f"StatefulSet/{one['metadata']['name']}"
        pod = spec["template"]["spec"]
        if not _drains(pod):
            yield f"{name} cuts answers off"
        keys = {rule["topologyKey"] for rule in pod.get("topologySpreadConstraints", [])}
        if not keys >= {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{name} may be on one node"
        kept = spec.get("persistentVolumeClaimRetentionPolicy", {})
        if not spec.get("volumeClaimTemplates") or set(kept.values()) != {"Retain"}:
            yield f"{name} loses what the store does not have yet"


def _weights_read_only(pod: Any) -> bool:
    return all(
        mount.get("readOnly") is True
        for one in pod["containers"]
        for mount in one.get("volumeMounts", [])
        if mount.get("subPath") == "hub" or mount["mountPath"] == "/models"
    )


def _budgets(objects: list[Object]) -> Iterator[str]:
    budgets = [one for one in objects if one["kind"] == "PodDisruptionBudget"]
    for name, labels, _ in pods(objects):
        if labels.get("app.kubernetes.io/component") not in ("engine", "gateway"):
            continue
        fits = [
            one for one in budgets
            if all(labels.get(k) == v for k, v in one["spec"]["selector"]["matchLabels"].items())
        ]  # fmt: skip
        if not any(str(one["spec"].get("maxUnavailable", "0")) != "0" for one in fits):
            yield f"{name} has no budget that lets a node be emptied"


POINTS: tuple[Point, ...] = (
    Point("user", "every pod runs as a user without rights, by number", _of_pod(_not_root)),
    Point(
        "escalation",
        "no process may gain rights",
        _of_container(lambda one: _security(one, "allowPrivilegeEscalation") is False),
    ),
    Point(
        "privileged",
        "no container is privileged",
        _of_container(lambda one: _security(one, "privileged") is False),
    ),
    Point(
        "capabilities",
        "all capabilities are dropped and none is added",
        _of_container(lambda one: _security(one, "capabilities") == {"drop": ["ALL"]}),
    ),
    Point(
        "read-only-root",
        "the root file system is read-only",
        _of_container(lambda one: _security(one, "readOnlyRootFilesystem") is True),
    ),
    Point(
        "seccomp",
        "the runtime's seccomp profile is on",
        _of_container(lambda one: _security(one, "seccompProfile") == {"type": "RuntimeDefault"}),
    ),
    Point("host", "nothing of the host is shared: network, processes, files, ports", _of_pod(_no_host)),
    Point(
        "token",
        "no pod of an engine or of the gateway holds a token for the cluster's API",
        lambda objects: (
            name
            for name, labels, pod in pods(objects)
            if pod.get("automountServiceAccountToken") is not False
            and labels.get("app.kubernetes.io/component") not in ("picker", "bodies")
        ),
    ),
    Point(
        "account",
        "every pod has an account of its own part, never `default`",
        _of_pod(lambda pod: pod.get("serviceAccountName", "default") != "default"),
    ),
    Point(
        "links",
        "no environment variables of other Services (VLLM_PORT would move vLLM)",
        _of_pod(lambda pod: pod.get("enableServiceLinks") is False),
    ),
    Point("bounds", "processor, memory and disk are requested and limited", _of_container(_bounded)),
    Point("volumes", "what is written to the node is bounded", _of_pod(_bounded_volumes)),
    Point("image", "images have an exact tag or a digest", _of_container(_exact_image)),
    Point(
        "namespace",
        "the namespace refuses pods with more rights",
        _of_kind("Namespace", _restricted_namespace),
    ),
    Point("deny", "by default nobody talks to anybody", _denied),
    Point("engine-ingress", "engines are reached by whoever is named, never by anyone", _engine_ingress),
    Point(
        "engine-egress",
        "engines go nowhere, or to a bucket over HTTPS and no private address",
        _engine_egress,
    ),
    Point("roles", "no role has a wildcard, reads secrets or opens a shell", _of_kind("Role", _no_right)),
    Point(
        "secrets", "no secret stands in a container's environment as text", _of_container(_no_plain_secret)
    ),
    Point("weights", "engines cannot write the weights", _engine_only(_weights_read_only)),
)
# Not security, but as costly when missing: checked alike.
CARE: tuple[Point, ...] = (
    Point("start", "an engine has the time that a start takes, and probes", _engine_only(_patient)),
    Point("drain", "an engine leaves its Service and ends its answers before it goes", _engine_only(_drains)),
    Point("budget", "nodes can be emptied, a replica at a time", _budgets),
    Point("gateways", "gateways end their answers, are spread, and keep their disks", _gateways),
)
assert len(POINTS) == 20
