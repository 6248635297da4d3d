"""What Kubernetes needs to know beyond the plan: which operators the cluster has, and how it is reached.

By default only objects that every cluster knows are rendered. What asks for an operator (KEDA, Prometheus, Istio,
cert-manager, Argo Rollouts, a Gateway) is rendered when it is named here, so that the first `kubectl apply` works.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gemstead.spec.part import Part, SecretRef

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$")
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Cidr = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/\d{1,3}$")]
Cron = Annotated[str, Field(pattern=r"^[0-9A-Za-z*/,-]+( [0-9A-Za-z*/,?#-]+){4}$")]


class HoursSpec(Part):
    """A floor under the replicas for some hours of the week."""

    start: Cron = Field("0 8 * * 1-5", description="When the floor begins, as cron writes it")
    end: Cron = Field("0 18 * * 1-5", description="When it ends")
    timezone: str = Field(
        "UTC", pattern=r"^[A-Za-z0-9_+/-]+$", description="Of both", examples=["Europe/Berlin"]
    )
    replicas: int = Field(1, ge=1, le=1000, description="Replicas of each model in these hours, at least")


class RegionSpec(Part):
    """A further cluster: an overlay of its own."""

    name: DnsLabel = Field(description="Name of the overlay", examples=["eu-west"])
    region: LabelValue = Field(
        "",
        description="Value of `topology.kubernetes.io/region` that every pod must run in; default: the name",
    )
    sovereign: bool = Field(
        False, description="Nothing leaves the region: no way out but DNS, own registry, no hub"
    )
    registry: str = Field(
        "", description="Registry that mirrors all images", examples=["registry.eu.acme.com"]
    )
    replicas: int | None = Field(
        None, ge=0, le=1000, description="Replicas of each model; default: the plan's"
    )
    burst: bool = Field(
        False, description="Takes what the other clusters cannot: starts at no replicas and follows the queue"
    )
    url: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
        description="With `burst`: address of its gateway, which other clusters' gateways call when they have no room",
        examples=["https://burst.acme.com"],
    )
    api_key: SecretRef | None = Field(
        None, description="Key that they call it with", examples=["env:BURST_KEY"]
    )

    @model_validator(mode="after")
    def _called(self) -> RegionSpec:
        if (self.url or self.api_key) and not self.burst:
            raise ValueError("`url` and `api_key` are of a region with `burst: true`")
        return self


class ArmorSpec(Part):
    """Model Armor on Google's Gateway: prompts and answers are screened there."""

    template: str = Field(
        pattern=r"^projects/[^/]+/locations/[^/]+/templates/[^/]+$",
        description="Template, `projects/…/locations/…/templates/…`",
    )


class InferenceSpec(Part):
    """Gateway API Inference Extension: an InferencePool for each model, and who picks in it."""

    picker: Literal["gemstead", "llm-d", "off"] = Field(
        "gemstead",
        description="Whose endpoint picker answers: ours (`gemstead epp`) or llm-d's; `off`: no InferencePool at all",
    )
    objects: Literal["llm-d.ai", "inference.networking.x-k8s.io"] = Field(
        "llm-d.ai",
        description="Group of InferenceObjective and InferenceModelRewrite: they moved to llm-d.ai in 2026, and older "
        "clusters still have the other",
    )
    failure: Literal["FailOpen", "FailClose"] = Field(
        "FailClose", description="Without the picker: any endpoint (`FailOpen`), or none"
    )


class RoutesSpec(Part):
    """How callers come in: a Gateway of the Gateway API."""

    flavour: Literal["gke", "istio", "kgateway", "envoy-gateway"] = Field(
        "envoy-gateway", description="Whose Gateway it is"
    )
    gateway_class: ObjectName | Literal[""] = Field(
        "", description="GatewayClass; default: the flavour's own"
    )
    proxies: tuple[Cidr, ...] = Field(
        (),
        description="Addresses that a Gateway outside the cluster calls from: Google's proxy-only subnet",
        examples=[["10.129.0.0/23"]],
    )
    mirror: ObjectName | Literal[""] = Field("", description="Service that gets a copy of calls")
    mirror_percent: int = Field(5, ge=1, le=100, description="Share of calls that are copied")
    canary: ObjectName | Literal[""] = Field(
        "", description="Service of another version of the gateway, which gets `canary_percent` of calls"
    )
    canary_percent: int = Field(10, ge=0, le=100, description="Share of calls that the other version gets")
    armor: ArmorSpec | None = Field(None, description="Model Armor, on Google's Gateway only")
    inference: InferenceSpec | None = Field(
        None, description="Also an InferencePool for each model, behind a Gateway inside the cluster"
    )


