"""Vertex AI: a registered model, a dedicated endpoint, and how traffic is moved to a new version of it.

    model.yaml      Model.upload: the image, its routes, ports, shared memory and probes
    endpoint.yaml   the endpoint, with an address of its own: streams, and no 1.5 MB bound of the shared one
    deploy.yaml     DeployModel: machine, cards, replicas, scaling on vLLM's queue and cache
    rollout.yaml    shares of traffic that the new version gets, one after another

These are the very requests that `gemstead apply vertex` sends. Vertex runs one container for each model, so the image
holds engine and gateway: the gateway takes Vertex's request form (`/predict`, `/health`, and with `invoke` every route
it has) and Vertex says who may call. Weights lie in the image, or are streamed from a bucket.
"""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import replace
from typing import Any

from gemstead.catalog.machines import carrying
from gemstead.plan.startup import startup
from gemstead.refused import Reason, Refused
from gemstead.render import vertex_readme
from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.cloudrun_names import account, engine_tag, registry, service_name
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.docker_engine import engine_dockerfile
from gemstead.render.docker_gateway import STATE, copied, inputs, installed
from gemstead.render.dockerfile import USER, Step, dockerfile, environment, exec_form, run
from gemstead.render.gatewayfile import gateway_file
from gemstead.render.images import content
from gemstead.render.kubernetes.cache import words
from gemstead.render.launch import CACHE, launch_words, reasoned
from gemstead.render.yamltext import document

SUMMARY = (
    "Vertex AI: model, dedicated endpoint, deployment and gradual rollout, as the requests that are sent"
)
HEAD = "Made by gemstead render vertex from gemstead.yaml; change that file and render again."
PORT = 8080  # what Vertex expects unless it is told otherwise
PREDICT, HEALTH = "/predict", "/health"
ACCELERATORS = {
    "l4": "NVIDIA_L4",
    "a100-40": "NVIDIA_TESLA_A100",
    "a100-80-sxm": "NVIDIA_A100_80GB",
    "h100-sxm": "NVIDIA_H100_80GB",
    "h200-sxm": "NVIDIA_H200_141GB",
    "b200": "NVIDIA_B200",
    "gb200": "NVIDIA_GB200",
    "rtx-pro-6000-server": "NVIDIA_RTX_PRO_6000",
}
PROBE_S = 10
DEPLOY_MOST_S = 7200  # deploymentTimeout: two hours are the most that Vertex takes
# Names as google-cloud-aiplatform 2.7.0 sends them.
QUEUE = "prometheus.googleapis.com/vertex_vllm_num_requests_waiting"
CACHE_USE = "prometheus.googleapis.com/vertex_vllm_gpu_cache_usage_perc"
SHARES = (10, 50, 100)
HOLD_S = 120  # of each share: replicas that fail under load do so within a few longest prompts


def render(deployment: Deployment) -> Bundle:
    """The folder of a deployment on Vertex AI.

    Raises:
        Refused: an engine without Python in its image, a card or a number of cards that no machine of Google's has.
    """
    deployment = _fitted(deployment)
    files: dict[str, str] = {"README.md": vertex_readme.text(deployment)}
    for pool in deployment.pools:
        name = service_name(deployment, pool)
        files[f"{name}/engine/Dockerfile"] = engine_dockerfile(deployment, pool)
        files[f"{name}/engine/.dockerignore"] = "*\n"
        files[f"{name}/Dockerfile"] = _dockerfile(deployment, pool)
        files[f"{name}/.dockerignore"] = (
            "*\n!start.sh\n!gemstead.yaml\n!requirements.txt\n!build.txt\n!source\n"
        )
        files |= {f"{name}/{path}": text for path, text in inputs(deployment).items()}
        files[f"{name}/start.sh"] = _start(deployment, pool)
        files[f"{name}/gemstead.yaml"] = _settings(deployment, pool)
        files[f"{name}/model.yaml"] = document(upload(deployment, pool), head=HEAD)
        files[f"{name}/endpoint.yaml"] = document(endpoint(deployment, pool), head=HEAD)
        files[f"{name}/deploy.yaml"] = document(deployed(deployment, pool), head=HEAD)
        files[f"{name}/rollout.yaml"] = document(rollout(deployment), head=HEAD)
    return Bundle("vertex", files, (*deployment.notes, *_notes(deployment)))


