"""All objects of a deployment, by the file that they are written to: what Kustomize and Helm are both made from."""

from __future__ import annotations

from dataclasses import replace

from gemstead.refused import Reason, Refused
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import (
    access,
    bodies,
    cache,
    engine,
    gateway,
    google,
    inference,
    network,
    release,
    routes,
    scaling,
    trust,
    watching,
)
from gemstead.render.kubernetes.objects import Object

LONGEST_NAME = 40  # with what is put behind it, names stay under DNS' 63


def settled(deployment: Deployment) -> Deployment:
    """The deployment with an InferencePool that was switched off as one that was never asked for."""
    deploy = deployment.deploy
    routes = deploy.kubernetes.routes
    if routes is None or routes.inference is None or routes.inference.picker != "off":
        return deployment
    kubernetes = deploy.kubernetes.model_copy(
        update={"routes": routes.model_copy(update={"inference": None})}
    )
    deploy = deploy.model_copy(update={"kubernetes": kubernetes})
    return replace(deployment, spec=deployment.spec.model_copy(update={"deploy": deploy}))


def objects(deployment: Deployment) -> dict[str, list[Object]]:
    """File name without its ending -> objects, in the order in which they are applied. Empty files are left out.

    Raises:
        Refused: something asked for does not go together; the sentence says what to change.
    """
    if len(deployment.name) > LONGEST_NAME:
        raise Refused(Reason.BAD_REQUEST, f"deploy.name: at most {LONGEST_NAME} letters for Kubernetes")
    kubernetes = deployment.deploy.kubernetes
    if kubernetes.hours and kubernetes.scaling != "keda":
        raise Refused(Reason.BAD_REQUEST, "deploy.kubernetes.hours: floors by the clock need scaling: keda")
    found = {
        "access": access.objects(deployment),
        "network": network.objects(deployment),
        "trust": trust.objects(deployment),
        "models": cache.objects(deployment),
        "gateway": gateway.objects(deployment),
        "routes": routes.objects(deployment),
        "inference": inference.objects(deployment) + bodies.objects(deployment),
        "monitoring": watching.objects(deployment),
    }
    for pool in deployment.pools:
        own = google.objects(deployment, pool) + engine.objects(deployment, pool)
        if kubernetes.rollouts != "off":
            own += release.objects(deployment, pool)
        found[f"engine-{pool.name}"] = own + scaling.objects(deployment, pool)
    return {name: one for name, one in found.items() if one}
