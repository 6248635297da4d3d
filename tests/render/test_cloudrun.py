"""Cloud Run: every file is what Google's schemas allow, and what Cloud Run's own limits allow."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemstead.catalog.catalogue import built_in
from gemstead.ledger.keys import Grant, open_keys
from gemstead.ledger.secrets import secret_at
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

sys.path.insert(0, str(Path(__file__).parent))
from google_schemas import faults

PLANS = [
    ("gemma-4-e4b", "vllm", "L4", {"kind": "bucket-fuse", "bucket": "acme-models"}),
    ("gemma-4-31b", "vllm", "RTX PRO 6000", {"kind": "bucket-stream", "bucket": "acme-models"}),
    ("gemma-4-26b-a4b", "vllm", "RTX PRO 6000", {"kind": "image"}),
    ("gemma-4-12b", "llamacpp", "L4", {"kind": "image"}),
    ("gemma-4-e4b", "ollama", "L4", {}),
    ("gemma-4-e2b", "llamacpp", "", {}),
]
ALLOWED_CPU = {"1", "2", "4", "6", "8", "20", "22", "24", "26", "28", "30", "32", "36", "40", "44"}


def rendered(model: str, engine: str, gpu: str, cache: dict[str, str], **more: Any) -> Bundle:
    deploy = {
        "hardware": {"gpu": gpu, "count": 1 if gpu else None},
        "cache": cache,
        "cloud": {"project": "acme-llm", "region": "europe-west4"},
        "hub_token": "env:HF_TOKEN",
        **more,
    }
    file = {"models": [{"name": model, "engine": engine}], "deploy": deploy}
    return target("cloudrun").render(deployment(Spec.model_validate(file, strict=False), built_in()))


def service(bundle: Bundle) -> dict[str, Any]:
    [path] = [path for path in bundle.files if path.endswith("/service.yaml")]
    found: dict[str, Any] = yaml.safe_load(bundle.files[path])
    return found


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0]}-{plan[1]}-{plan[2]}")
@pytest.mark.parametrize("options", [{}, {"ingress": "all", "prometheus": True, "min_instances": 1}])
def test_every_file_is_what_google_takes(plan: Any, options: dict[str, Any], tmp_path: Path) -> None:
    bundle = rendered(*plan, options=options)
    assert not faults("run.v1.Service", service(bundle))
    for name in ("cloudbuild.yaml", "weights.yaml"):
        if name in bundle.files:
            assert not faults("cloudbuild.v1.Build", yaml.safe_load(bundle.files[name]))
    (tmp_path / "setup.sh").write_text(bundle.files["setup.sh"])
    subprocess.run(["bash", "-n", str(tmp_path / "setup.sh")], check=True, timeout=20)


def test_another_image_has_another_tag_and_the_build_makes_the_one_that_the_service_runs() -> None:
    def tags(model: str, **load: Any) -> dict[str, str]:
        bundle = rendered(model, "vllm", "RTX PRO 6000", {"kind": "image"}, load=load)
        pod = service(bundle)["spec"]["template"]["spec"]
        found = {one["name"]: one["image"] for one in pod["containers"]}
        assert set(found.values()) == set(yaml.safe_load(bundle.files["cloudbuild.yaml"])["images"])
        return found

    first = tags("gemma-4-26b-a4b")
    assert tags("gemma-4-26b-a4b") == first
    changed = tags("gemma-4-26b-a4b", prompt_tokens=64_000)  # another launch line, of the same model
    assert changed["engine"].partition(":")[0] == first["engine"].partition(":")[0]
    assert changed["engine"] != first["engine"]
    assert changed["gateway"] == first["gateway"]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0]}-{plan[1]}-{plan[2]}")
def test_an_instance_is_one_that_cloud_run_has(plan: Any) -> None:
    made = service(rendered(*plan))
    spec = made["spec"]["template"]["spec"]
    engine = next(one for one in spec["containers"] if one["name"] == "engine")
    cpus = [one["resources"]["limits"]["cpu"] for one in spec["containers"]]
    memory = sum(float(one["resources"]["limits"]["memory"].removesuffix("Gi")) for one in spec["containers"])
    assert set(cpus) <= ALLOWED_CPU
    most_cpu, most_gib = (44, 176) if "RTX" in plan[2] else (8, 32)
    assert sum(map(int, cpus)) <= most_cpu
    assert memory <= most_gib
    probe = engine["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] <= (1800 if plan[2] else 240)
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    assert 1 <= spec["containerConcurrency"] <= 1000
    assert spec["timeoutSeconds"] <= 3600
    mounted = [one["mountPath"] for part in spec["containers"] for one in part.get("volumeMounts", [])]
    assert not [path for path in mounted if path.startswith(("/dev", "/proc", "/sys"))]
    assert {one["name"] for one in spec["volumes"]} == {
        one["name"] for part in spec["containers"] for one in part.get("volumeMounts", [])
    }
    if plan[2]:
        assert int(engine["resources"]["limits"]["cpu"]) >= (20 if "RTX" in plan[2] else 4)
        assert float(engine["resources"]["limits"]["memory"].removesuffix("Gi")) >= (
            80 if "RTX" in plan[2] else 16
        )
        assert spec["nodeSelector"]
    annotations = made["spec"]["template"]["metadata"]["annotations"]
    assert set(json.loads(annotations["run.googleapis.com/container-dependencies"])) == {"gateway"}
    assert json.loads(annotations["run.googleapis.com/network-interfaces"])


def test_weights_come_from_where_the_plan_says() -> None:
    fuse, stream = service(rendered(*PLANS[0])), service(rendered(*PLANS[1]))
    volumes = {one["name"]: one for one in fuse["spec"]["template"]["spec"]["volumes"]}
    assert volumes["weights"]["csi"]["volumeAttributes"]["bucketName"] == "acme-models"
    assert "enable-buffered-read=true" in volumes["weights"]["csi"]["volumeAttributes"]["mountOptions"]
    engine = next(one for one in stream["spec"]["template"]["spec"]["containers"] if one["name"] == "engine")
    assert any(word.startswith("gs://acme-models/") for word in engine["args"])
    assert "runai_streamer" in engine["args"]
    baked = rendered(*PLANS[3])
    assert "FROM" in baked.files["gemstead-gemma-4-12b/Dockerfile"]
    assert "weights.yaml" not in baked.files


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ({"gpu": "H100", "count": 1}, "Cloud Run has no"),
        ({"gpu": "L4", "count": 2, "model": "gemma-4-12b"}, "cards"),
    ],
)
def test_what_cloud_run_has_not_is_refused(file: dict[str, Any], says: str) -> None:
    spec = {
        "models": [
            {"name": file.get("model", "gemma-4-e4b"), "engine": "vllm", "tensor_parallel": file["count"]}
        ],
        "deploy": {"hardware": {"gpu": file["gpu"], "count": file["count"]}, "cloud": {"project": "p"}},
    }
    with pytest.raises(Refused, match=says):
        target("cloudrun").render(deployment(Spec.model_validate(spec, strict=False), built_in()))


BREAKS: list[Callable[[dict[str, Any]], Any]] = [
    lambda one: one.update(kindd="Service"),
    lambda one: one["spec"]["template"]["spec"].update(replicas=2),
    lambda one: one["spec"]["template"]["spec"].update(containerConcurrency="many"),
    lambda one: one["spec"]["template"]["spec"]["containers"][0].update(lifecycle={}),
]


@pytest.mark.parametrize("change", BREAKS)
def test_the_schema_finds_what_google_would_refuse(change: Callable[[dict[str, Any]], Any]) -> None:
    made = copy.deepcopy(service(rendered(*PLANS[0])))
    change(made)
    assert faults("run.v1.Service", made)


def test_keys_made_here_are_believed_there(tmp_path: Path) -> None:
    """The two files that setup.sh sends are enough for another gateway to know a key."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    minted = open_keys(here / "keys.db", secret_at(here / "pepper")).create(Grant(tenant="acme"), now=1.0)
    for name in ("keys.db", "pepper"):
        assert (here / name).stat().st_size <= 64 << 10, "a secret holds 64 KiB"
        (there / name).write_bytes((here / name).read_bytes())
    known = open_keys(there / "keys.db", secret_at(there / "pepper"))
    assert [key.key_id for key in known.list()] == [minted.key.key_id]
