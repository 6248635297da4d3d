"""Around a Cloud Run service: the build (build, scan, push, deploy, verify), and what is set up once.

`cloudbuild.yaml` is run by a service account that can push to one registry, deploy and act as the instances' account,
and no more. `setup.sh` makes accounts, secrets, the registry and the bucket; every line of it can be run again.
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.cloudrun_fit import cold_start, storage
from gemstead.render.cloudrun_names import (
    account,
    bucket,
    builder,
    engine_tag,
    gateway_tag,
    hub_secret,
    ingress,
    keys_secret,
    monitoring_secret,
    named_secret,
    pepper_secret,
    region,
    service_name,
    settings_secret,
)
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.docker_gateway import locked
from gemstead.render.gatewayfile import secret_names
from gemstead.render.launch import hub_files
from gemstead.render.yamltext import document

HEAD = "Made by gemstead render cloudrun from gemstead.yaml; change that file and render again."
DOCKER, SDK, TRIVY = (
    "gcr.io/cloud-builders/docker",
    "gcr.io/google.com/cloudsdktool/google-cloud-cli:slim",
    "aquasec/trivy:0.65.0",
)
PYTHON = "python:3.11-slim-bookworm"
BUILD_GB = 100  # the engine's image, its weights, and the layers in between


def files(deployment: Deployment) -> dict[str, str]:
    """Paths and texts."""
    found = {
        "cloudbuild.yaml": document(build(deployment), head=HEAD),
        "setup.sh": setup(deployment),
        "README.md": readme(deployment),
    }
    if in_bucket(deployment):
        found["weights.yaml"] = document(weights(deployment), head=HEAD)
    return found


def in_bucket(deployment: Deployment) -> list[Pool]:
    """Pools whose weights are read from the bucket."""
    if not deployment.deploy.cache.kind.startswith("bucket"):
        return []
    return [pool for pool in deployment.pools if pool.setup.engine != "ollama"]


def build(deployment: Deployment) -> dict[str, Any]:
    """The build: each image is built, scanned, and pushed only when the scan finds nothing; then deployed and asked."""
    images = {} if deployment.deploy.images.get("gateway") else {"gateway": gateway_tag(deployment)}
    images |= {service_name(deployment, pool): engine_tag(deployment, pool) for pool in deployment.pools}
    baked = [
        one for one in deployment.pools if one not in in_bucket(deployment) and one.setup.engine != "ollama"
    ]
    tokened = {service_name(deployment, pool) for pool in baked if deployment.deploy.hub_token}
    steps: list[dict[str, Any]] = []
    for folder, tag in images.items():
        steps += _image(deployment, folder, tag, folder in tokened)
    for pool in deployment.pools:
        steps += _deployed(deployment, pool)
    found: dict[str, Any] = {
        "steps": steps,
        "images": Because(list(images.values()), "listed, so that Cloud Build signs how they came about"),
        "serviceAccount": f"projects/{deployment.deploy.cloud.project}/serviceAccounts/{builder(deployment)}",
        "options": {
            "logging": Because(
                "CLOUD_LOGGING_ONLY", "an account of one's own has no default bucket for logs"
            ),
            "requestedVerifyOption": "VERIFIED",
            "machineType": "E2_HIGHCPU_8",
            "diskSizeGb": Because(
                str(BUILD_GB), "the engine's image and its weights, twice while it is built"
            ),
        },
        "timeout": Because("7200s", "an engine's image has 10 GB, and baked weights come on top"),
    }
    if tokened:
        secret = (
            f"projects/{deployment.deploy.cloud.project}/secrets/{hub_secret(deployment)}/versions/latest"
        )
        found["availableSecrets"] = {"secretManager": [{"versionName": secret, "env": "HF_TOKEN"}]}
    return found


def _image(deployment: Deployment, folder: str, tag: str, token: bool) -> list[dict[str, Any]]:
    secret = "--secret id=hf_token,env=HF_TOKEN " if token else ""
    step: dict[str, Any] = {
        "id": f"build {folder}",
        "name": DOCKER,
        "env": ["DOCKER_BUILDKIT=1"],
        "entrypoint": "bash",
        "args": Because(
            ["-ceu", f"docker pull {tag} || docker build --tag {tag} {secret}{folder}"],
            "a tag says its content: what is there already is not built a second time",
        ),
    }
    if token:
        step["secretEnv"] = Because(["HF_TOKEN"], "mounted for one step of the build; it lies in no layer")
    return [
        step,
        {
            "id": f"scan {folder}",
            "name": deployment.image(TRIVY),
            "args": Because(
                [
                    "image",
                    "--exit-code",
                    "1",
                    "--severity",
                    "HIGH,CRITICAL",
                    "--ignore-unfixed",
                    "--timeout",
                    "30m",
                    tag,
                ],
                "a known hole that has a fix stops the build",
            ),
        },
        {"id": f"push {folder}", "name": DOCKER, "args": ["push", tag]},
    ]


def _deployed(deployment: Deployment, pool: Pool) -> list[dict[str, Any]]:
    name = service_name(deployment, pool)
    common = [f"--project={deployment.deploy.cloud.project}", f"--region={region(deployment)}"]
    where = " ".join(common)
    if ingress(deployment) == "all":
        verify = (
            f'url="$$(gcloud run services describe {name} {where} --format="value(status.url)")"\n'
            'token="$$(curl --fail --silent -H "Metadata-Flavor: Google" "http://metadata.google.internal/computeMetadata'
            '/v1/instance/service-accounts/default/identity?audience=$$url")"\n'
            'curl --fail --silent --max-time 1800 -H "X-Serverless-Authorization: Bearer $$token" "$$url/"\n'
        )
        why = "the gateway answers; `gemstead check --url` asks a dozen real things"
    else:
        verify = (
            f'said="$$(gcloud run services describe {name} {where} '
            '--format="value(status.latestCreatedRevisionName,status.latestReadyRevisionName)")"\n'
            'read -r made ready <<<"$$said"\n'
            'test "$$made" = "$$ready" || { echo "revision $$made is not ready" >&2; exit 1; }\n'
        )
        why = "a build is outside the network and may not call; that the new revision answers its probes is known"
    return [
        {
            "id": f"settings {name}",
            "name": SDK,
            "entrypoint": "gcloud",
            "args": ["secrets", "versions", "add", settings_secret(deployment, pool),
                     f"--data-file={name}/gemstead.yaml", common[0]],
        },
        {
            "id": f"deploy {name}",
            "name": SDK,
            "entrypoint": "gcloud",
            "args": ["run", "services", "replace", f"{name}/service.yaml", *common],
        },
        {
            "id": f"verify {name}",
            "name": SDK,
            "entrypoint": "bash",
            "args": ["-euc", Because(verify, why)],
        },
    ]  # fmt: skip


def weights(deployment: Deployment) -> dict[str, Any]:
    """The build that fills the bucket: run once, and again for another model."""
    cloud = deployment.deploy.cloud
    steps: list[dict[str, Any]] = []
    for pool in in_bucket(deployment):
        for repo, file in hub_files(pool):
            fetch = (
                f"pip install --quiet 'huggingface-hub=={locked('huggingface-hub')}' && hf download {repo} "
            )
            fetch += f"{file} " if file else ""
            step: dict[str, Any] = {
                "id": f"fetch {repo} {file}".strip(),
                "name": deployment.image(PYTHON),
                "entrypoint": "bash",
                "args": ["-euc", f"{fetch}--local-dir /workspace/{repo}"],
            }
            if deployment.deploy.hub_token:
                step["secretEnv"] = ["HF_TOKEN"]
            steps.append(step)
            steps.append(
                {
                    "id": f"send {repo}",
                    "name": SDK,
                    "entrypoint": "gcloud",
                    "args": ["storage", "rsync", "--recursive", "--exclude=^\\.cache/", f"/workspace/{repo}",
                             f"gs://{bucket(deployment)}/{repo}"],
                }
            )  # fmt: skip
    found: dict[str, Any] = {
        "steps": steps,
        "serviceAccount": f"projects/{cloud.project}/serviceAccounts/{builder(deployment)}",
        "options": {
            "logging": "CLOUD_LOGGING_ONLY",
            "machineType": "E2_HIGHCPU_8",
            "diskSizeGb": str(BUILD_GB * 2),
        },
        "timeout": "7200s",
    }
    if deployment.deploy.hub_token:
        secret = f"projects/{cloud.project}/secrets/{hub_secret(deployment)}/versions/latest"
        found["availableSecrets"] = {"secretManager": [{"versionName": secret, "env": "HF_TOKEN"}]}
    return found


def setup(deployment: Deployment) -> str:
    """The script that is run once, by someone who may make accounts and give rights."""
    cloud, place = deployment.deploy.cloud, region(deployment)
    secrets = [settings_secret(deployment, pool) for pool in deployment.pools]
    watched = bool(deployment.deploy.options.get("prometheus", False))
    if watched:
        secrets += [monitoring_secret(deployment, pool) for pool in deployment.pools]
    named = [named_secret(deployment, name) for name in secret_names(deployment)]
    secrets += [keys_secret(deployment), pepper_secret(deployment), *named]
    hub = [hub_secret(deployment)] if deployment.deploy.hub_token else []
    subnet = cloud.subnetwork or "default"
    own_account = not cloud.service_account
    lines = [
        "#!/usr/bin/env bash",
        "# " + HEAD,
        "# Run once, by someone who may make accounts and give rights; every line can be run again.",
        "set -euo pipefail",
        f'project="{cloud.project}" region="{place}" runs="{account(deployment)}" builds="{builder(deployment)}"',
        'state="${1:?usage: ./setup.sh STATE_DIR, the state_dir in which gemstead keys create made keys}"',
        "once() { # make what may be there already",
        '  local said; said="$("$@" 2>&1)" || { case "$said" in *"already exists"* | *ALREADY_EXISTS* | *"409"*) ;; '
        '*) printf "%s\\n" "$said" >&2; return 1 ;; esac; }',
        "}",
        "",
        "gcloud services enable run.googleapis.com cloudbuild.googleapis.com artifactregistry.googleapis.com \\",
        '  secretmanager.googleapis.com storage.googleapis.com compute.googleapis.com --project "$project"',
        "",
        "# Two accounts: one that instances run as, one that builds and deploys. Neither has a role in all the project",
        "# but for writing logs, deploying services and submitting builds.",
    ]
    accounts = (["runs"] if own_account else []) + ["builds"]
    for one in accounts:
        lines.append(f'once gcloud iam service-accounts create "${{{one}%%@*}}" --project "$project"')
    lines += [
        "for role in roles/logging.logWriter roles/run.developer; do",
        '  gcloud projects add-iam-policy-binding "$project" --member "serviceAccount:$builds" --role "$role" \\',
        "    --condition None --quiet >/dev/null",
        "done",
        'gcloud iam service-accounts add-iam-policy-binding "$runs" --project "$project" \\',
        '  --member "serviceAccount:$builds" --role roles/iam.serviceAccountUser --quiet >/dev/null',
        "",
    ]
    if not deployment.deploy.registry:
        lines += [
            f'once gcloud artifacts repositories create "{deployment.name}" --repository-format docker \\',
            '  --location "$region" --project "$project"',
            f'gcloud artifacts repositories add-iam-policy-binding "{deployment.name}" --location "$region" \\',
            '  --project "$project" --member "serviceAccount:$builds" --role roles/artifactregistry.writer \\',
            "  --quiet >/dev/null",
            "",
        ]
    lines += [
        "# Weights and secrets do not cross the internet.",
        f'gcloud compute networks subnets update "{subnet}" --region "$region" --project "$project" \\',
        "  --enable-private-ip-google-access",
        "",
        "# Each secret is readable by who needs it, and by nobody else.",
        f"for secret in {' '.join([*secrets, *hub])}; do",
        '  once gcloud secrets create "$secret" --replication-policy user-managed --locations "$region" \\',
        '    --project "$project"',
        "done",
        f"for secret in {' '.join(secrets)}; do",
        '  gcloud secrets add-iam-policy-binding "$secret" --project "$project" --member "serviceAccount:$runs" \\',
        "    --role roles/secretmanager.secretAccessor --quiet >/dev/null",
        "done",
    ]
    for pool in deployment.pools:
        lines += [
            f'gcloud secrets add-iam-policy-binding "{settings_secret(deployment, pool)}" --project "$project" \\',
            '  --member "serviceAccount:$builds" --role roles/secretmanager.secretVersionAdder --quiet >/dev/null',
        ]
    lines += [
        "# What was applied, so that `gemstead apply cloudrun --rollback` can go back.",
        f'once gcloud secrets create "{deployment.name}-applied" --replication-policy user-managed \\',
        '  --locations "$region" --project "$project"',
        f'gcloud secrets versions add "{keys_secret(deployment)}" --data-file "$state/keys.db" --project "$project"',
        f'gcloud secrets versions add "{pepper_secret(deployment)}" --data-file "$state/pepper" --project "$project"',
    ]
    if watched:
        for pool in deployment.pools:
            file = f"{service_name(deployment, pool)}/monitoring.yaml"
            secret = monitoring_secret(deployment, pool)
            lines.append(f'gcloud secrets versions add "{secret}" --data-file "{file}" --project "$project"')
        lines += [
            'gcloud projects add-iam-policy-binding "$project" --member "serviceAccount:$runs" \\',
            "  --role roles/monitoring.metricWriter --condition None --quiet >/dev/null",
        ]
    for secret in named:
        lines.append(
            f'echo "send what the file names: gcloud secrets versions add {secret} --data-file=FILE --project $project"'
        )
    for secret in hub:
        lines += [
            f'gcloud secrets add-iam-policy-binding "{secret}" --project "$project" \\',
            '  --member "serviceAccount:$builds" --role roles/secretmanager.secretAccessor --quiet >/dev/null',
            f'echo "send the token: gcloud secrets versions add {secret} --data-file=FILE --project $project"',
        ]
    if in_bucket(deployment):
        at = bucket(deployment)
        lines += [
            "",
            "# Weights: in the service's own region, folders that are folders, nothing public.",
            f'once gcloud storage buckets create "gs://{at}" --location "$region" --project "$project" \\',
            "  --uniform-bucket-level-access --enable-hierarchical-namespace --public-access-prevention",
            f'gcloud storage buckets add-iam-policy-binding "gs://{at}" --member "serviceAccount:$runs" \\',
            "  --role roles/storage.objectViewer >/dev/null",
            f'gcloud storage buckets add-iam-policy-binding "gs://{at}" --member "serviceAccount:$builds" \\',
            "  --role roles/storage.objectUser >/dev/null",
        ]
    return "\n".join(lines) + "\n"


def readme(deployment: Deployment) -> str:
    """What is there, how long a cold start takes, and what to type."""
    project, place = deployment.deploy.cloud.project, region(deployment)
    rows, starts = [], []
    for pool in deployment.pools:
        where = storage(deployment, pool)
        name = service_name(deployment, pool)
        rows.append(
            f"| `{name}` | {pool.setup.model.title} | {pool.command.engine} | {where} | {pool.setup.requests} |"
        )
        phases = cold_start(pool, where)
        terms = "\n".join(f"| {phase} | {seconds:.0f} s |" for phase, seconds in phases.items())
        starts.append(
            f"**{name}**\n\n| phase | likely |\n|---|---|\n{terms}\n| in all | {sum(phases.values()):.0f} s |\n"
        )
    fill = (
        f"$ gcloud builds submit --no-source --config weights.yaml --project {project}\n"
        if in_bucket(deployment)
        else ""
    )
    first = service_name(deployment, deployment.pools[0])
    return f"""# Cloud Run

