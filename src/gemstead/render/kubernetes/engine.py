"""A pool's engines: a Deployment (or a LeaderWorkerSet where a replica spans nodes), its headless Service, its budget.

The Service has no address of its own: its name stands for every replica that is ready, and the gateway picks among
them, because whoever picks at random wastes the prefix caches. A replica is started for as long as a start really
takes, is ready when it has answered a real question, and when it is stopped it first leaves the Service, then ends its
answers.
"""

from __future__ import annotations

import json
from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.docker import engine_name as image_name
from gemstead.render.dockerfile import USER
from gemstead.render.kubernetes import cache, enginetls, hardware
from gemstead.render.kubernetes.objects import (
    ENGINE,
    Object,
    engine_name,
    made,
    meshed,
    pod_security,
    restricted,
    selector,
)
from gemstead.render.launch import baked, health_words, reasoned

PRESTOP_S = 15  # until every kube-proxy, gateway and picker has heard that the pod goes
PROBE_S = 10
LWS = "leaderworkerset.x-k8s.io/v1"
MASTER_PORT = 29500


def objects(deployment: Deployment, pool: Pool) -> list[Object]:
    """Everything of one pool.

    Raises:
        Refused: a replica needs more cards than a node has, and may not span nodes.
    """
    spans = hardware.nodes(pool, deployment)
    if spans > 1:
        _refuse_unable(deployment, pool)
    found = enginetls.of_pool(deployment, pool)
    found += [_service(deployment, pool, spans), _budget(deployment, pool)]
    if hardware.claimed(deployment, pool):
        found.insert(0, hardware.claim_template(deployment, pool))
    found.append(_group(deployment, pool, spans) if spans > 1 else workload(deployment, pool))
    if deployment.deploy.kubernetes.rollouts == "blue-green" and spans == 1:
        found.append(_service(deployment, pool, spans, suffix="-preview"))
    return found


def _refuse_unable(deployment: Deployment, pool: Pool) -> None:
    each = deployment.deploy.kubernetes.cards_per_node
    if not deployment.deploy.hardware.multi_node:
        raise Refused(
            Reason.BAD_REQUEST,
            f"a replica of {pool.name} needs {pool.needs.gpus} cards and a node has {each}: set "
            "deploy.hardware.multi_node, deploy.kubernetes.cards_per_node, or fewer cards by tensor_parallel",
        )
    if pool.setup.engine not in ("vllm", "sglang") or pool.needs.gpus % each:
        raise Refused(
            Reason.BAD_REQUEST,
            f"a replica of {pool.name} cannot span nodes: vLLM and SGLang can, with all cards of each node",
        )


def workload(deployment: Deployment, pool: Pool) -> Object:
    """The Deployment, or the Rollout that takes its place."""
    kubernetes = deployment.deploy.kubernetes
    content: Object = {}
    if kubernetes.scaling == "off":
        content["replicas"] = pool.replicas
    content |= {
        "revisionHistoryLimit": 5,
        "progressDeadlineSeconds": Because(
            pool.startup.allowance_s + 600, "a start's allowance, and ten minutes for a node and the image"
        ),
        "minReadySeconds": Because(10, "one that dies at once never counts"),
        "selector": {"matchLabels": selector(deployment, ENGINE, pool)},
        "strategy": strategy(deployment, pool),
        "template": template(deployment, pool),
    }
    if kubernetes.rollouts == "off":
        return made(
            "apps/v1",
            "Deployment",
            engine_name(deployment, pool),
            deployment,
            component=ENGINE,
            pool=pool,
            spec=content,
        )
    from gemstead.render.kubernetes.release import strategy as release_strategy

    content["strategy"] = release_strategy(deployment, pool)
    return made(
        "argoproj.io/v1alpha1",
        "Rollout",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec=content,
    )


def surge(deployment: Deployment, pool: Pool) -> tuple[int, int, str]:
    """(maxSurge, maxUnavailable, why) of a rolling update: never more cards than there are."""
    replicas, each = int(pool.replicas.value), max(pool.needs.gpus, 1)
    count = deployment.deploy.hardware.count
    if not pool.needs.gpus or count is None:
        return 1, 0, "the new one is ready before an old one goes; the cluster has, or adds, a node for it"
    spare = (count - sum(int(one.replicas.value) * one.needs.gpus for one in deployment.pools)) // each
    if spare >= 1:
        return 1, 0, f"the cards have room for {spare} more: the new one is ready before an old one goes"
    if replicas > 1:
        most = max(1, pool.layout.spares)
        return 0, most, f"all {count} cards are taken: {most} old one(s) go before new ones come"
    return 0, 1, f"all {count} cards are taken by the one replica: while it is replaced, calls wait"


