"""Pipelines and GitOps: valid by their owners' schemas, without keys in files, and fitted to the plan."""

from __future__ import annotations

import json
import re
import subprocess
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


@pytest.mark.parametrize(
    "path", [f".github/workflows/gemstead{part}.yaml" for part in ("", "-drift", "-images")]
)
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
    assert scanned == set(document["images"])
    names = sorted(re.sub(r"[0-9a-f]{8}$", "CONTENT", one) for one in scanned)
    assert names == [
        "ghcr.io/acme/gemstead-gateway:0.1.0-CONTENT",
        "ghcr.io/acme/gemstead-gemma-4-31b:0.1.0-CONTENT",
    ]


def test_what_the_registry_has_is_not_built_again() -> None:
    """Terraform makes the registry's tags immutable: a second build of the same content would be refused."""
    steps = read("pipelines", "cloudbuild.yaml")["steps"]
    for step in (one for one in steps if one["id"].startswith("build-")):
        script = step["args"][-1]
        assert script.startswith("docker pull ") and " || docker build --tag " in script
    steps = read("pipelines", ".github/workflows/gemstead.yaml")["jobs"]["images"]["steps"]
    (look,) = (one for one in steps if one.get("id") == "missing")
    (build,) = (one for one in steps if "bake-action" in one.get("uses", ""))
    assert build["if"] == "steps.missing.outputs.targets != ''"
    assert build["with"]["targets"] == "${{ steps.missing.outputs.targets }}"
    targets = re.findall(r'^target "([^"]+)"', bundle("docker").files["docker-bake.hcl"], re.MULTILINE)
    assert re.findall(r'found="\$found,([^"]+)"', look["run"]) == targets


@pytest.mark.parametrize(
    ("there", "targets"), [("", "gateway,gateway-distroless,engine-gemma-4-31b"), (".", "")]
)
def test_the_script_names_what_is_missing(tmp_path: Path, there: str, targets: str) -> None:
    steps = read("pipelines", ".github/workflows/gemstead.yaml")["jobs"]["images"]["steps"]
    script = next(one["run"] for one in steps if one.get("id") == "missing")
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\nexit {0 if there else 1}\n")
    docker.chmod(0o755)
    output = tmp_path / "output"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-e", "-c", script], env=env, check=True, timeout=20)
    assert output.read_text() == f"targets={targets}\n"


def test_files_are_checked_linted_and_scanned_before_anything_is_built() -> None:
    jobs = read("pipelines", ".github/workflows/gemstead.yaml")["jobs"]
    check = " ".join(step.get("run", "") for step in jobs["check"]["steps"])
    for word in (
        "gemstead validate",
        "gemstead diff docker",
        "gemstead diff kubernetes",
        "hadolint",
        "trivy",
    ):
        assert word in check
    assert jobs["images"]["needs"] == "check"
    steps = [step["id"] for step in read("pipelines", "cloudbuild.yaml")["steps"]]
    assert steps[:3] == ["check", "lint", "scan-config"]


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


KINDS = {"ImageRepository", "ImagePolicy", "ImageUpdateAutomation"}


def test_flux_looks_for_corrected_images_and_writes_them_into_the_file() -> None:
    found = list(yaml.safe_load_all(bundle("gitops").files["flux/images.yaml"]))
    assert {one["kind"] for one in found} == KINDS
    for one in found:
        path = SCHEMAS / "crd" / "image.toolkit.fluxcd.io" / f"{one['kind'].lower()}_v1.json"
        assert not faults(Draft202012Validator, path, one)
    by_kind = {one["kind"]: one for one in found}
    policy, automation = by_kind["ImagePolicy"], by_kind["ImageUpdateAutomation"]
    assert policy["spec"]["policy"]["semver"]["range"] == ">=0.1.0 <0.2.0"
    assert policy["metadata"]["labels"] == automation["spec"]["policySelector"]["matchLabels"]
    git = automation["spec"]["git"]
    assert git["push"]["branch"] != git["checkout"]["ref"]["branch"]
    workflow = bundle("pipelines").files[".github/workflows/gemstead-images.yaml"]
    assert yaml.safe_load(workflow)["on"]["push"]["branches"] == [git["push"]["branch"]]
    # The lines that the README asks for are a file that Gemstead takes, and the marker names the policy.
    marked = bundle("gitops").files["README.md"].partition("```yaml\n")[2].partition("```")[0]
    spec = Spec.model_validate(yaml.safe_load(marked), strict=False)
    assert spec.deploy.images["gateway"].startswith(by_kind["ImageRepository"]["spec"]["image"] + ":")
    assert f'{{"$imagepolicy": "flux-system:{policy["metadata"]["name"]}"}}' in marked


def test_without_a_registry_there_are_no_images_to_look_for() -> None:
    file = {"deploy": {"options": {"git_url": "https://git.acme.com/llm.git"}}}
    assert "flux/images.yaml" not in bundle("gitops", file).files


def test_each_cluster_gets_its_overlay_from_the_branch_of_its_environment() -> None:
    file = json.loads(json.dumps(FILE))
    file["deploy"]["kubernetes"] = {"regions": [{"name": "eu"}]}
    file["deploy"]["options"]["clusters"] = "staging/test=https://a,production/eu=https://b,us=https://c"
    made = yaml.safe_load(bundle("gitops", file).files["argocd/applicationset.yaml"])["spec"]
    rows = [(one["name"], one["branch"], one["path"]) for one in made["generators"][0]["list"]["elements"]]
    assert rows == [
        ("staging-test", "staging", "deploy/kubernetes"),
        ("production-eu", "production", "deploy/kubernetes/overlays/eu"),
        ("us", "main", "deploy/kubernetes"),
    ]
    rendered = bundle("kubernetes", file).files
    for _, _, path in rows:
        inside = path.removeprefix("deploy/kubernetes").lstrip("/")
        assert f"{inside}/kustomization.yaml".lstrip("/") in rendered
    assert made["template"]["spec"]["source"]["targetRevision"] == "{{.branch}}"
    servers = yaml.safe_load(bundle("gitops", file).files["argocd/project.yaml"])["spec"]["destinations"]
    assert {one["server"] for one in servers} >= {"https://a", "https://b", "https://c"}


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
