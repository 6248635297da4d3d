"""Pipelines and GitOps: valid by their owners' schemas, without keys in files, and fitted to the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
FILE: dict[str, Any] = {
    "models": [{"name": "gemma-4-31b"}],
    "deploy": {
        "registry": "ghcr.io/acme",
        "hardware": {"gpu": "H100", "count": 8},
        "options": {
            "git_url": "https://git.acme.com/llm.git",
            "clusters": "eu=https://10.0.0.1,us=https://10.0.0.2",
        },
    },
}


def bundle(name: str, file: dict[str, Any] = FILE) -> Bundle:
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in()))


def read(name: str, path: str) -> Any:
    return yaml.safe_load(bundle(name).files[path])


def faults(validator: Any, schema: Path, document: Any) -> list[str]:
    found = validator(json.loads(schema.read_text("utf-8"))).iter_errors(document)
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in found]


@pytest.mark.parametrize("path", [".github/workflows/gemstead.yaml", ".github/workflows/gemstead-drift.yaml"])
def test_workflows_are_valid(path: str) -> None:
    document = yaml.safe_load(
        bundle("pipelines").files[path].replace("\non:", "\n'on':").replace("'on':", "'on':")
    )
    assert not faults(Draft7Validator, SCHEMAS / "other" / "github-workflow.json", document)


def test_the_key_on_is_not_taken_for_true() -> None:
    """YAML 1.1 reads a bare `on` as true; GitHub reads both, other tools do not."""
    assert "'on':" in bundle("pipelines").files[".github/workflows/gemstead.yaml"]


def test_cloud_build_is_valid_and_scans_each_image_that_it_pushes() -> None:
    document = read("pipelines", "cloudbuild.yaml")
    assert not faults(Draft202012Validator, SCHEMAS / "google" / "cloudbuild.v1.Build.json", document)
    scanned = {
        step["args"][-1]
        for step in document["steps"]
        if step["id"].startswith("scan-") and step["args"][0] == "image"
    }
    assert (
        scanned
        == set(document["images"])
        == {"ghcr.io/acme/gemstead-gateway:0.1.0", "ghcr.io/acme/gemstead-gemma-4-31b:0.1.0"}
    )


def test_nothing_in_a_pipeline_is_a_key() -> None:
    for path, text in bundle("pipelines").files.items():
        for line in text.splitlines():
            if any(word in line.lower() for word in ("password:", "_token:", "kubeconfig_content:")):
                assert "${{ secrets." in line, f"{path}: {line}"


def test_production_comes_after_staging_and_asks() -> None:
    jobs = read("pipelines", ".github/workflows/gemstead.yaml")["jobs"]
    assert jobs["promote-production"]["needs"] == "promote-staging"
    assert jobs["promote-production"]["environment"] == "production"


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("argocd/application.yaml", "argoproj.io/application_v1alpha1"),
        ("argocd/applicationset.yaml", "argoproj.io/applicationset_v1alpha1"),
        ("argocd/project.yaml", "argoproj.io/appproject_v1alpha1"),
        ("flux/source.yaml", "source.toolkit.fluxcd.io/gitrepository_v1"),
        ("flux/kustomization.yaml", "kustomize.toolkit.fluxcd.io/kustomization_v1"),
        ("flux/helmrelease.yaml", "helm.toolkit.fluxcd.io/helmrelease_v2"),
    ],
)
def test_gitops_objects_are_valid(path: str, schema: str) -> None:
    assert not faults(Draft202012Validator, SCHEMAS / "crd" / f"{schema}.json", read("gitops", path))


def test_flux_waits_as_long_as_an_engine_may_take_to_start() -> None:
    made = deployment(Spec.model_validate(FILE, strict=False), built_in())
    timeout = read("gitops", "flux/kustomization.yaml")["spec"]["timeout"]
    assert int(timeout.removesuffix("m0s")) * 60 >= made.pools[0].startup.allowance_s + 600


def test_without_a_repository_it_is_refused() -> None:
    with pytest.raises(Refused, match="git_url"):
        bundle("gitops", {"models": [{"name": "gemma-4-e2b"}]})


def test_a_cluster_without_an_address_is_refused() -> None:
    file = {"deploy": {"options": {"git_url": "https://git.acme.com/llm.git", "clusters": "eu"}}}
    with pytest.raises(Refused, match="is not name=https://address"):
        bundle("gitops", file)
