"""The file of `gemstead epp`: a picker of its own, beside a gateway that somebody else runs.

It is not a part of gemstead.yaml, because where a picker runs there is no engine and no door of ours to describe.
Everything is optional; without `endpoints` they come from a Kubernetes API. What it takes is strict like the one file:
unknown fields are refused with a suggestion, every fault with its line.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from gemstead.spec import document
from gemstead.spec.fault import Fault, Place, SpecError, in_order, located, nearest
from gemstead.spec.part import FilePath, Listen, Name, Part, Seconds
from gemstead.spec.sharing import SharingSpec

ENGINE_NAMES = Literal[
    "vllm", "sglang", "llamacpp", "ollama", "tgi", "tensorrt_llm", "transformers", "external"
]
POLICY_NAMES = Literal[
    "gemstead",
    "random",
    "round-robin",
    "least-outstanding",
    "power-of-two",
    "consistent-hash",
    "score-blend",
    "cache-aware",
    "sticky",
]


def _ip_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        fits = 0 < int(port) < 65_536
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("write an IP address and a port, such as 10.0.0.7:8000: gateways take no names")
    return text


class EppEndpoint(Part):
    """An engine that calls can be sent to."""

    address: Annotated[str, AfterValidator(_ip_and_port)] = Field(description="`ip:port`")
    name: Name = Field("", description="What it is called in metrics; default: its address")
    engine: ENGINE_NAMES | None = Field(
        None, description="Whose metrics it has; default: the file's `engine`"
    )
    slots: int = Field(0, ge=0, description="Requests that it runs at once; 0: unknown")
    context: int = Field(0, ge=0, description="Longest prompt plus answer in tokens; 0: unknown")
    kv_events_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Port at which it says what its prefix cache holds; default: the file's",
    )
    kv_replay_port: int | None = Field(
        None, ge=1, le=65_535, description="Port at which it says again what was missed; default: the file's"
    )


class EppTarget(Part):
    model: Name = Field(description="What engines are asked for")
    weight: int = Field(1, ge=1, le=1_000_000, description="Its part of the calls")


class EppRewrite(Part):
    """As an InferenceModelRewrite."""

    model: Name | None = Field(None, description="What callers name; default: any model without a rule")
    targets: tuple[EppTarget, ...] = Field(min_length=1, description="What engines are asked for instead")


class EppQueue(Part):
    """Where calls wait while the pool is full."""

    requests: int = Field(5000, ge=0, description="Most calls that wait; 0: none does, they get 429 at once")
    mib: int = Field(1024, ge=1, description="Most of their bodies together")
    wait_s: Seconds = Field(60.0, description="Longest wait (then 429)")
    starting_wait_s: float = Field(
        0.0, ge=0, le=86_400, description="Longest wait for a first endpoint; 0: 503 at once"
    )


class EppTls(Part):
    certificate: FilePath = Field(description="Path of the PEM chain")
    key: FilePath = Field(description="Path of the PEM key")


class EppKubernetes(Part):
    """Which InferencePool, and where."""

    namespace: Name = Field("", description="Default: the pod's own, or the kubeconfig's")
    kubeconfig: FilePath | None = Field(None, description="Default: the pod's service account")
    context: Name = Field("", description="Context of the kubeconfig; default: its current one")


class EppSpec(Part):
    """All of a picker."""

    pool: Name = Field("", description="Name of the InferencePool; of the pool in metrics")
    endpoints: tuple[EppEndpoint, ...] | None = Field(
        None, description="The engines; default: the pods of the InferencePool"
    )
    kubernetes: EppKubernetes = Field(EppKubernetes(), description="Which InferencePool, and where")
    listen: Listen = Field(":9002", description="Address for gateways (gRPC)")
    health: Listen = Field(":9003", description="Address of the health service for probes (gRPC, plain)")
    metrics: Listen = Field(":9090", description="Address of /metrics, /healthz, /readyz and /endpoints")
    tls: Literal["self-signed", "off"] | EppTls = Field(
        "self-signed", description="Towards gateways: a certificate made up at start, files, or none"
    )
    engine: ENGINE_NAMES = Field("vllm", description="Whose metrics endpoints have that do not say")
    slots: int = Field(0, ge=0, description="Requests that an endpoint runs at once, where it does not say")
    context: int = Field(0, ge=0, description="Longest prompt plus answer, where an endpoint does not say")
    kv_events_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Port at which vLLM says what its prefix cache holds (`--kv-events-config`), at every endpoint; "
        "needs `gemstead[kv-events]`",
    )
    kv_replay_port: int | None = Field(
        None, ge=1, le=65_535, description="Port at which it says again what was missed (`replay_endpoint`)"
    )
    policy: POLICY_NAMES = Field("gemstead", description="How endpoints are picked")
    fallbacks: int = Field(
        1, ge=0, le=8, description="Further addresses behind the picked one; 0 where a gateway reads one only"
    )
    body_mib: int = Field(32, ge=1, le=1024, description="Largest request body (then 413)")
    media: Literal["refuse", "engine"] = Field(
        "refuse",
        description="Addresses of images, audio and video in requests: refused, or passed on for the engine to fetch",
    )
    queue: EppQueue = Field(EppQueue(), description="Where calls wait while the pool is full")
    sharing: SharingSpec | None = Field(
        None,
        description="With other pickers of the same pool: what is in flight, and which prompts engines have",
    )
    objectives: dict[str, int | Literal["critical", "standard", "sheddable"]] = Field(
        {}, description="Priority by objective: a whole number, or `critical`, `standard`, `sheddable`"
    )
    rewrites: tuple[EppRewrite, ...] = Field((), description="Models that stand for others")
    scrape_s: Seconds = Field(1.0, description="Between two looks at an endpoint's metrics")
    drain_s: Seconds = Field(60.0, description="For running answers to end when the picker stops")


def parse(text: str, name: str) -> EppSpec:
    """The picker that the text describes.

    Raises:
        SpecError: with every fault.
    """
    said = document.read(text, name)
    if said.value is not None and not isinstance(said.value, dict):
        said.faults.append(Fault((), "does not hold fields", "write `field: value` lines", Place(name, 1)))
    if said.faults:
        raise SpecError(in_order(said.faults))
    try:
        return EppSpec.model_validate(_tuples(said.value or {}))
    except ValidationError as error:
        faults = [located(_fault(one), said.places) for one in error.errors(include_url=False)]
    raise SpecError(in_order(dict.fromkeys(faults)))


def overridden(spec: EppSpec, said: dict[str, Any], kubernetes: dict[str, Any]) -> EppSpec:
    """The picker with what options say over it; `kubernetes` are the fields of that section.

    Raises:
        SpecError: an option's value is none.
    """
    values = {**spec.model_dump(exclude_unset=True), **said}
    if kubernetes:
        values["kubernetes"] = {**values.get("kubernetes", {}), **kubernetes}
    try:
        return EppSpec.model_validate(values)
    except ValidationError as error:
        found = [_fault(one) for one in error.errors(include_url=False)]
    raise SpecError([replace(fault, path=(), place=Place(f"--{_option(fault)}")) for fault in found])


def _option(fault: Fault) -> str:
    """The option that says a field: `--drain-s` for `drain_s`, `--namespace` for `kubernetes.namespace`."""
    return fault.field.removeprefix("kubernetes.").replace("_", "-")


def _fault(error: Any) -> Fault:
    path = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        near = nearest(str(path[-1]), _fields(path[:-1]))
        return Fault(path, "is not a field here", f"did you mean `{near}`?" if near else "see docs/epp.md")
    message = str(error["msg"]).removeprefix("Value error, ")
    return Fault(path, message[:1].lower() + message[1:])


def _fields(path: tuple[str | int, ...]) -> list[str]:
    """The fields of the section at a path."""
    sections: dict[str, type[Part]] = {
        "endpoints": EppEndpoint,
        "kubernetes": EppKubernetes,
        "queue": EppQueue,
        "targets": EppTarget,
        "rewrites": EppRewrite,
        "sharing": SharingSpec,
        "tls": EppTls,
    }
    named = [part for part in path if isinstance(part, str) and part in sections]
    return list((sections[named[-1]] if named else EppSpec).model_fields)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(child) for name, child in value.items() if child is not None}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
