"""Overlays for further clusters: another region, a sovereign one, one that takes what the others cannot.

An overlay is a list of JSON patches over the base, so that what differs can be read at a glance. A sovereign region is
closed: no way out of the namespace but DNS, every image from its own registry, every pod in the region.
"""

from __future__ import annotations

from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import gateway
from gemstead.render.kubernetes.objects import ENGINE, GATEWAY, Object
from gemstead.spec.kubernetes import RegionSpec

REGION = "topology.kubernetes.io/region"
WORKLOADS = {"Deployment", "StatefulSet", "Job", "LeaderWorkerSet", "Rollout"}


def kustomization(deployment: Deployment, region: RegionSpec, files: dict[str, list[Object]]) -> Object:
    """The overlay's `kustomization.yaml`.

    Raises:
        Refused: a sovereign region without a registry or with files from the hub.
    """
    checked(region, files)
    patches: list[Any] = []
    for one in (one for group in files.values() for one in group):
        if operations := list(_operations(deployment, region, one)):
            patches.append({"target": _target(one), "patch": _text(operations)})
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "labels": [{"pairs": {"gemstead/region": region.name}, "includeSelectors": False}],
        "patches": patches,
    }


def checked(region: RegionSpec, files: dict[str, list[Object]]) -> None:
    """Nothing, where the region can be had.

    Raises:
        Refused: a sovereign region without a registry or with files from the hub.
    """
    if region.sovereign and not region.registry:
        raise Refused(
            Reason.BAD_REQUEST,
            f"deploy.kubernetes.regions: {region.name} is sovereign, so it needs a `registry` of its own",
        )
    if region.sovereign and "models" in files:
        raise Refused(
            Reason.BAD_REQUEST,
            f"deploy.kubernetes.regions: {region.name} is sovereign and cannot fetch from the hub: set "
            "deploy.kubernetes.model_image, or deploy.cache.kind to image",
        )


def _operations(deployment: Deployment, region: RegionSpec, one: Object) -> list[Object]:
    found: list[Object] = []
    kind, where = one["kind"], region.region or region.name
    if kind in WORKLOADS:
        for path, pod in pods(one):
            key = f"{path}/nodeSelector"
            escaped = REGION.replace("/", "~1")
            if "nodeSelector" in pod:
                found.append({"op": "add", "path": f"{key}/{escaped}", "value": where})
            else:
                found.append({"op": "add", "path": key, "value": {REGION: where}})
            found += _images(region, path, pod)
    component = one["metadata"]["labels"]["app.kubernetes.io/component"]
    if component == GATEWAY and alone(deployment, region):
        found += _alone(deployment, one)
    engines = component == ENGINE
    count = 0 if region.burst and region.replicas is None else region.replicas
    if engines and kind in WORKLOADS and "replicas" in one["spec"] and count is not None:
        found.append({"op": "replace", "path": "/spec/replicas", "value": count})
    if kind == "ScaledObject" and region.burst:
        found.append({"op": "replace", "path": "/spec/minReplicaCount", "value": 0})
    if kind == "HorizontalPodAutoscaler" and region.replicas:
        found.append({"op": "replace", "path": "/spec/minReplicas", "value": region.replicas})
    if kind == "NetworkPolicy" and region.sovereign:
        rules = one["spec"].get("egress", [])
        if len(kept := inside(rules)) != len(rules):
            found.append({"op": "replace", "path": "/spec/egress", "value": kept})
    return found


def alone(deployment: Deployment, region: RegionSpec) -> bool:
    """Whether this region's gateways send no calls to others, unlike the base's: they are the others, or may not."""
    return bool(gateway.beyond(deployment)) and (region.burst or region.sovereign)


def _alone(deployment: Deployment, one: Object) -> list[Object]:
    text = gateway.file_alone(deployment)
    if one["kind"] == "ConfigMap":
        return [{"op": "replace", "path": "/data/gemstead.yaml", "value": text}]
    if one["kind"] == "StatefulSet":
        path = "/spec/template/metadata/annotations/gemstead~1config"
        return [{"op": "replace", "path": path, "value": gateway.digest(text)}]
    return []


def pods(one: Object) -> list[tuple[str, Object]]:
    """(path of the pod's spec, the pod's spec) of each template of a workload."""
    if one["kind"] == "LeaderWorkerSet":
        at = one["spec"]["leaderWorkerTemplate"]
        return [
            (f"/spec/leaderWorkerTemplate/{name}/spec", at[name]["spec"])
            for name in ("leaderTemplate", "workerTemplate")
        ]
    if one["kind"] in WORKLOADS:
        return [("/spec/template/spec", one["spec"]["template"]["spec"])]
    return []


def _images(region: RegionSpec, path: str, pod: Object) -> list[Object]:
    if not region.registry:
        return []
    return [
        {
            "op": "replace",
            "path": f"{path}/{group}/{at}/image",
            "value": f"{region.registry.rstrip('/')}/{mirrored(_value(container['image']))}",
        }
        for group in ("initContainers", "containers")
        for at, container in enumerate(pod.get(group, []))
    ]


def mirrored(image: str) -> str:
    """The image's path inside a mirror: without the registry that it comes from."""
    first, _, rest = image.partition("/")
    return rest if rest and ("." in first or ":" in first or first == "localhost") else image


def inside(rules: list[Any]) -> list[Any]:
    """Rules of an `egress` that do not lead out of the region."""
    return [rule for rule in rules if not _leaves(rule)]


def _leaves(rule: Any) -> bool:
    plain = _value(rule)
    return any(
        "ipBlock" in _value(to) and _value(to)["ipBlock"]["cidr"] == "0.0.0.0/0" for to in plain.get("to", [])
    )


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Because) else value


def _target(one: Object) -> Object:
    group, _, version = one["apiVersion"].rpartition("/")
    found = {"group": group} if group else {}
    return found | {"version": version, "kind": one["kind"], "name": _value(one["metadata"]["name"])}


def _text(operations: list[Object]) -> str:
    from gemstead.render.yamltext import document

    return document(operations)
