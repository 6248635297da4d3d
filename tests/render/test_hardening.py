"""The twenty points: they hold for every plan, and each notices when it is taken away."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from test_kubernetes import FILES, bundle, objects, of, pods

from gemstead.render.kubernetes.build import built
from gemstead.render.kubernetes.hardening import CARE, POINTS, faults

Objects = list[dict[str, Any]]


@pytest.mark.parametrize("name", FILES)
def test_every_point_holds_for_every_plan(name: str) -> None:
    found = objects(FILES[name])
    assert not faults(found)
    assert not [f"{point.name}: {who}" for point in CARE for who in point.broken(list(found))]


@pytest.mark.parametrize("region", ["us-east", "burst", "eu"])
def test_every_point_holds_in_every_overlay(region: str) -> None:
    assert not faults(built(bundle(FILES["regions"]).files, f"overlays/{region}"))


def container(found: Objects) -> Any:
    return dict(pods(found))["Deployment/gemstead-gemma-4-31b"]["containers"][0]


def pod(found: Objects) -> Any:
    return dict(pods(found))["Deployment/gemstead-gemma-4-31b"]


def named(found: Objects, kind: str, name: str) -> Any:
    return next(one for one in of(found, kind) if one["metadata"]["name"] == name)


def gateway(found: Objects) -> Any:
    return named(found, "StatefulSet", "gemstead-gateway")["spec"]


def _drop(found: Objects, kind: str, name: str) -> None:
    found.remove(named(found, kind, name))


def _tmp(found: Objects) -> None:
    del next(one for one in pod(found)["volumes"] if one["name"] == "tmp")["emptyDir"]["sizeLimit"]


def _weights(found: Objects) -> None:
    next(one for one in container(found)["volumeMounts"] if one.get("subPath") == "hub")["readOnly"] = False


TAKEN: dict[str, list[Callable[[Objects], Any]]] = {
    "user": [
        lambda found: pod(found)["securityContext"].pop("runAsNonRoot"),
        lambda found: pod(found)["securityContext"].update(runAsUser=0),
    ],
    "escalation": [lambda found: container(found)["securityContext"].update(allowPrivilegeEscalation=True)],
    "privileged": [lambda found: container(found)["securityContext"].update(privileged=True)],
    "capabilities": [
        lambda found: container(found)["securityContext"].pop("capabilities"),
        lambda found: container(found)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    ],
    "read-only-root": [lambda found: container(found)["securityContext"].pop("readOnlyRootFilesystem")],
    "seccomp": [
        lambda found: container(found)["securityContext"]["seccompProfile"].update(type="Unconfined")
    ],
    "host": [
        lambda found: pod(found).update(hostNetwork=True),
        lambda found: pod(found).update(hostIPC=True),
        lambda found: pod(found)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        lambda found: container(found)["ports"][0].update(hostPort=8000),
    ],
    "token": [lambda found: pod(found).pop("automountServiceAccountToken")],
    "account": [lambda found: pod(found).pop("serviceAccountName")],
    "links": [lambda found: pod(found).pop("enableServiceLinks")],
    "bounds": [
        lambda found: container(found)["resources"].pop("limits"),
        lambda found: container(found)["resources"]["requests"].pop("memory"),
    ],
    "volumes": [_tmp],
    "image": [
        lambda found: container(found).update(image="vllm/vllm-openai:latest"),
        lambda found: container(found).update(image="registry.acme.com:5000/vllm"),
    ],
    "namespace": [
        lambda found: of(found, "Namespace")[0]["metadata"]["labels"].pop(
            "pod-security.kubernetes.io/enforce"
        ),
        lambda found: _drop(found, "Namespace", "gemstead"),
    ],
    "deny": [
        lambda found: _drop(found, "NetworkPolicy", "gemstead-deny-all"),
        lambda found: named(found, "NetworkPolicy", "gemstead-deny-all")["spec"].update(
            policyTypes=["Ingress"]
        ),
    ],
    "engine-ingress": [
        lambda found: named(found, "NetworkPolicy", "gemstead-engines")["spec"].update(ingress=[{}]),
        lambda found: named(found, "NetworkPolicy", "gemstead-engines")["spec"]["ingress"][0]["from"].append(
            {"ipBlock": {"cidr": "0.0.0.0/0"}}
        ),
    ],
    "engine-egress": [
        lambda found: named(found, "NetworkPolicy", "gemstead-engines")["spec"].update(egress=[{}]),
        lambda found: named(found, "NetworkPolicy", "gemstead-engines")["spec"].update(
            egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}]
        ),
    ],
    "roles": [
        lambda found: named(found, "Role", "gemstead-operator")["rules"].append(
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
        ),
        lambda found: named(found, "Role", "gemstead-auditor")["rules"][0].update(verbs=["*"]),
    ],
    "secrets": [lambda found: container(found)["env"].append({"name": "HF_TOKEN", "value": "hf_x"})],
    "weights": [_weights],
}
CARELESS: dict[str, list[Callable[[Objects], Any]]] = {
    "start": [
        lambda found: container(found).pop("startupProbe"),
        lambda found: container(found)["startupProbe"].update(failureThreshold=6),
        lambda found: container(found).pop("readinessProbe"),
    ],
    "drain": [
        lambda found: pod(found).update(terminationGracePeriodSeconds=30),
        lambda found: container(found).pop("lifecycle"),
    ],
    "budget": [
        lambda found: _drop(found, "PodDisruptionBudget", "gemstead-gemma-4-31b"),
        lambda found: named(found, "PodDisruptionBudget", "gemstead-gateway")["spec"].update(
            maxUnavailable=0
        ),
    ],
}
CARELESS["gateways"] = [
    lambda found: gateway(found)["template"]["spec"].update(terminationGracePeriodSeconds=30),
    lambda found: gateway(found)["template"]["spec"]["containers"][0].pop("lifecycle"),
    lambda found: gateway(found)["template"]["spec"].pop("topologySpreadConstraints"),
    lambda found: gateway(found).pop("volumeClaimTemplates"),
    lambda found: gateway(found)["persistentVolumeClaimRetentionPolicy"].update(whenScaled="Delete"),
]
WHOLE = objects(FILES["31b on eight"])


def test_there_are_twenty_and_each_is_taken_away() -> None:
    assert len(POINTS) == 20
    assert {point.name for point in POINTS} == TAKEN.keys()
    assert {point.name for point in CARE} == CARELESS.keys()


@pytest.mark.parametrize(
    ("name", "at"),
    [(name, at) for rows in (TAKEN, CARELESS) for name, ways in rows.items() for at in range(len(ways))],
)
def test_a_point_that_is_taken_away_is_noticed_and_no_other_is(name: str, at: int) -> None:
    found = copy.deepcopy(WHOLE)
    {**TAKEN, **CARELESS}[name][at](found)
    broken = [point.name for point in (*POINTS, *CARE) if list(point.broken(list(found)))]
    assert broken == [name]
