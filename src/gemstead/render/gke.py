"""Google Kubernetes Engine: the cluster's bundle with Google's Gateway, Inference Gateway, monitoring and node classes.

What the file says of `deploy.kubernetes` counts; what it leaves open becomes Google's: the Gateway `gke`, an
InferencePool for each model, managed Prometheus. Callers come through the Gateway to Gemstead, which knows them.
"""

from __future__ import annotations

from dataclasses import replace

from gemstead.refused import Reason, Refused
from gemstead.render import kubernetes
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.spec.kubernetes import InferenceSpec, RoutesSpec

SUMMARY = "Google Kubernetes Engine: Gateway, Inference Gateway, node classes with spot fallback, monitoring"


def render(deployment: Deployment) -> Bundle:
    """The folder of a deployment in Google's cluster."""
    return kubernetes.render(googled(deployment), "gke")


def googled(deployment: Deployment) -> Deployment:
    """The deployment with what is Google's where nothing else was chosen.

    Raises:
        Refused: another Gateway was chosen.
    """
    deploy = deployment.deploy
    said = deploy.kubernetes
    routes = said.routes
    if routes is not None and "flavour" in routes.model_fields_set and routes.flavour != "gke":
        raise Refused(
            Reason.BAD_REQUEST,
            f"deploy.kubernetes.routes.flavour is {routes.flavour}; render `kubernetes`, or leave it out for `gke`",
        )
    changes: dict[str, object] = {}
    if routes is None:
        changes["routes"] = RoutesSpec(flavour="gke", inference=_inference(deployment))
    else:
        said_so = "inference" in routes.model_fields_set
        own = routes.inference if said_so else _inference(deployment)
        changes["routes"] = routes.model_copy(update={"flavour": "gke", "inference": own})
    if said.monitoring == "off":
        changes["monitoring"] = "google"
    if said.monitoring_namespace == "monitoring":
        changes["monitoring_namespace"] = "gmp-system"
    kubernetes_ = said.model_copy(update=changes)
    spec = deployment.spec.model_copy(
        update={"deploy": deploy.model_copy(update={"kubernetes": kubernetes_})}
    )
    return replace(deployment, spec=spec)


def _inference(deployment: Deployment) -> InferenceSpec | None:
    """An InferencePool for each model, unless an engine shows nothing to pick by."""
    if any(pool.setup.engine == "ollama" for pool in deployment.pools):
        return None
    return InferenceSpec(objects="inference.networking.x-k8s.io")
