"""Cloud Run: one service for each model, with the gateway before its engine in the same instance.

    callers ── Cloud Run's front ── gateway (the ingress container) ── engine (the card, reached by the gateway alone)
                                                                          └── weights: in the image, or in a bucket

Two approaches, as `deploy.cache.kind` says. `image`: llama.cpp or Ollama with the model baked in, which starts from
nothing soonest and is built anew for another model. `bucket-fuse` and `bucket-stream`: weights in a bucket, mounted or
streamed, so that a model is changed without a build. Cloud Run has no volume that engines could share, so the default
becomes the bucket where one is named, and the image where none is. The files around the service (the build, what is set
up once) are `cloudrun_build.py`'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from gemstead.render import cloudrun_build, docker_gateway
from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.cloudrun_fit import (
    GATEWAY_CPU,
    GATEWAY_GIB,
    PROBE_MOST_GPU_S,
    PROBE_MOST_S,
    PROBE_S,
    allowance_of,
    card_of,
    cold_s,
    cpus,
    fitted,
    memory,
    storage,
)
from gemstead.render.cloudrun_names import (
    account,
    bucket,
    engine_tag,
    gateway_tag,
    ingress,
    keys_secret,
    monitoring_secret,
    named_secret,
    pepper_secret,
    region,
    service_name,
    settings_secret,
)
from gemstead.render.deployment import ADMIN_PORT, ENGINE_PORT, GATEWAY_PORT, Deployment, Pool
from gemstead.render.docker_engine import engine_dockerfile
from gemstead.render.docker_gateway import STATE
from gemstead.render.gatewayfile import gateway_file, secret_names
from gemstead.render.kubernetes.cache import words
from gemstead.render.launch import BAKED, CACHE, caches, launch_words, reasoned
from gemstead.render.yamltext import document

SUMMARY = "Cloud Run with a GPU: a service for each model, its build, and what is set up once"
HEAD = "Made by gemstead render cloudrun from gemstead.yaml; change that file and render again."
REQUEST_MOST_S = 3600
CONCURRENCY_MOST = 1000
# Of GCS FUSE: metadata is asked for once, and files are read ahead in parallel. Without the last one, reads come one
# after another and a model takes many minutes. A file cache would be kept in the instance's memory a second time.
FUSE = "implicit-dirs,metadata-cache-ttl-secs=-1,enable-buffered-read=true"
COLLECTOR = "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0"


def render(deployment: Deployment) -> Bundle:
    """The folder of a deployment on Cloud Run.

    Raises:
        Refused: a card that Cloud Run does not have, a replica of several cards, or one that fits no instance.
    """
    deployment = fitted(deployment)
    files: dict[str, str] = docker_gateway.files(deployment, bare=False)
    for pool in deployment.pools:
        name = service_name(deployment, pool)
        files[f"{name}/service.yaml"] = document(service(deployment, pool), head=HEAD)
        files[f"{name}/gemstead.yaml"] = _settings(deployment, pool)
        files[f"{name}/Dockerfile"] = engine_dockerfile(deployment, pool)
        files[f"{name}/.dockerignore"] = "*\n"
        if collected(deployment):
            files[f"{name}/monitoring.yaml"] = _monitoring(name)
    files |= cloudrun_build.files(deployment)
    return Bundle("cloudrun", files, (*deployment.notes, *_notes(deployment)))


def service(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    """The service in the form that `gcloud run services replace` and `gemstead apply` take."""
    cloud = deployment.deploy.cloud
    annotations: dict[str, Any] = {
        "run.googleapis.com/ingress": Because(
            ingress(deployment),
            "callers come from the project's networks or its load balancer; `deploy.options.ingress: all` opens it",
        ),
        "run.googleapis.com/launch-stage": "GA",
    }
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(deployment, pool),
            "namespace": cloud.project,
            "labels": {"gemstead": deployment.name, "cloud.googleapis.com/location": region(deployment)},
            "annotations": annotations,
        },
        "spec": {
            "template": _template(deployment, pool),
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
    }


def _template(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "containerConcurrency": _concurrency(pool),
        "timeoutSeconds": Because(
            min(REQUEST_MOST_S, pool.longest_answer_s),
            f"the longest answer may take {pool.longest_answer_s} s; Cloud Run allows {REQUEST_MOST_S}",
        ),
        "serviceAccountName": Because(
            account(deployment), "may read its weights and its secrets, and nothing else"
        ),
        "containers": [
            _gateway(deployment, pool),
            _engine(deployment, pool),
            *([_collector(deployment)] if collected(deployment) else []),
        ],
        "volumes": _volumes(deployment, pool),
    }
    if pool.needs.gpus:
        spec["nodeSelector"] = {"run.googleapis.com/accelerator": card_of(pool)[0]}
    return {
        "metadata": {"labels": {"gemstead": deployment.name}, "annotations": _scaling(deployment, pool)},
        "spec": spec,
    }


def _scaling(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    options, cloud = deployment.deploy.options, deployment.deploy.cloud
    most = int(options.get("max_instances", int(pool.replicas.value)))
    least = int(options.get("min_instances", 0))
    why = (
        "as the file says"
        if "min_instances" in options
        else f"nothing is paid while nobody calls; the first caller waits for a cold start, {cold_s(pool):.0f} s"
    )
    found: dict[str, Any] = {
        "autoscaling.knative.dev/minScale": Because(str(least), why),
        "autoscaling.knative.dev/maxScale": Because(str(max(1, most, least)), pool.replicas.reason),
        "run.googleapis.com/execution-environment": "gen2",
        "run.googleapis.com/container-dependencies": Because(
            '{"gateway":["engine"],"collector":["gateway"]}'
            if collected(deployment)
            else '{"gateway":["engine"]}',
            "the gateway takes calls when the engine answers",
        ),
        "run.googleapis.com/vpc-access-egress": Because(
            "all-traffic", "everything that goes out goes through the network, whose rules then hold"
        ),
        "run.googleapis.com/network-interfaces": Because(
            f'[{{"network":"{cloud.network or "default"}","subnetwork":"{cloud.subnetwork or "default"}",'
            f'"tags":["{deployment.name}"]}}]',
            "direct VPC egress; with Private Google Access on the subnetwork weights never cross the internet",
        ),
    }
    if pool.needs.gpus:
        found["run.googleapis.com/cpu-throttling"] = Because(
            "false", "a card needs its processors all the time"
        )
        found["run.googleapis.com/gpu-zonal-redundancy-disabled"] = Because(
            "false" if options.get("zonal_redundancy") else "true",
            "half the price; with a zone down, instances come back elsewhere if there are cards left",
        )
    found["run.googleapis.com/startup-cpu-boost"] = "true"
    found["gemstead.dev/settings"] = Because(
        hashlib.sha256(_settings(deployment, pool).encode()).hexdigest()[:16],
        "changed settings make a new revision; a running one would keep the old",
    )
    return found


def _concurrency(pool: Pool) -> Because:
    at_once = pool.setup.requests or 1
    return Because(
        min(CONCURRENCY_MOST, at_once),
        f"the plan runs {at_once} requests at once in one instance; beyond that another instance helps",
    )


def _gateway(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    program = (
        "import os, pathlib, shutil, sys\n"
        f"state = pathlib.Path('{STATE}')\n"
        "for name in ('keys.db', 'pepper'):\n"
        "    shutil.copyfile(f'/secrets/{name}/{name}', state / name)\n"
        "    (state / name).chmod(0o600)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gemstead', 'serve'])\n"
    )
    return {
        "name": "gateway",
        "image": Because(gateway_tag(deployment), "built by cloudbuild.yaml; the tag says its content"),
        "command": ["/opt/gemstead/bin/python", "-c"],
        "args": [
            Because(program, "keys come from Secret Manager; the instance's own disk is gone when it ends")
        ],
        "env": [
            {"name": "GEMSTEAD_CONFIG", "value": "/etc/gemstead/gemstead.yaml"},
            *(_from_secret(deployment, name) for name in secret_names(deployment)),
        ],
        "ports": [{"name": "http1", "containerPort": GATEWAY_PORT}],
        "resources": {"limits": {"cpu": str(GATEWAY_CPU), "memory": f"{GATEWAY_GIB}Gi"}},
        "startupProbe": {
            "httpGet": {"path": "/readyz", "port": GATEWAY_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": Because(60, "its engine answers already; two minutes are for itself"),
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": GATEWAY_PORT},
            "periodSeconds": 30,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [
            {"name": "settings", "mountPath": "/etc/gemstead"},
            {"name": "keys", "mountPath": "/secrets/keys.db"},
            {"name": "pepper", "mountPath": "/secrets/pepper"},
        ],
    }


def _from_secret(deployment: Deployment, name: str) -> dict[str, Any]:
    """What the file refers to as `env:NAME`, from Secret Manager."""
    secret = {"name": named_secret(deployment, name), "key": "latest"}
    return {"name": name, "valueFrom": {"secretKeyRef": secret}}


def _engine(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    card = card_of(pool)
    line = _words(deployment, pool)
    environment: dict[str, Any] = {"HOME": CACHE, "USER": "gemstead"}
    environment |= caches(pool.setup.engine, inside=storage(deployment, pool) == "image")
    if pool.setup.engine != "ollama":
        environment["HF_HUB_OFFLINE"] = Because("1", "weights are there already; the engine asks nobody")
    environment |= {one.name: Because(one.value, one.reason) for one in pool.command.variables}
    allowance, why = allowance_of(pool)
    resources: dict[str, Any] = {"cpu": cpus(pool, card), "memory": memory(pool, card)}
    if pool.needs.gpus:
        resources["nvidia.com/gpu"] = "1"
    found: dict[str, Any] = {
        "name": "engine",
        "image": Because(
            engine_tag(deployment, pool), "built by cloudbuild.yaml, from " + pool.image.reference
        ),
        "command": [line[0]],
        "args": reasoned(pool, line[1:]),
        "env": [
            Because({"name": name, "value": value.value}, value.reason)
            if isinstance(value, Because)
            else {"name": name, "value": value}
            for name, value in environment.items()
        ],
        "resources": {"limits": resources},
        "startupProbe": {
            "httpGet": {"path": "/" if pool.setup.engine == "ollama" else "/health", "port": ENGINE_PORT},
            "periodSeconds": PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": Because(allowance // PROBE_S, why),
        },
    }
    if storage(deployment, pool) == "bucket-fuse":
        found["volumeMounts"] = [{"name": "weights", "mountPath": BAKED, "readOnly": True}]
    return found


def _words(deployment: Deployment, pool: Pool) -> list[str]:
    """The launch line as it runs there."""
    line = launch_words(deployment, pool) if storage(deployment, pool) == "image" else words(deployment, pool)
    if storage(deployment, pool) == "bucket-fuse" and pool.setup.engine == "vllm":
        line += ["--safetensors-load-strategy", "prefetch"]
    return line


def _volumes(deployment: Deployment, pool: Pool) -> list[dict[str, Any]]:
    secrets = {
        "settings": (settings_secret(deployment, pool), "gemstead.yaml"),
        "keys": (keys_secret(deployment), "keys.db"),
        "pepper": (pepper_secret(deployment), "pepper"),
    }
    found: list[dict[str, Any]] = [
        {"name": name, "secret": {"secretName": secret, "items": [{"key": "latest", "path": path}]}}
        for name, (secret, path) in secrets.items()
    ]
    if storage(deployment, pool) == "bucket-fuse":
        csi = {
            "driver": "gcsfuse.run.googleapis.com",
            "readOnly": True,
            "volumeAttributes": {
                "bucketName": bucket(deployment),
                "mountOptions": Because(
                    FUSE, "metadata is asked for once, and files are read ahead in parallel"
                ),
            },
        }
        found.append({"name": "weights", "csi": csi})
    if collected(deployment):
        secret = monitoring_secret(deployment, pool)
        items = [{"key": "latest", "path": "config.yaml"}]
        found.append({"name": "monitoring", "secret": {"secretName": secret, "items": items}})
    return found


def collected(deployment: Deployment) -> bool:
    """Whether a sidecar sends the gateway's metrics to Managed Prometheus."""
    return bool(deployment.deploy.options.get("prometheus", False))


