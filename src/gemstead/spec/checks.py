"""What two fields must agree on. Each check sees a Spec whose fields are right one by one and returns faults.

A fault names the field that a person would change. What needs the catalogue is in `catalog/check.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from gemstead.spec import engine_checks
from gemstead.spec.fault import Fault
from gemstead.spec.model import GatewaySpec, ModelSpec, Spec


def check(spec: Spec) -> list[Fault]:
    """Every disagreement between fields; no fault, no entry."""
    return [
        *_names(spec),
        *(fault for i, model in enumerate(spec.models) for fault in _model(i, model)),
        *_addresses(spec),
        *_gateway(spec.gateway),
        *_pauses(spec),
    ]


def split_listen(listen: str) -> tuple[str, int]:
    """`host:port` as its parts. An empty host is every interface; brackets of IPv6 are taken off."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A host name other than localhost counts as reachable."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(spec: Spec) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for i, model in enumerate(spec.models):
        own = {model.name.casefold()}
        if (first := seen.get(model.name.casefold())) is not None:
            yield Fault(("models", i, "name"), f"`{model.name}` is {first} already", "names must differ")
        seen.setdefault(model.name.casefold(), f"models[{i}].name")
        for j, alias in enumerate(model.aliases):
            key = alias.casefold()
            if key not in own and (first := seen.get(key)) is not None:
                yield Fault(("models", i, "aliases", j), f"`{alias}` is {first} already", "use it once")
            seen.setdefault(key, f"models[{i}].aliases[{j}]")
        for j, adapter in enumerate(model.adapters):
            key = adapter.name.casefold()
            if (first := seen.get(key)) is not None:
                yield Fault(("models", i, "adapters", j, "name"), f"`{adapter.name}` is {first} already")
            seen.setdefault(key, f"models[{i}].adapters[{j}]")


def _model(i: int, model: ModelSpec) -> Iterator[Fault]:
    at = ("models", i)
    if model.engine == "external" and not model.endpoints:
        yield Fault(
            (*at, "engine"),
            "external, but there are no endpoints",
            "say where it runs: endpoints: [{url: ...}]",
        )
    if model.autoscale is not None and model.endpoints:
        yield Fault(
            (*at, "autoscale"),
            "someone else runs its engines",
            "let them scale by the metric gemstead_desired_replicas",
        )
    if model.engine not in ("auto", "external") and model.endpoints:
        yield Fault((*at, "engine"), f"{model.engine}, but endpoints are given", "leave out one of the two")
    yield from engine_checks.check(at, model)
    if model.endpoints:
        for name in ("file", "projector", "threads"):
            if getattr(model, name) is not None:
                yield Fault((*at, name), "has no effect on an engine that runs elsewhere", "leave it out")
        if model.replicas != 1:
            yield Fault(
                (*at, "replicas"), "counts processes on this machine", "list each engine in endpoints"
            )
    urls: dict[str, int] = {}
    for j, endpoint in enumerate(model.endpoints):
        where = (*at, "endpoints", j, "url")
        if "@" in endpoint.url.split("//", 1)[1].split("/", 1)[0]:
            yield Fault(where, "holds a user name or password", "use api_key: env:NAME or file:PATH")
        if endpoint.url.rstrip("/").endswith("/v1"):
            yield Fault(where, "ends with /v1, which is added to it", "leave out /v1")
        if (first := urls.setdefault(endpoint.url.rstrip("/"), j)) != j:
            yield Fault(where, f"is the same engine as endpoints[{first}]", "list it once")


def _addresses(spec: Spec) -> Iterator[Fault]:
    gateway, admin = split_listen(spec.gateway.listen), split_listen(spec.admin.listen)
    for section, (_, port) in (("gateway", gateway), ("admin", admin)):
        if port > 65_535:
            yield Fault((section, "listen"), f"there is no port {port}", "ports end at 65535")
    if gateway[1] == admin[1] != 0 and _overlap(gateway[0], admin[0]):
        yield Fault(("admin", "listen"), f"port {admin[1]} is the gateway's", "give them different ports")


def _overlap(one: str, other: str) -> bool:
    """Whether two hosts may be the same address."""
    every = {"", "0.0.0.0", "::"}
    if one.casefold() == other.casefold() or {one, other} & every:
        return True
    return "localhost" in (one.casefold(), other.casefold()) and is_loopback(one) and is_loopback(other)


def _gateway(gateway: GatewaySpec) -> Iterator[Fault]:
    if gateway.vertex and gateway.keys != "off":
        yield Fault(
            ("gateway", "vertex"), "Vertex AI sends no keys", "set keys: off; its IAM says who may call"
        )
    if gateway.keys == "off" and not gateway.vertex and not is_loopback(split_listen(gateway.listen)[0]):
        yield Fault(
            ("gateway", "keys"),
            f"off lets anyone who reaches {gateway.listen} call",
            "listen on 127.0.0.1 or leave keys required",
        )
    if gateway.media == "fetch" and not gateway.fetch.hosts:
        yield Fault(
            ("gateway", "media"), "fetch, but no host may be asked", "name them in gateway.fetch.hosts"
        )
    if gateway.tls and gateway.tls.client_certificate == "required" and not gateway.tls.client_ca:
        yield Fault(
            ("gateway", "tls", "client_certificate"), "required, but no CA to check it with", "set client_ca"
        )


def _pauses(spec: Spec) -> Iterator[Fault]:
    if spec.supervise.backoff_s > spec.supervise.backoff_most_s:
        yield Fault(
            ("supervise", "backoff_s"),
            f"{spec.supervise.backoff_s:g} is more than backoff_most_s ({spec.supervise.backoff_most_s:g})",
            "the first pause is the shortest",
        )
