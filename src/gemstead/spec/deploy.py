"""Where the service is shipped to: what `gemstead render` and `gemstead apply` need to know beyond the models.

Everything has a default, so that `gemstead render compose` works from an empty file. What a target does not use it
passes over; `gemstead render --list` says which targets there are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gemstead.spec.kubernetes import KubernetesSpec
from gemstead.spec.part import Part, SecretRef

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
ImageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/:@-]{0,255}$")]


class HardwareSpec(Part):
    """What the target has, where it is not the machine that renders."""

    gpu: str = Field("", description="Card as people write it; empty: none, the processor", examples=["H100"])
    count: int | None = Field(None, ge=1, le=4096, description="Cards; default: as many as the traffic needs")
    spot: bool = Field(
        False, description="Whether engines may run on spot machines, with on-demand ones as fallback"
    )
    multi_node: bool = Field(False, description="Whether one replica may span several hosts")


class LoadSpec(Part):
    """What callers are expected to send, for sizing."""

    users: float = Field(0, ge=0, description="People who use it")
    requests_per_s: float = Field(0, ge=0, description="Requests a second in the busiest hour")
    prompt_tokens: float = Field(1024, ge=1, description="Tokens of a usual prompt")
    output_tokens: float = Field(256, ge=1, description="Tokens of a usual answer")
    longest_answer_s: float = Field(600, gt=0, le=86_400, description="Longest time that one answer may take")
    images: int = Field(0, ge=0, le=64, description="Pictures that a prompt may hold")


class CacheSpec(Part):
    """Where engines find the model's files."""

    kind: Literal["volume", "bucket-fuse", "bucket-stream", "image"] = Field(
        "volume",
        description="A shared volume, a bucket (mounted, or streamed by the engine), or baked into the image",
    )
    bucket: str = Field("", description="Bucket name, for the two bucket kinds", examples=["acme-models"])
    size_gib: int | None = Field(None, ge=1, description="Size of the volume; default: fitted to the models")
    storage_class: str = Field("", description="Kubernetes storage class; default: the cluster's own")


class CloudSpec(Part):
    """A cloud project, for the targets that live in one."""

    project: str = Field("", description="Google Cloud project", examples=["acme-llm"])
    region: str = Field("", description="Region", examples=["europe-west4"])
    zone: str = Field("", description="Zone, where one is needed")
    network: str = Field("", description="VPC network; default: `default`")
    subnetwork: str = Field("", description="VPC subnetwork")
    service_account: str = Field(
        "", description="Service account that engines and gateway run as; default: one of its own"
    )


class DeploySpec(Part):
    """Where the service is shipped to."""

    name: DnsName = Field("gemstead", description="Name of everything that is created")
    namespace: DnsName = Field("gemstead", description="Kubernetes namespace")
    registry: str = Field(
        "", description="Registry and path for images that are built", examples=["ghcr.io/acme"]
    )
    images: dict[str, ImageName] = Field(
        {}, description="Images to use instead of ours, by `gateway` or an engine's name"
    )
    host: HostName | Literal[""] = Field(
        "", description="Public host name of the gateway", examples=["llm.acme.com"]
    )
    gateways: int = Field(2, ge=1, le=64, description="Gateway instances, where there can be several")
    hardware: HardwareSpec = Field(HardwareSpec(), description="What the target has")
    load: LoadSpec = Field(LoadSpec(), description="What callers are expected to send, for sizing")
    cache: CacheSpec = Field(CacheSpec(), description="Where engines find the model's files")
    cloud: CloudSpec = Field(CloudSpec(), description="A cloud project")
    kubernetes: KubernetesSpec = Field(
        KubernetesSpec(), description="What Kubernetes needs to know beyond the plan"
    )
    hub_token: SecretRef | None = Field(
        None, description="Token for gated repositories", examples=["env:HF_TOKEN"]
    )
    options: dict[str, str | int | bool] = Field(
        {}, description="Choices of single targets, as each target's page in docs/deploy lists them"
    )