def upload(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    """The body of models:upload."""
    allowance = min(DEPLOY_MOST_S, pool.startup.allowance_s)
    probe = {"path": HEALTH, "port": PORT}
    container = {
        "imageUri": Because(tag(deployment, pool), "engine and gateway in one: Vertex runs one container"),
        "ports": [{"containerPort": PORT}],
        "predictRoute": PREDICT,
        "healthRoute": HEALTH,
        "invokeRoutePrefix": Because(
            "/*", "every route of the gateway, streams too, under the endpoint's /invoke"
        ),
        "sharedMemorySizeMb": Because(str(int(pool.needs.shm_gib.value) * 1024), pool.needs.shm_gib.reason),
        "deploymentTimeout": Because(
            f"{min(DEPLOY_MOST_S, allowance + 1800)}s",
            f"{allowance} s to start, and half an hour for machine and image",
        ),
        "startupProbe": {
            "httpGet": probe,
            "periodSeconds": PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": Because(allowance // PROBE_S, pool.startup.reason),
        },
        "healthProbe": {
            "httpGet": probe,
            "periodSeconds": PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    }
    model = {
        "displayName": service_name(deployment, pool),
        "description": f"{pool.setup.model.title}, {pool.setup.checkpoint.repo}, by Gemstead {deployment.version}",
        "labels": {"gemstead": deployment.name},
        "containerSpec": container,
    }
    return {"model": model, "serviceAccount": account(deployment)}


def endpoint(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    """The body of endpoints.create."""
    return {
        "displayName": service_name(deployment, pool),
        "labels": {"gemstead": deployment.name},
        "dedicatedEndpointEnabled": Because(
            True,
            "an address of its own: streams, bodies of 10 MB, and nobody else's load; the shared one answers no more",
        ),
        "clientConnectionConfig": {
            "inferenceTimeout": Because(
                f"{min(3600, pool.longest_answer_s)}s",
                f"the longest answer may take {pool.longest_answer_s} s",
            )
        },
    }


def deployed(deployment: Deployment, pool: Pool) -> dict[str, Any]:
    """The body of endpoints.deployModel, without the model's and the version's names, which upload gives."""
    machine, count = _machine(pool)
    options = deployment.deploy.options
    spare = int(pool.replicas.value)
    least = int(options.get("min_replicas", min(2, spare)))
    scaling: list[Any] = []
    if pool.setup.engine == "vllm":
        at_once = pool.setup.requests or 1
        scaling = [
            {
                "metricName": QUEUE,
                "target": Because(max(1, at_once // 10), "a tenth of what runs at once may wait"),
            },
            {
                "metricName": CACHE_USE,
                "target": Because(80, "percent; beyond it running requests are preempted"),
            },
        ]
    resources: dict[str, Any] = {
        "machineSpec": {
            "machineType": Because(machine, f"the smallest that carries {count} of the card"),
            "acceleratorType": ACCELERATORS[pool.setup.accelerator.id],
            "acceleratorCount": Because(count, f"one replica takes {pool.setup.tp}"),
        },
        "minReplicaCount": Because(max(1, least), "Vertex keeps at least one; two survive the loss of one"),
        "maxReplicaCount": Because(max(1, least, spare), pool.replicas.reason),
    }
    if scaling:
        resources["autoscalingMetricSpecs"] = scaling
    if deployment.deploy.hardware.spot:
        resources["spot"] = Because(True, "deploy.hardware.spot: cheaper, and may be taken away")
    return {
        "deployedModel": {
            "displayName": service_name(deployment, pool),
            "dedicatedResources": resources,
            "serviceAccount": Because(account(deployment), "may read its weights, and nothing else"),
            "enableAccessLogging": Because(
                False, "Google's access log would hold callers; the gateway keeps its own"
            ),
        }
    }


def rollout(deployment: Deployment) -> dict[str, Any]:
    """How calls move to a new version."""
    keep = deployment.deploy.options.get("keep_previous") is True
    why = "going back is a change of shares, and two versions are paid for" if keep else ""
    return {
        "shares": Because(
            shares(deployment), "percent of calls that the new version gets, one after another"
        ),
        "hold_s": Because(
            held_s(deployment), "each share is held as long, with every replica up, before the next"
        ),
        "keep_previous": Because(
            keep, why or "the version before goes when all is well; going back deploys it again, in minutes"
        ),
    }


def held_s(deployment: Deployment) -> int:
    """Seconds for which each share is held."""
    said = deployment.deploy.options.get("rollout_hold_s", HOLD_S)
    if isinstance(said, bool) or not isinstance(said, int) or not 0 <= said <= 1800:
        raise Refused(
            Reason.BAD_REQUEST, f'deploy.options.rollout_hold_s: "{said}" is not seconds from 0 to 1800'
        )
    return said


def shares(deployment: Deployment) -> list[int]:
    """Percent of calls that a new version gets, step by step, up to 100."""
    said = str(deployment.deploy.options.get("rollout", ""))
    if not said:
        return list(SHARES)
    try:
        found = [int(part) for part in said.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or found[0] < 1 or found[-1] != 100:
        raise Refused(
            Reason.BAD_REQUEST,
            f'deploy.options.rollout: "{said[:40]}" is not growing shares such as 10,50,100',
        )
    return found


def tag(deployment: Deployment, pool: Pool) -> str:
    """The image that Vertex runs; its tag changes with what is in it, because Vertex keeps what it has fetched."""
    own = (_dockerfile(deployment, pool), _start(deployment, pool), _settings(deployment, pool))
    parts = (engine_dockerfile(deployment, pool), *own, *inputs(deployment).values())
    return f"{registry(deployment)}/gemstead-{pool.name}-vertex:{deployment.version}-{content(*parts)}"


def _machine(pool: Pool) -> tuple[str, int]:
    card = pool.setup.accelerator
    fitting = [
        one
        for one in carrying(card.id)
        if one.cloud == "gcp" and one.count >= pool.setup.tp and "mega" not in one.name
    ]
    if card.id not in ACCELERATORS or not fitting:
        raise Refused(
            Reason.BAD_REQUEST,
            f"Vertex AI has no machine with {pool.setup.tp} x {card.name}: deploy.hardware.gpu",
        )
    count = min(one.count for one in fitting)
    same = [one.name for one in fitting if one.count == count]
    big_enough = [name for name in same if _cores(name) >= int(pool.needs.cpus.value) // pool.setup.tp]
    return (big_enough or same)[0], count


def _cores(machine: str) -> int:
    last = machine.rpartition("-")[2]
    return int(last) if last.isdigit() else 1 << 10  # a2, a3: cores come with the cards


def _dockerfile(deployment: Deployment, pool: Pool) -> str:
    engine = engine_tag(deployment, pool)
    return dockerfile(
        [
            Step(
                f"FROM {engine} AS build",
                "The engine's image, from engine/: the gateway runs on its Python (3.12). It has a compiler and "
                "Python's headers, because Triton compiles when the engine starts.",
            ),
            Step("USER 0", "To install; what runs is never root."),
            *installed(deployment, "python3"),
        ],
        [
            Step(f"FROM {engine}"),
            Step("USER 0", "To make folders."),
            Step(run(f"install -d -o {USER} -g 0 -m 0770 {STATE} /etc/gemstead")),
            *copied(),
            Step("COPY --chmod=0755 start.sh /opt/gemstead/start.sh"),
            Step("COPY gemstead.yaml /etc/gemstead/gemstead.yaml"),
            Step(environment({"GEMSTEAD_CONFIG": "/etc/gemstead/gemstead.yaml"})),
            Step(f"USER {USER}:0"),
            Step(f"WORKDIR {CACHE}"),
            Step(f"EXPOSE {PORT}"),
            Step(exec_form("ENTRYPOINT", ["/opt/gemstead/start.sh"])),
        ],
    )


def _array(pool: Pool, words: list[str]) -> str:
    """The words as lines of a Bash array, an option with its value, its reason above it."""
    lines: list[str] = []
    for word in reasoned(pool, words):
        text, why = (str(word.value), word.reason) if isinstance(word, Because) else (word, "")
        lines += [f"  # {part}" for part in textwrap.wrap(why, 110)]
        follows = bool(lines) and lines[-1].startswith("  --") and " " not in lines[-1][2:]
        if follows and not text.startswith("--"):
            lines[-1] += f" {shlex.quote(text)}"
        else:
            lines.append(f"  {shlex.quote(text)}")
    return "\n".join(lines)


def _start(deployment: Deployment, pool: Pool) -> str:
    """Engine and gateway beside each other: when one ends, so does the container, and Vertex starts it again."""
    streamed = deployment.deploy.cache.kind == "bucket-stream"
    line = _array(pool, words(deployment, pool) if streamed else launch_words(deployment, pool))
    return f"""#!/usr/bin/env bash
# {HEAD}
# Engine and gateway in one container. When one of them ends, the container does, and Vertex starts it again.
set -uo pipefail
line=(
{line}
)
"${{line[@]}}" &
engine=$!
/opt/gemstead/bin/python -m gemstead serve &
gateway=$!
# Vertex says SIGTERM: the gateway lets running answers end, then the engine goes.
trap 'kill -TERM "$gateway"; wait "$gateway"; kill -TERM "$engine"; wait "$engine"; exit 0' TERM INT
wait -n "$engine" "$gateway"
code=$?
kill -TERM "$gateway" "$engine" 2>/dev/null
wait
exit "$code"
"""


def _settings(deployment: Deployment, pool: Pool) -> str:
    gateway = deployment.spec.gateway.model_copy(update={"keys": "off", "vertex": True})
    gateway = gateway.model_validate(
        {**gateway.model_dump(exclude_unset=True), "keys": "off", "vertex": True}
    )
    spec = deployment.spec.model_copy(update={"models": (pool.model,), "gateway": gateway})
    one = replace(deployment, pools=(pool,), spec=spec)
    return gateway_file(one, {pool.name: [f"http://127.0.0.1:{ENGINE_PORT}"]}, state_dir=STATE, port=PORT)


def _fitted(deployment: Deployment) -> Deployment:
    if not deployment.deploy.cloud.project:
        raise Refused(Reason.BAD_REQUEST, "deploy.cloud.project: name the Google Cloud project")
    if not deployment.pools:
        raise Refused(Reason.BAD_REQUEST, "every model has endpoints of its own: there is nothing to run")
    cache = deployment.deploy.cache
    streams = (
        bool(cache.bucket)
        and cache.kind != "image"
        and all(p.setup.engine == "vllm" for p in deployment.pools)
    )
    kind = "bucket-stream" if streams else "image"
    deploy = deployment.deploy.model_copy(update={"cache": cache.model_copy(update={"kind": kind})})
    spec = deployment.spec.model_copy(update={"deploy": deploy})
    pools = tuple(
        replace(_held(pool), startup=startup(pool.setup, "bucket-stream" if streams else "nvme"))
        for pool in deployment.pools
    )
    return replace(deployment, spec=spec, pools=pools)


def _held(pool: Pool) -> Pool:
    if pool.setup.engine not in ("vllm", "sglang"):
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name}: Vertex AI runs one container, and only the images of vLLM and SGLang have the Python that "
            "the gateway needs beside them: set models[].engine",
        )
    _machine(pool)
    return pool


def _notes(deployment: Deployment) -> tuple[str, ...]:
    found = [
        "who may call is Google's IAM (aiplatform.endpoints.predict); the gateway asks for no key there",
        "records of calls are in the container and end with it; Cloud Logging keeps what is printed",
    ]
    if deployment.deploy.cache.kind == "image":
        found.append(
            "weights lie in the image: pulling it is most of a start; name deploy.cache.bucket to stream them"
        )
    return tuple(found)
