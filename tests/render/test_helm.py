"""Helm: the chart is one that Helm takes, and with its own values it gives what Kustomize gets."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart, lint
from jsonschema import Draft7Validator
from test_kubernetes import FILES, bundle, objects

from gemstead.render.helm import NAMESPACE

CASES = (
    "no file",
    "31b on eight",
    "everything",
    "gke",
    "two models",
    "31b over two nodes",
    "regions",
    "hpa",
    "spot",
    "several gateways",
    "several gateways, scaled",
    "gke, several gateways",
)
Object = dict[str, Any]


def chart(name: str, folder: Path) -> Chart:
    for path, text in bundle(FILES[name], "helm").files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    return Chart.load(str(folder))


def key(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def helm_objects(loaded: Chart, values: Object | None = None) -> list[Object]:
    text = loaded.render(values or {}, name="x", namespace="gemstead")
    texts = text.values()
    return [one for each in texts for one in yaml.safe_load_all(each) if one]


@pytest.mark.parametrize("name", CASES)
def test_with_its_own_values_it_gives_what_kustomize_gets(name: str, tmp_path: Path) -> None:
    loaded = chart(name, tmp_path)
    wanted = objects(FILES[name])
    found = helm_objects(loaded, {"parts": {"namespace": True}})
    assert sorted(found, key=key) == sorted(wanted, key=key)
    without = [one for one in wanted if one["kind"] != "Namespace"]
    assert sorted(helm_objects(loaded), key=key) == sorted(without, key=key)


@pytest.mark.parametrize("name", CASES)
def test_helm_finds_nothing_wrong_with_it(name: str, tmp_path: Path) -> None:
    chart(name, tmp_path)
    found = lint(str(tmp_path))
    assert found["total_charts_linted"] == 1 and not found["errors"]
    assert not [one for one in found["messages"] if one["severity"] >= 2], found  # 1 is a hint: no icon


def test_values_reach_what_they_name(tmp_path: Path) -> None:
    loaded = chart("31b on eight", tmp_path)
    own = {"replicas": 7, "image": "acme/vllm:1", "nodeSelector": {"zone": "b"},
           "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}  # fmt: skip
    found = helm_objects(loaded, {"engines": {"gemma-4-31b": own}, "gateway": {"image": "acme/gemstead:2"}})
    engine = next(one for one in found if one["kind"] == "Deployment")["spec"]
    pod = engine["template"]["spec"]
    assert engine["replicas"] == 7
    assert (pod["containers"][0]["image"], pod["nodeSelector"]) == ("acme/vllm:1", {"zone": "b"})
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == "1"
    assert pod["initContainers"][0]["image"] == "acme/gemstead:2"  # it waits with the gateway's own
    job = next(one for one in found if one["kind"] == "Job")
    before = next(one for one in helm_objects(loaded) if one["kind"] == "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "acme/gemstead:2"
    assert job["metadata"]["name"] != before["metadata"]["name"]  # a Job cannot be changed


def test_a_part_that_is_switched_off_is_gone_and_nothing_else(tmp_path: Path) -> None:
    loaded = chart("everything", tmp_path)
    gone = {key(one) for one in helm_objects(loaded)} - {
        key(one) for one in helm_objects(loaded, {"parts": {"monitoring": False}})
    }
    assert {kind for kind, _ in gone} == {"PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"engines": {"gemma-4-31b": {"replicas": "many"}}},
        {"engines": {"gemma-5": {"replicas": 1}}},
        {"parts": {"monitoring": "yes"}},
        {"gateway": {"image": "untagged"}},
    ],
)
def test_the_schema_of_values_refuses_what_means_nothing(wrong: Object) -> None:
    schema = json.loads(bundle(FILES["31b on eight"], "helm").files["values.schema.json"])
    assert list(Draft7Validator(schema).iter_errors(wrong))


def test_the_release_says_which_namespace(tmp_path: Path) -> None:
    loaded = chart("everything", tmp_path)
    text = "".join(loaded.render({}, name="x", namespace="elsewhere").values())
    assert "namespace: gemstead" not in text and NAMESPACE not in text
    assert "namespace: elsewhere" in text and "cluster.local/ns/elsewhere/" in text


@pytest.mark.parametrize("region", ["us-east", "burst", "eu"])
def test_values_of_a_region_give_what_its_overlay_gives(region: str, tmp_path: Path) -> None:
    over = yaml.safe_load(bundle(FILES["regions"], "helm").files[f"values-{region}.yaml"])
    found = helm_objects(chart("regions", tmp_path), {**over, "parts": {"namespace": True}})
    wanted = objects(FILES["regions"], f"overlays/{region}")
    for one in wanted:
        del one["metadata"]["labels"]["gemstead/region"]
    assert sorted(found, key=key) == sorted(wanted, key=key)
    schema = json.loads(bundle(FILES["regions"], "helm").files["values.schema.json"])
    assert not list(Draft7Validator(schema).iter_errors(over))


def test_a_sovereign_region_s_values_close_the_ways_out(tmp_path: Path) -> None:
    said = copy.deepcopy(FILES["regions"])
    said["models"].append({"name": "theirs", "endpoints": [{"url": "https://llm.other.com"}]})
    files = bundle(said, "helm").files
    assert "0.0.0.0/0" in files["values.yaml"]
    assert "0.0.0.0/0" not in files["values-eu.yaml"]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    loaded = Chart.load(str(tmp_path))
    for over, folder in (({}, ""), (yaml.safe_load(files["values-eu.yaml"]), "overlays/eu")):
        found = helm_objects(loaded, {**over, "parts": {"namespace": True}})
        wanted = objects(said, folder)
        for one in wanted:
            one["metadata"]["labels"].pop("gemstead/region", None)
        assert sorted(found, key=key) == sorted(wanted, key=key)
    pods_ = [one.get("spec", {}).get("template", {}).get("spec", {}) for one in found]
    images = {
        one["image"] for pod in pods_ for one in [*pod.get("initContainers", []), *pod.get("containers", [])]
    }
    assert images and all(image.startswith("registry.eu.acme.com/") for image in images)