def _collector(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": "collector",
        "image": Because(
            deployment.image(COLLECTOR),
            "Google's collector: sends the gateway's metrics to Managed Prometheus",
        ),
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}},
        "volumeMounts": [{"name": "monitoring", "mountPath": "/etc/rungmp"}],
    }


def _monitoring(name: str) -> str:
    endpoints = [
        {"port": ADMIN_PORT, "path": "/metrics", "interval": Because("30s", "two points to a minute")}
    ]
    content = {
        "apiVersion": "monitoring.googleapis.com/v1beta",
        "kind": "RunMonitoring",
        "metadata": {"name": name},
        "spec": {"endpoints": endpoints},
    }
    return document(content, head=HEAD)


def _settings(deployment: Deployment, pool: Pool) -> str:
    one = replace(
        deployment,
        pools=(pool,),
        spec=deployment.spec.model_copy(update={"models": (pool.model,)}),
    )
    return gateway_file(one, {pool.name: [f"http://127.0.0.1:{ENGINE_PORT}"]}, state_dir=STATE)


def _notes(deployment: Deployment) -> tuple[str, ...]:
    found = [
        "records of calls are on the instance and end with it; Cloud Logging keeps what is printed",
        "keys are those of the secret: make them here with `gemstead keys create`, then ./setup.sh sends them",
    ]
    for pool in deployment.pools:
        room = card_of(pool)[4] - GATEWAY_GIB
        if pool.needs.gpus and int(pool.needs.memory_gib.value) > room:
            found.append(
                f"{pool.name}: {pool.needs.memory_gib.value} GiB would be asked for and {room} are to be had; weights "
                "are read in pieces, so it starts, with little to spare"
            )
        if pool.longest_answer_s > REQUEST_MOST_S:
            found.append(f"{pool.name}: answers of more than {REQUEST_MOST_S} s are cut by Cloud Run")
        if pool.startup.allowance_s > (PROBE_MOST_GPU_S if pool.needs.gpus else PROBE_MOST_S):
            found.append(
                f"{pool.name}: the start-up probe is as long as Cloud Run allows, shorter than wished"
            )
    return tuple(found)
