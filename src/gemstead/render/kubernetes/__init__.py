"""Kubernetes: a Kustomize base and overlays, from objects that Helm's chart (`render/helm.py`) is made of as well.

    base/                one file for each part; `kubectl apply -k .` applies it
    overlays/REGION/     a further cluster: what differs, as patches

Only what the plan needs is there. What asks for an operator is rendered when `deploy.kubernetes` names it.
"""

from __future__ import annotations

from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import bodies, enginetls, hardware, readme, regions, scaling, several
from gemstead.render.kubernetes.cluster import objects, settled
from gemstead.render.kubernetes.objects import Object
from gemstead.render.yamltext import document, stream

SUMMARY = "a cluster: Kustomize base and overlays, hardened, with what operators it has"
HEAD = "Made by gemstead render {target} from gemstead.yaml; change that file and render again."


def render(deployment: Deployment, target: str = "kubernetes") -> Bundle:
    """The folder of a deployment in a cluster."""
    deployment = settled(deployment)
    head = HEAD.format(target=target)
    made = objects(deployment)
    files = {f"base/{name}.yaml": stream(one, head=head) for name, one in made.items()}
    files["base/kustomization.yaml"] = document(_kustomization([f"{name}.yaml" for name in made]), head=head)
    files["kustomization.yaml"] = document(_kustomization(["base"]), head=head)
    for region in deployment.deploy.kubernetes.regions:
        overlay = regions.kustomization(deployment, region, made)
        files[f"overlays/{region.name}/kustomization.yaml"] = document(overlay, head=head)
    if deployment.deploy.kubernetes.scaling == "hpa" and deployment.deploy.kubernetes.monitoring != "google":
        files["prometheus-adapter-values.yaml"] = document(scaling.adapter_rules(deployment), head=head)
    files["README.md"] = readme.text(deployment, made, target)
    return Bundle(target, files, (*deployment.notes, *notes(deployment)))


def notes(deployment: Deployment) -> tuple[str, ...]:
    """What a user should know before applying it."""
    kubernetes = deployment.deploy.kubernetes
    found = []
    unpinned = [pool.image.reference for pool in deployment.pools if not pool.image.pinned]
    found += [f"{one} is pinned by tag only: gemstead render --pin" for one in dict.fromkeys(unpinned)]
    if kubernetes.mesh == "off" and not kubernetes.issuer and deployment.spec.gateway.tls is None:
        found.append(
            "keys and texts cross the cluster's network in clear: set deploy.kubernetes.issuer, .mesh, or gateway.tls"
        )
    if deployment.deploy.hardware.spot:
        found.append(
            "a spot machine gives 25 to 120 s of notice, less than the longest answer: answers that run are cut then"
        )
    if bodies.wanted(deployment) and not hardware.is_google(deployment):
        found.append(
            "several models behind one inference Gateway are told apart by the header X-Gateway-Model-Name: callers "
            "set it, or the extension's chart body-based-routing does"
        )
    found += hardware.notes(deployment)
    found += enginetls.notes(deployment)
    found += several.notes(deployment)
    return tuple(found)


def _kustomization(resources: list[str]) -> Object:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
    }
