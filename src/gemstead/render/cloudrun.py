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
from math import ceil
from typing import Any

from gemstead.plan.startup import LEAST_ALLOWANCE_S, TIMES, Startup, startup
from gemstead.refused import Reason, Refused
from gemstead.render import cloudrun_build, docker_gateway
from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
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
# Cloud Run's cards: (its name, least and most CPUs, least and most GiB of an instance); least values from
# https://cloud.google.com/run/docs/configuring/services/gpu, most from its pages on CPU and memory limits
CARDS = {
    "l4": ("nvidia-l4", 4, 8, 16, 32),
    "rtx-pro-6000-server": ("nvidia-rtx-pro-6000", 20, 44, 80, 176),
}
CPUS = (1, 2, 4, 6, 8, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44)  # that a container may have
CPU_MOST, MEMORY_MOST_GIB = 8, 32  # of an instance without a card
PROBE_S = 10
PROBE_MOST_GPU_S, PROBE_MOST_S = 1800, 240  # failureThreshold x periodSeconds; more is refused by Cloud Run
REQUEST_MOST_S = 3600
CONCURRENCY_MOST = 1000
GATEWAY_CPU, GATEWAY_GIB = 1, 1
HARDWARE_S = 5.0  # from a request to a container with its card and driver, as Google says
IMAGE_STREAMED = (
    0.3e9  # bytes a second at which Cloud Run streams an image's layers: our guess, to be measured
)
# Of GCS FUSE: metadata is asked for once, and files are read ahead in parallel. Without the last one, reads come one
# after another and a model takes many minutes. A file cache would be kept in the instance's memory a second time.
FUSE = "implicit-dirs,metadata-cache-ttl-secs=-1,enable-buffered-read=true"
FUSE_AHEAD_GIB = 1  # what reading ahead holds; it counts to the container
COLLECTOR = "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0"


def render(deployment: Deployment) -> Bundle:
    """The folder of a deployment on Cloud Run.

    Raises:
        Refused: a card that Cloud Run does not have, a replica of several cards, or one that fits no instance.
    """
    deployment = _fitted(deployment)
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
        spec["nodeSelector"] = {"run.googleapis.com/accelerator": _card(pool)[0]}
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
        else f"nothing is paid while nobody calls; the first caller waits for a cold start, {_cold_s(pool):.0f} s"
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
    card = _card(pool)
    line = _words(deployment, pool)
    environment: dict[str, Any] = {"HOME": CACHE, "USER": "gemstead"}
    environment |= caches(pool.setup.engine, inside=storage(deployment, pool) == "image")
    if pool.setup.engine != "ollama":
        environment["HF_HUB_OFFLINE"] = Because("1", "weights are there already; the engine asks nobody")
    environment |= {one.name: Because(one.value, one.reason) for one in pool.command.variables}
    allowance, why = _allowance(pool)
    resources: dict[str, Any] = {"cpu": _cpus(pool, card), "memory": _memory(pool, card)}
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


def _cpus(pool: Pool, card: tuple[str, int, int, int, int]) -> Because:
    """The engine's share: the gateway needs one, and Cloud Run counts them together."""
    wished = min(card[2] - GATEWAY_CPU, max(card[1], int(pool.needs.cpus.value)))
    asked = max(one for one in CPUS if one <= wished)
    if not pool.needs.gpus:
        return Because(str(asked), pool.needs.cpus.reason)
    return Because(
        str(asked), f"Cloud Run gives {card[0]} {card[1]} to {card[2]}, one of which is the gateway's"
    )


def _memory(pool: Pool, card: tuple[str, int, int, int, int]) -> Because:
    need = int(pool.needs.memory_gib.value) + FUSE_AHEAD_GIB
    asked = max(card[3], min(need, card[4] - GATEWAY_GIB))
    return Because(
        f"{asked}Gi", f"{pool.needs.memory_gib.reason}; Cloud Run allows {card[3]} to {card[4]} GiB in all"
    )


def _allowance(pool: Pool) -> tuple[int, str]:
    """Seconds for the start-up probe within what Cloud Run takes, and why."""
    most = PROBE_MOST_GPU_S if pool.needs.gpus else PROBE_MOST_S
    if pool.startup.allowance_s <= most:
        return pool.startup.allowance_s // PROBE_S * PROBE_S, pool.startup.reason
    return most, f"Cloud Run allows {most} s; wished were {pool.startup.allowance_s}: {pool.startup.reason}"


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


def storage(deployment: Deployment, pool: Pool) -> str:
    """Where this pool's weights come from: "image", "bucket-fuse" or "bucket-stream"."""
    kind = deployment.deploy.cache.kind
    if pool.setup.engine == "ollama" or kind == "image":
        return "image"
    return "bucket-fuse" if kind == "bucket-stream" and pool.setup.engine != "vllm" else str(kind)


