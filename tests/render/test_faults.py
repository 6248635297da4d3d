"""Faults of a published guide's manifests: each is found there, and in nothing that we render for the same.

`docs/deploy/faults.md` is the report. A fault is a function that says whether some files have it; one that would find
nothing in the guide, or something in ours, fails here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from apiserver import SCHEMAS
from jsonschema import Draft7Validator
from test_kubernetes import FILES, Object, bundle, objects, of, pods

from gemstead.catalog.checkpoints import checkpoints
from gemstead.catalog.models import models
from gemstead.render.kubernetes import hardening

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "data" / "sources"
REPORT = ROOT / "docs" / "deploy" / "faults.md"
THEIRS: list[Object] = list(yaml.safe_load_all((SOURCES / "kubernetes.yaml").read_text("utf-8")))
COMPOSE: Object = yaml.safe_load((SOURCES / "compose.yaml").read_text("utf-8"))
DOCKERFILE = (SOURCES / "Dockerfile").read_text("utf-8")
FIRST_VLLM = (0, 19, 1)  # the first that serves Gemma 4 (catalog/engine_versions.yaml)


def engine(found: list[Object]) -> Object:
    """The pod of vLLM."""
    return next(pod for who, pod in pods(found) if re.search("inference|gemma", who) and "picker" not in who)


def workload(found: list[Object]) -> Object:
    named = of(found, "Deployment")
    return next(one for one in named if not one["metadata"]["name"].endswith("-picker"))


def first(found: list[Object]) -> Object:
    container: Object = engine(found)["containers"][0]
    return container


def version(image: str) -> tuple[int, ...]:
    said = re.search(r":v?(\d+)\.(\d+)\.(\d+)", image)
    return tuple(map(int, said.groups())) if said else ()


def points(*names: str) -> Callable[[list[Object]], bool]:
    chosen = [point for point in (*hardening.POINTS, *hardening.CARE) if point.name in names]
    assert len(chosen) == len(names)
    return lambda found: any(True for point in chosen for _ in point.broken(_labelled(found)))


def _labelled(found: list[Object]) -> list[Object]:
    """With the label by which the points know an engine."""
    whole = json.loads(json.dumps(found))
    for one in whole:
        template = one.get("spec", {}).get("template")
        if template and "app" in template["metadata"].get("labels", {}):
            template["metadata"]["labels"]["app.kubernetes.io/component"] = "engine"
    return whole  # type: ignore[no-any-return]


def scalers(found: list[Object]) -> str:
    return json.dumps(of(found, "HorizontalPodAutoscaler") + of(found, "ScaledObject"))


def alive_s(found: list[Object]) -> int:
    """Seconds until the kubelet ends an engine that does not answer yet."""
    container = first(found)
    if start := container.get("startupProbe"):
        return int(start["periodSeconds"] * start["failureThreshold"])
    live = container["livenessProbe"]
    return int(live["initialDelaySeconds"] + live["periodSeconds"] * live.get("failureThreshold", 3))


def unknown_variables(found: list[Object]) -> bool:
    """Variables that look like vLLM's and are none: they are options of its command line."""
    options = {"VLLM_GPU_MEMORY_UTILIZATION", "VLLM_MAX_NUM_BATCHED_TOKENS", "VLLM_MAX_MODEL_LEN"}
    return any(one["name"] in options for one in first(found).get("env", []))


def claims_nobody_makes(found: list[Object]) -> bool:
    made = {one["metadata"]["name"] for one in of(found, "PersistentVolumeClaim")}
    used = [volume["persistentVolumeClaim"]["claimName"] for volume in engine(found)["volumes"]
            if "persistentVolumeClaim" in volume]  # fmt: skip
    return bool(set(used) - made)


def overcommitted(found: list[Object]) -> bool:
    said = first(found)["resources"]
    return bool(said["requests"]["memory"] != said["limits"]["memory"])


