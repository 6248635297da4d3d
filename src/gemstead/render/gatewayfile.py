"""The gateway's own `gemstead.yaml` where engines run elsewhere: the user's file with its models as endpoints.

The gateway of a deployment starts no engine. What the file says of the door, limits, ledger and watching stays as it
was; what it says of where things are shipped to is left out, because the gateway there has no use for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gemstead.render.because import Because
from gemstead.render.bundle import HEAD
from gemstead.render.deployment import ADMIN_PORT, GATEWAY_PORT, Deployment, Pool
from gemstead.render.yamltext import document
from gemstead.spec.kubernetes import RegionSpec

DIALECTS = ("vllm", "sglang", "llamacpp", "ollama", "tgi", "tensorrt_llm", "transformers")
NAME = "[A-Za-z_][A-Za-z0-9_]*"  # of an environment variable
LEFT_OUT = {"models", "deploy", "version", "state_dir"}


def gateway_file(
    deployment: Deployment,
    urls: Mapping[str, Sequence[str]],
    *,
    state_dir: str,
    discover: bool = False,
    port: int = GATEWAY_PORT,
    beyond: Sequence[RegionSpec] = (),
    endpoint: Mapping[str, Any] | None = None,
) -> str:
    """The file of a gateway whose engines answer at `urls`, by pool name. Listens on every interface.

    With `discover` each URL's host stands for all replicas (a headless Service). `beyond` are clusters that take what
    has no room here. `endpoint` is said of each engine besides.
    """
    said = deployment.spec.model_dump(mode="json", exclude_defaults=True, exclude=LEFT_OUT)
    gateway = said.pop("gateway", {})
    admin = said.pop("admin", {})
    gateway["listen"] = Because(
        f"0.0.0.0:{port}", "a container's only address; who may reach it is the network's rule"
    )
    admin["listen"] = Because(
        f"0.0.0.0:{ADMIN_PORT}", "probes and Prometheus come from outside the container"
    )
    if beyond and deployment.pools:
        said["routes"] = [*said.get("routes", []), *(_spills(pool, beyond) for pool in deployment.pools)]
    content: dict[str, Any] = {
        "version": 1,
        "models": [_model(pool, urls[pool.name], discover, endpoint or {}) for pool in deployment.pools]
        + _external(deployment)
        + [_there(pool, region) for region in beyond for pool in deployment.pools],
        "gateway": gateway,
        "admin": admin,
        **said,
        "state_dir": state_dir,
        "hub": Because(False, "engines fetch their models; the gateway needs none"),
    }
    return document(content, head=HEAD)


def secret_names(deployment: Deployment) -> list[str]:
    """Environment variables that the file refers to as `env:NAME`, in order."""
    said = deployment.spec.model_dump(mode="json", exclude={"deploy"})
    keys = [region.api_key or "" for region in deployment.deploy.kubernetes.regions]
    return sorted(set(_referred([said, keys])))


def _there(pool: Pool, region: RegionSpec) -> dict[str, Any]:
    """The pool's model as another cluster's gateway has it."""
    endpoint: dict[str, Any] = {"url": region.url, "region": region.name, "served_model": pool.model.name}
    if region.api_key:
        endpoint["api_key"] = region.api_key
    return {
        "name": Because(
            f"{pool.model.name}-{region.name}", "called by the route below, when there is no room here"
        ),
        "engine": "external",
        "endpoints": [endpoint],
    }


def _spills(pool: Pool, beyond: Sequence[RegionSpec]) -> dict[str, Any]:
    """The route by which calls go there that have no room here."""
    return {
        "name": f"burst-{pool.name}",
        "when": {"models": [pool.model.name]},
        "fallback": Because(
            [f"{pool.model.name}-{region.name}" for region in beyond],
            "when no engine is ready here, the queue is full, or a call has waited for traffic.queue.wait_s",
        ),
    }


def from_files(text: str, folder: str) -> str:
    """The gateway's file with `env:NAME` read from `folder` instead, where secrets are mounted."""
    return re.sub(rf"(?m)(?<=[ '\"])env:({NAME})(?=['\"]?$)", rf"file:{folder}/\1", text)


def _referred(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _referred(inner)
    elif isinstance(value, str) and (found := re.fullmatch(f"env:({NAME})", value)):
        yield found[1]


def _model(pool: Pool, urls: Sequence[str], discover: bool, more: Mapping[str, Any]) -> dict[str, Any]:
    setup = pool.setup
    model: dict[str, Any] = {"name": pool.model.name}
    if pool.model.aliases:
        model["aliases"] = list(pool.model.aliases)
    model["engine"] = "external"
    model["context"] = Because(setup.length, "the context that the engines are started with")
    dialect = setup.engine if setup.engine in DIALECTS else "external"
    how = {"discover": Because("dns", "the name stands for every replica that is ready")} if discover else {}
    model["endpoints"] = [
        {
            "url": url,
            **how,
            "dialect": dialect,
            "served_model": pool.placement.name or setup.checkpoint.repo,
            **more,
        }
        for url in urls
    ]
    return model


def _external(deployment: Deployment) -> list[dict[str, Any]]:
    """Models whose engines someone else runs: as the file says."""
    return [
        model.model_dump(mode="json", exclude_defaults=True)
        for model in deployment.spec.models
        if model.endpoints or model.engine == "external"
    ]
