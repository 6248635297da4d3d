"""Names on Google Cloud: images, secrets, the service account. One place, so that build, set-up and service agree.

An image's tag says its content: another model baked in, or another Dockerfile, is another tag, so that a service whose
file did not change runs what it ran, and one whose image changed gets a new revision.
"""

from __future__ import annotations

from gemstead.render import docker_gateway
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.docker_engine import engine_dockerfile
from gemstead.render.images import content

REGION = "europe-west4"  # has L4 and RTX PRO 6000 on Cloud Run


def region(deployment: Deployment) -> str:
    """The region; the user's, or one that has the cards."""
    return deployment.deploy.cloud.region or REGION


def service_name(deployment: Deployment, pool: Pool) -> str:
    """Name of a model's service; Cloud Run takes 49 characters."""
    return f"{deployment.name}-{pool.name}"[:49].rstrip("-")


def registry(deployment: Deployment) -> str:
    """Where images are pushed: the user's registry, or one in Artifact Registry of the region."""
    own = deployment.deploy.registry.rstrip("/")
    return own or f"{region(deployment)}-docker.pkg.dev/{deployment.deploy.cloud.project}/{deployment.name}"


def gateway_tag(deployment: Deployment) -> str:
    """The gateway's image; the user's own, where there is one."""
    own = deployment.deploy.images.get("gateway", "")
    if own:
        return own
    files = docker_gateway.files(deployment, bare=False)
    return f"{registry(deployment)}/gemstead-gateway:{deployment.version}-{content(*files.values())}"


def engine_tag(deployment: Deployment, pool: Pool) -> str:
    """The image of a pool's engine."""
    inside = content(engine_dockerfile(deployment, pool))
    return f"{registry(deployment)}/gemstead-{pool.name}:{deployment.version}-{inside}"


def account(deployment: Deployment) -> str:
    """The service account that instances run as."""
    cloud = deployment.deploy.cloud
    return cloud.service_account or f"{deployment.name[:30]}@{cloud.project}.iam.gserviceaccount.com"


def builder(deployment: Deployment) -> str:
    """The service account that builds and deploys."""
    return (
        f"{deployment.name[:24].rstrip('-')}-build@{deployment.deploy.cloud.project}.iam.gserviceaccount.com"
    )


def bucket(deployment: Deployment) -> str:
    """The bucket of weights, without a scheme."""
    return deployment.deploy.cache.bucket.removeprefix("gs://").rstrip("/")


def settings_secret(deployment: Deployment, pool: Pool) -> str:
    """The secret that holds a gateway's gemstead.yaml."""
    return f"{service_name(deployment, pool)}-settings"


def keys_secret(deployment: Deployment) -> str:
    """The secret that holds API keys, as hashes."""
    return f"{deployment.name}-keys"


def pepper_secret(deployment: Deployment) -> str:
    """The secret that the hashes of keys are made with."""
    return f"{deployment.name}-pepper"


def hub_secret(deployment: Deployment) -> str:
    """The secret that holds the hub's token."""
    return f"{deployment.name}-hub-token"


def named_secret(deployment: Deployment, name: str) -> str:
    """The secret that holds what the file refers to as `env:NAME`."""
    return f"{deployment.name}-{name.lower().replace('_', '-')}"


def monitoring_secret(deployment: Deployment, pool: Pool) -> str:
    """The secret that tells the collector where metrics are."""
    return f"{service_name(deployment, pool)}-monitoring"


def ingress(deployment: Deployment) -> str:
    """From where the service may be called."""
    return str(deployment.deploy.options.get("ingress", "internal-and-cloud-load-balancing"))