Made by `gemstead render cloudrun`. Project `{project}`, region `{place}`.

| service | model | engine | weights | requests at once |
|---|---|---|---|---|
{chr(10).join(rows)}

Once, by someone who may give rights: `gemstead keys create --set state_dir=STATE` for each caller, then
`./setup.sh STATE`. Then:

```console
{fill}$ gcloud builds submit --config cloudbuild.yaml --project {project}    # build, scan, push, deploy, verify
$ gcloud run services proxy {first} --region {place} --project {project} --port 4367
$ GEMSTEAD_API_KEY=... gemstead check --url http://127.0.0.1:4367
```

Callers send Google's identity token in `X-Serverless-Authorization` and their own key in `Authorization`. Who may
call at all is `roles/run.invoker` on the service. Paths that end in `z` are kept by Cloud Run's front where it is open
to the internet: ask `/v1/models`, not `/healthz`, from outside.

## From nothing to the first token

{chr(10).join(starts)}
Weights over the rate of their storage, and the engine's own work as it was published for other cards: an estimate,
not a measurement. `deploy.options.min_instances: 1` keeps one instance warm, at its full price.

Back: `gcloud run services update-traffic {first} --to-revisions REVISION=100 --region {place}`, or
`gemstead apply cloudrun --rollback`. Remove: `gcloud run services delete`, the secrets, the registry, the bucket.
"""