class ReachSpec(Part):
    """A database or cache outside the bundle, by its addresses or its pods."""

    port: int = Field(5432, ge=1, le=65_535, description="Port; Redis has 6379")
    addresses: tuple[Cidr, ...] = Field((), description="Its addresses", examples=[["10.0.7.4/32"]])
    namespace: DnsLabel | Literal[""] = Field(
        "", description="Namespace of its pods, where it is in the cluster"
    )
    labels: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels of its pods", examples=[{"cnpg.io/cluster": "gemstead"}]
    )

    @model_validator(mode="after")
    def _somewhere(self) -> ReachSpec:
        if not self.addresses and not self.namespace:
            raise ValueError("give `addresses`, or `namespace` where it is in the cluster")
        return self


class KubernetesSpec(Part):
    """What Kubernetes needs to know beyond the plan."""

    scaling: Literal["off", "hpa", "keda"] = Field(
        "off",
        description="Who changes the number of replicas: nobody, the HorizontalPodAutoscaler (needs metrics in the "
        "cluster's API, such as by prometheus-adapter), or KEDA",
    )
    most_replicas: int | None = Field(
        None, ge=1, le=1000, description="Most replicas of each model when scaled; default: twice the plan's"
    )
    prometheus: str = Field(
        "http://prometheus-operated.monitoring:9090",
        pattern=r"^https?://\S+$",
        description="Prometheus' address, for KEDA and Argo Rollouts",
    )
    hours: tuple[HoursSpec, ...] = Field((), description="Floors for business hours; KEDA only")
    monitoring: Literal["off", "prometheus-operator", "google"] = Field(
        "off", description="Whose objects say what is scraped and alerted on"
    )
    monitoring_namespace: DnsLabel = Field("monitoring", description="Namespace that may read metrics")
    mesh: Literal["off", "istio", "linkerd"] = Field(
        "off", description="Service mesh that encrypts and authenticates what goes between pods"
    )
    engine_tls: Literal["off", "cert-manager"] = Field(
        "off",
        description="Mutual TLS between gateway and engines without a mesh, by certificates of a CA of this deployment "
        "alone, which cert-manager makes",
    )
    issuer: ObjectName | Literal[""] = Field(
        "",
        description="ClusterIssuer of cert-manager for the gateway's certificate",
        examples=["letsencrypt"],
    )
    secret_store: ObjectName | Literal[""] = Field(
        "", description="ClusterSecretStore of External Secrets that holds what the file refers to as `env:`"
    )
    rollouts: Literal["off", "canary", "blue-green"] = Field(
        "off", description="Change engines by Argo Rollouts instead of a rolling update"
    )
    routes: RoutesSpec | None = Field(
        None, description="How callers come in; default: a Service in the cluster"
    )
    callers: tuple[Cidr, ...] = Field(
        (), description="Addresses outside the cluster that may reach the gateway", examples=[["10.0.0.0/8"]]
    )
    egress: tuple[Cidr, ...] = Field(
        (),
        description="Addresses that the gateway may reach besides engines, on any port: identity provider, SIEM",
        examples=[["10.0.7.0/24"]],
    )
    stores: tuple[ReachSpec, ...] = Field(
        (),
        description="Databases and caches that gateways share (`ledger.store`, `limits.store`, `traffic.sharing`)",
    )
    devices: Literal["plugin", "dra"] = Field(
        "plugin",
        description="How cards are asked for: as extended resources, or by resource claims (DRA, Kubernetes 1.34)",
    )
    cards_per_node: int = Field(8, ge=1, le=72, description="Cards of one node")
    node_selector: dict[LabelKey, LabelValue] = Field(
        {},
        description="Labels that engine nodes must have",
        examples=[{"nvidia.com/gpu.product": "NVIDIA-L4"}],
    )
    runtime_class: ObjectName | Literal[""] = Field(
        "", description="RuntimeClass of engine pods", examples=["nvidia"]
    )
    model_image: str = Field(
        "",
        pattern=r"^([a-z0-9][A-Za-z0-9._/:@-]*)?$",
        description="OCI image whose root holds `owner/name` folders of weights, mounted as a volume (Kubernetes 1.33)",
    )
    regions: tuple[RegionSpec, ...] = Field((), description="Further clusters, each an overlay of its own")
