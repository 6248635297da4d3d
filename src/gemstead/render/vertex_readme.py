"""The README of a Vertex AI bundle: what is created, what it costs to keep, how to verify, go back and remove."""

from __future__ import annotations

from gemstead.render.cloudrun_names import account, bucket, engine_tag, region, service_name
from gemstead.render.deployment import Deployment, Pool


def text(deployment: Deployment) -> str:
    """Markdown."""
    project, place = deployment.deploy.cloud.project, region(deployment)
    rows = "\n".join(_row(deployment, pool) for pool in deployment.pools)
    builds = "\n".join(_build(deployment, pool) for pool in deployment.pools)
    name = service_name(deployment, deployment.pools[0])
    weights = ""
    if deployment.deploy.cache.kind == "bucket-stream":
        at = bucket(deployment)
        weights = (
            f"\nWeights are read from `gs://{at}`; the account needs `roles/storage.objectViewer` there.\n"
        )
    return f"""# Vertex AI

Made by `gemstead render vertex`. Project `{project}`, region `{place}`.
Service account: `{account(deployment)}`.

| endpoint | model | engine | allowed for a start |
|---|---|---|---|
{rows}
{weights}
Build and push (an image of the engine, and on it the one that Vertex runs):

```console
{builds}
$ gcloud secrets create {deployment.name}-applied --project {project}    # once: what `apply` needs to go back
$ gemstead apply vertex --dry-run && gemstead apply vertex
```

`apply` uploads a version of the model, makes the endpoint, deploys the version with no traffic, gives it the shares of
`rollout.yaml` one after another, holds each for `hold_s` seconds with every replica up, and after the check undeploys
the version before. Each step can be repeated.

Going back is `gemstead apply vertex --rollback`. Until the old version is undeployed, that is while `apply` runs and
after it failed, both versions are paid for, and going back is one change of shares, in seconds.
{_back(deployment)}

Call it, with streams, through the endpoint's own address (`dedicatedEndpointDns`):

```console
$ at="https://$DNS/v1/projects/{project}/locations/{place}/endpoints/$ID"
$ token="$(gcloud auth print-access-token)"
$ curl -H "Authorization: Bearer $token" "$at/invoke/v1/chat/completions" -d '{{"model": "...", "messages": [...]}}'
$ curl -H "Authorization: Bearer $token" "$at:streamRawPredict" -d '{{"messages": [...], "stream": true}}'
$ curl -H "Authorization: Bearer $token" "$at:predict" -d '{{"instances": [{{"messages": [...]}}]}}'
```

Remove: `gcloud ai endpoints undeploy-model`, `gcloud ai endpoints delete`, `gcloud ai models delete {name}`.
"""


def _back(deployment: Deployment) -> str:
    if deployment.deploy.options.get("keep_previous") is True:
        return (
            "The version before stays deployed without calls (`keep_previous`), paid for, until the next one: going "
            "back is a change of shares at any time."
        )
    return (
        "Afterwards the old version is registered but not deployed: going back deploys it again, which takes as long "
        "as a start and a machine. `deploy.options.keep_previous: true` keeps it deployed, at the price of both."
    )


def _row(deployment: Deployment, pool: Pool) -> str:
    name = service_name(deployment, pool)
    return f"| `{name}` | {pool.setup.model.title} | {pool.command.engine} | {pool.startup.allowance_s} s |"


def _build(deployment: Deployment, pool: Pool) -> str:
    from gemstead.render.vertex import tag  # the image's name is the request's

    name, engine, whole = service_name(deployment, pool), engine_tag(deployment, pool), tag(deployment, pool)
    return (
        f"$ docker build --tag {engine} {name}/engine && docker push {engine}\n"
        f"$ docker build --tag {whole} {name} && docker push {whole}"
    )