# Number in the report -> whether a cluster's objects have the fault.
KUBERNETES: dict[str, Callable[[list[Object]], bool]] = {
    "K1": lambda found: () < version(first(found)["image"]) < FIRST_VLLM,
    "K2": lambda found: not (first(found).get("command") or first(found).get("args")),
    "K3": unknown_variables,
    "K4": lambda found: alive_s(found) < 300,
    "K5": lambda found: "v1/completions" not in json.dumps(first(found).get("startupProbe", {})),
    "K6": points("drain"),
    "K7": lambda found: not any(mount["mountPath"] == "/dev/shm" for mount in first(found)["volumeMounts"]),
    "K8": lambda found: not any(mount.get("readOnly") for mount in first(found)["volumeMounts"]),
    "K9": claims_nobody_makes,
    "K10": overcommitted,
    "K11": points("user"),
    "K12": points("escalation", "privileged", "capabilities", "seccomp"),
    "K13": points("read-only-root"),
    "K14": points("token", "account"),
    "K15": points("links"),
    "K16": points("bounds"),
    "K17": points("namespace"),
    "K18": points("deny"),
    "K19": points("budget"),
    "K20": lambda found: "strategy" not in workload(found)["spec"],
    "K21": lambda found: "topologySpreadConstraints" not in engine(found),
    "K22": lambda found: not of(found, "Service"),
    "K23": lambda found: '"name": "nvidia.com/gpu"' in scalers(found),
    "K24": lambda found: "waiting" not in scalers(found),
    "K25": lambda found: "scaleDown" not in scalers(found),
    "K26": lambda found: "progressDeadlineSeconds" not in workload(found)["spec"],
    "K27": lambda found: "HF_HUB_OFFLINE" not in json.dumps(first(found).get("env", [])),
    "K28": lambda found: any(
        volume.get("emptyDir", {}).get("medium") == "Memory" and volume["name"] != "shm"
        for volume in engine(found)["volumes"]
    ),
}
SERVICES: dict[str, Callable[[Object], bool]] = {
    "C1": lambda said: "version" in said,
    "C2": lambda said: any(one["image"].endswith(":latest") for one in said["services"].values()),
    "C3": lambda said: any(
        not str(port).startswith(("127.0.0.1:", "${GEMSTEAD_LISTEN:-127.0.0.1"))
        for one in said["services"].values()
        for port in one.get("ports", [])
    ),
    "C4": lambda said: any("cap_drop" not in one for one in said["services"].values()),
    "C5": lambda said: any(
        "start_period" not in one["healthcheck"] for one in said["services"].values() if "healthcheck" in one
    ),
    "C6": lambda said: (
        "HF_TOKEN" in json.dumps([one.get("environment") for one in said["services"].values()])
    ),
    "C7": lambda said: (
        not any("serve" in json.dumps(one.get("entrypoint", [])) for one in said["services"].values())
    ),
    "C8": lambda said: "shm_size" not in json.dumps(said) and "ipc" not in json.dumps(said),
    "C9": lambda said: '"count": 1' in json.dumps([one.get("deploy") for one in said["services"].values()]),
    "C10": lambda said: not any("stop_grace_period" in one for one in said["services"].values()),
}
MODELS = {one.repo.casefold() for size in models() for one in checkpoints(size.size)}
IMAGES: dict[str, Callable[[str], bool]] = {
    "D1": lambda text: any(
        name.casefold() not in MODELS
        for name in re.findall(r'"(google/gemma-[^"]+)"', text)
        if "assistant" not in name
    ),
    "D2": lambda text: '"float16"' in text,
    "D3": lambda text: bool(re.search(r"pip install[^\n]* vllm ", text)),
    "D4": lambda text: "HEALTHCHECK" not in text,
    "D5": lambda text: "/bin/bash" in text,
    "D6": lambda text: "org.opencontainers.image" not in text,
}
CLUSTERS = ("31b on eight", "hpa", "everything", "gke", "spot")


@pytest.mark.parametrize("number", KUBERNETES)
def test_the_guides_cluster_has_the_fault_and_ours_has_not(number: str) -> None:
    has = KUBERNETES[number]
    assert has(THEIRS), "the guide does not have it: strike it from the report"
    for name in CLUSTERS:
        found = objects(FILES[name])
        if number not in ("K23", "K24", "K25") or scalers(found) != "[]":
            assert not has(found), name


@pytest.mark.parametrize("number", SERVICES)
def test_the_guides_services_have_the_fault_and_ours_have_not(number: str) -> None:
    assert SERVICES[number](COMPOSE)
    ours = yaml.safe_load(bundle(FILES["31b on eight"], "compose").files["compose.yaml"])
    assert not SERVICES[number](ours)


@pytest.mark.parametrize("number", IMAGES)
def test_the_guides_image_has_the_fault_and_ours_has_not(number: str) -> None:
    assert IMAGES[number](DOCKERFILE)
    assert not IMAGES[number](bundle(FILES["31b on eight"], "docker").files["engine-gemma-4-31b/Dockerfile"])


def test_the_report_lists_every_fault_and_no_other() -> None:
    listed = re.findall(r"^\| ([KCD]\d+) \|", REPORT.read_text("utf-8"), re.MULTILINE)
    assert listed == [*KUBERNETES, *SERVICES, *IMAGES]


def test_the_guides_services_are_what_compose_calls_valid() -> None:
    schema = json.loads((SCHEMAS / "other" / "compose-spec.json").read_text("utf-8"))
    assert not list(Draft7Validator(schema).iter_errors(COMPOSE)), "put back as it was meant"