def _settings(deployment: Deployment, pool: Pool) -> str:
    one = replace(
        deployment,
        pools=(pool,),
        spec=deployment.spec.model_copy(update={"models": (pool.model,)}),
    )
    return gateway_file(one, {pool.name: [f"http://127.0.0.1:{ENGINE_PORT}"]}, state_dir=STATE)


def _card(pool: Pool) -> tuple[str, int, int, int, int]:
    if not pool.needs.gpus:
        return ("", 1, CPU_MOST, 1, MEMORY_MOST_GIB)
    return CARDS[pool.setup.accelerator.id]


def cold_start(pool: Pool, where: str) -> dict[str, float]:
    """Seconds of each phase from a call at no instance to the first token, by phase."""
    weights = pool.setup.weights_bytes or pool.setup.checkpoint.weights_bytes
    began = pool.startup
    return {
        "instance with its card and driver": HARDWARE_S,
        f"reading {weights / 1e9:.1f} GB of weights": weights / IMAGE_STREAMED
        if where == "image"
        else began.read_s,
        "compiling and capturing graphs": began.prepare_cold_s,
    }


def _cold_s(pool: Pool) -> float:
    return HARDWARE_S + pool.startup.cold_s


def _fitted(deployment: Deployment) -> Deployment:
    """The deployment as Cloud Run can carry it: its storage, and start-up by it."""
    cache = deployment.deploy.cache
    kind = cache.kind if cache.kind != "volume" else "bucket-fuse" if cache.bucket else "image"
    if kind.startswith("bucket") and not cache.bucket:
        raise Refused(Reason.BAD_REQUEST, "deploy.cache.bucket: name the bucket that holds the weights")
    if not deployment.deploy.cloud.project:
        raise Refused(Reason.BAD_REQUEST, "deploy.cloud.project: name the Google Cloud project")
    if not deployment.pools:
        raise Refused(Reason.BAD_REQUEST, "every model has endpoints of its own: there is nothing to run")
    deploy = deployment.deploy.model_copy(update={"cache": cache.model_copy(update={"kind": kind})})
    spec = deployment.spec.model_copy(update={"deploy": deploy})
    found = replace(deployment, spec=spec)
    return replace(
        found, pools=tuple(replace(pool, startup=_starting(found, _held(pool))) for pool in found.pools)
    )


def _held(pool: Pool) -> Pool:
    """The pool, when an instance can hold it."""
    card = pool.setup.accelerator
    if card.vendor != "cpu" and card.id not in CARDS:
        names = " and ".join(("L4", "RTX PRO 6000"))
        raise Refused(
            Reason.BAD_REQUEST, f"Cloud Run has no {card.name}; it has {names}: deploy.hardware.gpu"
        )
    if pool.setup.tp > 1:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name} takes {pool.setup.tp} cards and an instance of Cloud Run has one: choose a smaller "
            "checkpoint (`quantization`), the RTX PRO 6000, or Kubernetes",
        )
    if card.vendor == "cpu" and int(pool.needs.memory_gib.value) + GATEWAY_GIB > MEMORY_MOST_GIB:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name} needs {pool.needs.memory_gib.value} GiB and an instance of Cloud Run has {MEMORY_MOST_GIB}",
        )
    return pool


def _starting(deployment: Deployment, pool: Pool) -> Startup:
    """How long a start takes there: weights in the image are streamed from the registry while they are read."""
    where = storage(deployment, pool)
    if where != "image":  # mounted without a file cache: a guess, as fast as a network disk
        return startup(pool.setup, "network-disk" if where == "bucket-fuse" else where)
    made = startup(pool.setup, "nvme")
    weights = pool.setup.weights_bytes or pool.setup.checkpoint.weights_bytes
    read_s = weights / IMAGE_STREAMED
    allowance = ceil(max(LEAST_ALLOWANCE_S, TIMES * (read_s + made.prepare_cold_s)) / 60) * 60
    reason = (
        f"streaming {weights / 1e9:.1f} GB of weights with the image takes about {read_s:.0f} s and a first start "
        f"{made.prepare_cold_s:.0f} s more; {TIMES:g} times that, because a start cut short begins again from nothing"
    )
    return replace(made, read_s=read_s, allowance_s=allowance, reason=reason)


def _notes(deployment: Deployment) -> tuple[str, ...]:
    found = [
        "records of calls are on the instance and end with it; Cloud Logging keeps what is printed",
        "keys are those of the secret: make them here with `gemstead keys create`, then ./setup.sh sends them",
    ]
    for pool in deployment.pools:
        room = _card(pool)[4] - GATEWAY_GIB
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