def strategy(deployment: Deployment, pool: Pool) -> Because:
    """How a Deployment replaces its pods."""
    more, less, why = surge(deployment, pool)
    return Because(
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": more, "maxUnavailable": less}}, why
    )


def template(
    deployment: Deployment, pool: Pool, more: tuple[str, ...] = (), *, worker: bool = False
) -> Object:
    """The pod of an engine. `more` are further words of its command; a worker takes no calls."""
    held, mounts = cache.volumes(deployment, pool)
    certificate, mounted = enginetls.engine_mount(deployment, pool)
    grace = int(pool.drain_s.value) + PRESTOP_S
    container: Object = {
        "name": "engine",
        "image": image(deployment, pool),
        "imagePullPolicy": "IfNotPresent",
        "command": commented(deployment, pool, more) + ([] if worker else enginetls.words(deployment, pool)),
        "env": environment(deployment, pool),
        "securityContext": restricted(),
        "resources": hardware.resources(deployment, pool),
        "volumeMounts": mounts + mounted,
    }
    if not worker:
        container |= {
            "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
            **probes(deployment, pool),
            "lifecycle": {
                "preStop": Because(
                    {"sleep": {"seconds": PRESTOP_S}},
                    "it leaves the Service first, so that no new call meets an engine that ends",
                )
            },
        }
    spec: Object = {
        "serviceAccountName": f"{deployment.name}-engine",
        "automountServiceAccountToken": Because(False, "an engine has nothing to ask the cluster"),
        "enableServiceLinks": Because(
            False, "else a Service named `vllm` would set VLLM_PORT, and vLLM would listen there"
        ),
        "priorityClassName": f"{deployment.name}-engine",
        "terminationGracePeriodSeconds": Because(
            grace, f"{pool.drain_s.reason}, after {PRESTOP_S} s in which it leaves the Service"
        ),
        "securityContext": pod_security(USER) | hardware.groups(deployment, pool),
        **hardware.scheduling(deployment, pool),
        "containers": [container],
        "volumes": held + certificate,
    }
    if init := cache.waiting(deployment, pool):
        spec["initContainers"] = init
    metadata: Object = {"labels": _pod_labels(deployment, pool)}
    if noted := pod_annotations(deployment, pool):
        metadata["annotations"] = noted
    return {"metadata": metadata, "spec": spec}


def _pod_labels(deployment: Deployment, pool: Pool) -> Object:
    found: Object = selector(deployment, ENGINE, pool)  # no version: a new Gemstead does not restart engines
    if deployment.deploy.kubernetes.routes and deployment.deploy.kubernetes.routes.inference:
        found["llm-d.ai/engine-type"] = Because(pool.setup.engine, "how a picker reads its metrics")
    return found


def pod_annotations(deployment: Deployment, pool: Pool) -> Object:
    """Annotations of an engine's pod."""
    found = meshed(deployment)
    if deployment.deploy.kubernetes.mesh == "istio" and pool.setup.engine != "ollama":
        found |= {
            "prometheus.io/scrape": Because(
                "true", "Istio's agent shows the engine's metrics with its own on 15020"
            ),
            "prometheus.io/port": str(ENGINE_PORT),
            "prometheus.io/path": "/metrics",
        }
    if cache.kind(deployment, pool) == "bucket-fuse":
        found |= {"gke-gcsfuse/volumes": "true", "gke-gcsfuse/ephemeral-storage-limit": "0"}
    if deployment.deploy.hardware.spot:
        return found
    return found | {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": Because(
            "false", "moving it to a fuller node would cost a start of minutes"
        )
    }


def image(deployment: Deployment, pool: Pool) -> Because:
    """The image of a pool's engine: its makers', or ours where the weights lie in it."""
    if baked(deployment, pool):
        return Because(
            image_name(deployment, pool),
            "built by `gemstead render docker`, with the weights in it",
        )
    return Because(pool.image.reference, pool.image.reason)


def commented(deployment: Deployment, pool: Pool, more: tuple[str, ...] = ()) -> list[Any]:
    """The command's words, each flag with its reason."""
    return list(reasoned(pool, (*cache.words(deployment, pool), *more)))


def environment(deployment: Deployment, pool: Pool) -> list[Any]:
    """The engine's environment."""
    found: list[Any] = [
        Because({"name": name, "value": value.value}, value.reason)
        if isinstance(value, Because)
        else {"name": name, "value": value}
        for name, value in cache.variables(deployment, pool).items()
    ]
    return found + [
        Because({"name": one.name, "value": one.value}, one.reason) for one in pool.command.variables
    ]


