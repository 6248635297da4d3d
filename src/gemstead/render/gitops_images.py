"""Flux's image automation: a new image is written into the one file, on a branch of its own, and somebody reviews it.

What is looked for are images of one's own registry, within the patch versions of the Gemstead that rendered this: a
gateway and its engines are tested together. Flux writes into `gemstead.yaml`, where the marker stands, and not into
what was rendered from it, because the next `gemstead render` would take that back. The new image is named by digest.
"""

from __future__ import annotations

import json
from typing import Any

from gemstead.render.because import Because
from gemstead.render.deployment import Deployment

API = "image.toolkit.fluxcd.io/v1"
SPACE = "flux-system"
BRANCH = "gemstead-images"


def images(deployment: Deployment) -> dict[str, str]:
    """Image without its tag, by the key under `deploy.images` that names it; empty without a registry of one's own."""
    registry = deployment.deploy.registry.rstrip("/")
    return {"gateway": f"{registry}/gemstead-gateway"} if registry else {}


def objects(deployment: Deployment, branch: str) -> list[dict[str, Any]]:
    """What looks for images and writes them down; nothing where no image is one's own."""
    found = images(deployment)
    if not found:
        return []
    each = [one for key, image in found.items() for one in _image(deployment, key, image)]
    return [*each, _automation(deployment, branch)]


def marked(deployment: Deployment) -> str:
    """The lines of `gemstead.yaml` that Flux changes."""
    lines = ["deploy:", "  images:"]
    for key in images(deployment):
        marker = json.dumps({"$imagepolicy": f"{SPACE}:{deployment.name}-{key}"})
        lines.append(f"    {key}: {deployment.gateway.reference} # {marker}")
    return "\n".join(lines)


def _image(deployment: Deployment, key: str, image: str) -> list[dict[str, Any]]:
    metadata = {"name": f"{deployment.name}-{key}", "namespace": SPACE}
    labels = {**metadata, "labels": {"gemstead": deployment.name}}
    major, minor, *_ = deployment.version.split(".")
    policy = {
        "imageRepositoryRef": {"name": metadata["name"]},
        "filterTags": Because(
            {"pattern": r"^(?P<version>[0-9]+\.[0-9]+\.[0-9]+)-[0-9a-f]{8}$", "extract": "$version"},
            "a tag is a version and what is in it; without this the rest would count as a pre-release",
        ),
        "policy": {
            "semver": {
                "range": Because(
                    f">={deployment.version} <{major}.{int(minor) + 1}.0",
                    "corrections only: what else is new is looked at before it is rendered for",
                )
            }
        },
        "digestReflectionPolicy": Because(
            "IfNotPresent", "the image is written with its digest: nobody can put another under its tag"
        ),
    }
    return [
        {
            "apiVersion": API,
            "kind": "ImageRepository",
            "metadata": metadata,
            "spec": {"image": image, "interval": Because("30m", "an update is no emergency")},
        },
        {"apiVersion": API, "kind": "ImagePolicy", "metadata": labels, "spec": policy},
    ]


def _automation(deployment: Deployment, branch: str) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "ImageUpdateAutomation",
        "metadata": {"name": deployment.name, "namespace": SPACE},
        "spec": {
            "interval": "30m",
            "sourceRef": {"kind": "GitRepository", "name": deployment.name},
            "git": {
                "checkout": {"ref": {"branch": branch}},
                "commit": {
                    "author": {"name": "Flux", "email": "flux@users.noreply.localhost"},
                    "messageTemplate": "Take newer images\n",
                },
                "push": {"branch": Because(BRANCH, "somebody reviews it, and the bundle is rendered again")},
            },
            "policySelector": {"matchLabels": {"gemstead": deployment.name}},
            "update": {"path": "./", "strategy": "Setters"},
        },
    }