def probes(deployment: Deployment, pool: Pool) -> Object:
    """Start-up by a real answer within the real allowance; ready and alive by `/health`."""
    health: Object = (
        {"exec": {"command": health_words(pool)}}
        if pool.setup.engine == "ollama"
        else {"httpGet": {"path": "/health", "port": "http"}}
    )
    if enginetls.wanted(deployment):  # the kubelet has no certificate
        health = {"exec": {"command": enginetls.asked(deployment, pool, "/health")}}
    tries = -(-pool.startup.allowance_s // PROBE_S)
    return {
        "startupProbe": {
            "exec": Because(
                {"command": answer_words(deployment, pool)}, "ready once it has answered a real question"
            ),
            "periodSeconds": PROBE_S,
            "timeoutSeconds": Because(60, "the first answer may compile"),
            "failureThreshold": Because(tries, pool.startup.reason),
        },
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {
            **health,
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": Because(
                6, "a minute of silence; a busy engine still says /health, one that is stuck does not"
            ),
        },
    }


def answer_words(deployment: Deployment, pool: Pool) -> list[str]:
    """A command that succeeds when the engine has answered a question of one token."""
    name = pool.placement.name or pool.setup.checkpoint.repo
    body = json.dumps({"model": name, "prompt": "1", "max_tokens": 1})
    url = f"http://127.0.0.1:{ENGINE_PORT}/v1/completions"
    if enginetls.wanted(deployment):
        return enginetls.asked(deployment, pool, "/v1/completions", body.encode(), 55)
    if pool.setup.engine == "ollama":
        said = [after[-1] for after in pool.command.afterwards]
        return ["ollama", "run", said[0] if said else name, "1"]
    if pool.setup.engine == "llamacpp":
        return ["curl", "--fail", "--silent", "--max-time", "55", "-H", "content-type: application/json",
                "--data", body, url]  # fmt: skip
    program = (
        "import urllib.request as r; r.urlopen(r.Request("
        f"{url!r}, {body.encode()!r}, {{'content-type': 'application/json'}}), timeout=55)"
    )
    return ["python3", "-c", program]


def _service(deployment: Deployment, pool: Pool, spans: int, suffix: str = "") -> Object:
    chosen = selector(deployment, ENGINE, pool)
    if spans > 1:
        chosen["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    mesh = deployment.deploy.kubernetes.mesh == "istio"
    how = (
        Because("tcp", "called by pod: Istio finds the pod's certificate by address, not by host")
        if mesh
        else ("https" if enginetls.wanted(deployment) else "http")
    )
    return made(
        "v1",
        "Service",
        engine_name(deployment, pool) + suffix,
        deployment,
        component=ENGINE,
        pool=pool,
        spec={
            "clusterIP": Because("None", "the name stands for every replica that is ready; the gateway picks"),
            "selector": chosen,
            "ports": [{"name": "http", "port": ENGINE_PORT, "targetPort": "http", "protocol": "TCP",
                       "appProtocol": how}],
        },
    )  # fmt: skip


def _budget(deployment: Deployment, pool: Pool) -> Object:
    most = max(1, pool.layout.spares)
    return made(
        "policy/v1",
        "PodDisruptionBudget",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={
            "maxUnavailable": Because(
                most, "a node is emptied one replica at a time, or as many as are spare"
            ),
            "unhealthyPodEvictionPolicy": Because(
                "AlwaysAllow", "one that does not work must not keep a node from being mended"
            ),
            "selector": {"matchLabels": selector(deployment, ENGINE, pool)},
        },
    )


def _group(deployment: Deployment, pool: Pool, spans: int) -> Object:
    address = "$(LWS_LEADER_ADDRESS)"
    leader: tuple[str, ...]
    worker: tuple[str, ...]
    if pool.setup.engine == "vllm":
        common = ("--nnodes", str(spans), "--master-addr", address, "--master-port", str(MASTER_PORT))
        leader = (*common, "--node-rank", "0")
        worker = (*common, "--node-rank", "$(LWS_WORKER_INDEX)", "--headless")
    else:
        dist = ("--nnodes", str(spans), "--dist-init-addr", f"{address}:{MASTER_PORT}")
        leader, worker = (*dist, "--node-rank", "0"), (*dist, "--node-rank", "$(LWS_WORKER_INDEX)")
    spec: Object = {}
    if deployment.deploy.kubernetes.scaling == "off":
        spec["replicas"] = pool.replicas
    more, less, why = surge(deployment, pool)
    spec |= {
        "startupPolicy": "LeaderCreated",
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": Because({"maxSurge": more, "maxUnavailable": less}, why),
        },
        "leaderWorkerTemplate": {
            "size": Because(
                spans, f"{pool.needs.gpus} cards, {deployment.deploy.kubernetes.cards_per_node} on a node"
            ),
            "restartPolicy": Because(
                "RecreateGroupOnPodRestart", "a replica whose one node has failed is no replica"
            ),
            "leaderTemplate": template(deployment, pool, leader),
            "workerTemplate": template(deployment, pool, worker, worker=True),
        },
    }
    return made(
        LWS,
        "LeaderWorkerSet",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec=spec,
    )
