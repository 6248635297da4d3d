"""How many replicas there are, by what callers wait for: HorizontalPodAutoscaler, or KEDA.

GPU utilisation says nothing: a card that decodes one answer is as busy as one that decodes fifty. What counts is who
waits, how many run at once, how full the cache is, and what the gateway says: how many replicas it asks for
(`gemstead_desired_replicas`), or, while it does not show that, who waits in it. Up at once, because a start takes
minutes; down slowly, because a replica that goes takes its cache with it.
"""

from __future__ import annotations

from typing import Any

from gemstead.observe.names import FAMILIES, QUEUE_WAITING
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes.hardware import nodes
from gemstead.render.kubernetes.objects import ENGINE, Object, engine_name, made

# (waiting, running, share of the cache in use) as each engine names them (gateways.md of 2026-11-20 lists sources).
METRICS: dict[str, tuple[str, str, str]] = {
    "vllm": ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_queue_reqs", "sglang:num_running_reqs", "sglang:token_usage"),
    "tensorrt_llm": (
        "trtllm_num_requests_waiting",
        "trtllm_num_requests_running",
        "trtllm_kv_cache_utilization",
    ),
    "tgi": ("tgi_queue_size", "tgi_batch_current_size", ""),
    "llamacpp": ("llamacpp:requests_deferred", "llamacpp:requests_processing", ""),
}
DESIRED = "gemstead_desired_replicas"
WAITING_A_REPLICA = 2  # calls that may wait in one engine before another is wanted
BUSY = 0.8  # of the requests that one replica takes at once
FULL = 0.85  # of the cache: beyond it requests are put off and computed twice


def bounds(deployment: Deployment, pool: Pool) -> tuple[int, int]:
    """(least, most) replicas."""
    planned, count = int(pool.replicas.value), deployment.deploy.hardware.count
    most = deployment.deploy.kubernetes.most_replicas
    if most is None and count and pool.needs.gpus:
        taken = sum(int(one.replicas.value) * one.needs.gpus for one in deployment.pools)
        most = planned + max(0, count - taken) // pool.needs.gpus
    return min(2, planned), max(planned, most or 2 * planned)


def objects(deployment: Deployment, pool: Pool) -> list[Object]:
    """What scales one pool; nothing where nobody does."""
    chosen = deployment.deploy.kubernetes.scaling
    if chosen == "hpa":
        return [_hpa(deployment, pool)]
    if chosen == "keda":
        return [_keda(deployment, pool)]
    return []


def target(deployment: Deployment, pool: Pool) -> Object:
    """The workload that is scaled."""
    name = engine_name(deployment, pool)
    if nodes(pool, deployment) > 1:
        return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": name}
    if deployment.deploy.kubernetes.rollouts != "off":
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def at_once(pool: Pool) -> int:
    """Requests that one replica takes at once."""
    return pool.setup.requests or pool.layout.setup.requests or 16


def _behavior(pool: Pool) -> Object:
    start = int(pool.startup.cold_s)
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": Because(0, f"a start takes about {start} s, so not a moment later"),
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": max(60, min(start, 600))}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": Because(
                max(600, min(3600, 2 * start)),
                "longer than a start: what goes too early is missed for minutes",
            ),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
        },
    }


def from_gateway(pool: Pool) -> tuple[str, dict[str, str], str, str]:
    """(metric, labels, how much of it for one replica, why): what the gateway says of this pool.

    That is how many replicas it asks for, where it shows that, and else who waits in it.
    """
    if DESIRED in FAMILIES:
        return DESIRED, {"model": pool.model.name}, "1", "replicas that the gateway asks for"
    return QUEUE_WAITING.name, {}, str(WAITING_A_REPLICA), "calls that wait in the gateway"


def _over(name: str) -> str:
    """How several gateways' figures are one: callers who wait add up, the number of replicas is the same for all."""
    return "max" if name == DESIRED else "sum"


def from_google(deployment: Deployment) -> bool:
    """Whether the cluster's metrics API is Google's adapter over Cloud Monitoring."""
    return deployment.deploy.kubernetes.monitoring == "google"


def chosen_series(name: str) -> str:
    """Name of the one series that is recorded of several gateways' (`recorded`), since Google's adapter adds up."""
    return f"{name}_{_over(name)}"


def recorded(deployment: Deployment) -> list[Object]:
    """Rules that make one series of several gateways' figures, for the HorizontalPodAutoscaler in Google's cluster.

    Its adapter adds up all series of an external metric: two gateways that ask for three replicas would get six.
    """
    if deployment.deploy.kubernetes.scaling != "hpa" or not from_google(deployment):
        return []
    name, chosen, _, _ = from_gateway(deployment.pools[0])
    by = f" by ({', '.join(chosen)})" if chosen else ""
    rule = {"record": chosen_series(name), "expr": f"{_over(name)}{by} ({name})"}
    return [{"name": "gemstead-scaling", "interval": "30s", "rules": [rule]}]


def metric_name(deployment: Deployment, name: str) -> str:
    """The metric as the cluster's metrics API has it."""
    if from_google(deployment):
        return f"prometheus.googleapis.com|{name}|gauge"
    return name.replace(":", "_")


def _hpa(deployment: Deployment, pool: Pool) -> Object:
    least, most = bounds(deployment, pool)
    metrics: list[Any] = []
    if names := METRICS.get(pool.setup.engine):
        waiting, running, cache = names
        rows: list[tuple[str, str, str]] = [
            (waiting, str(WAITING_A_REPLICA), "calls that wait in one engine"),
            (
                running,
                str(max(1, int(BUSY * at_once(pool)))),
                f"{BUSY:.0%} of the {at_once(pool)} that it takes at once",
            ),
        ]
        if cache:
            rows.append((cache, f"{int(FULL * 1000)}m", f"{FULL:.0%} of its cache in use"))
        for name, value, why in rows:
            pods = {
                "metric": {"name": metric_name(deployment, name)},
                "target": {"type": "AverageValue", "averageValue": value},
            }
            metrics.append(Because({"type": "Pods", "pods": pods}, why))
    name, chosen, threshold, why = from_gateway(pool)
    if from_google(deployment):
        name, why = (
            chosen_series(name),
            f"{why}; one series of all gateways, because Google's adapter adds up",
        )
    metric: Object = {"name": metric_name(deployment, name)}
    if chosen:
        lead = "metric.labels." if from_google(deployment) else ""
        metric["selector"] = {"matchLabels": {f"{lead}{key}": value for key, value in chosen.items()}}
    wanted = {"metric": metric, "target": {"type": "AverageValue", "averageValue": threshold}}
    metrics.append(Because({"type": "External", "external": wanted}, why))
    return made(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec={
            "scaleTargetRef": target(deployment, pool),
            "minReplicas": Because(
                least, "one may fail" if least > 1 else "a start takes minutes, so one stays"
            ),
            "maxReplicas": Because(most, _most_why(deployment, pool)),
            "metrics": metrics,
            "behavior": _behavior(pool),
        },
    )


def _most_why(deployment: Deployment, pool: Pool) -> str:
    if deployment.deploy.kubernetes.most_replicas:
        return "as the file says"
    if deployment.deploy.hardware.count and pool.needs.gpus:
        return f"as many as {deployment.deploy.hardware.count} cards carry"
    return f"twice the plan's {int(pool.replicas.value)}"


def _keda(deployment: Deployment, pool: Pool) -> Object:
    least, most = bounds(deployment, pool)
    address = deployment.deploy.kubernetes.prometheus
    pods = f'pod=~"{engine_name(deployment, pool)}-.*",namespace="{deployment.deploy.namespace}"'

    def trigger(name: str, query: str, threshold: str, why: str) -> Because:
        said = {
            "type": "prometheus",
            "name": name,
            "metricType": "AverageValue",
            "metadata": {"serverAddress": address, "query": query, "threshold": threshold},
        }
        return Because(said, why)

    name, chosen, threshold, why = from_gateway(pool)
    labels = ",".join(f'{key}="{value}"' for key, value in chosen.items())
    triggers: list[Any] = [trigger("gateway", f"{_over(name)}({name}{{{labels}}})", threshold, why)]
    if names := METRICS.get(pool.setup.engine):
        waiting, running, cache = names
        busy = max(1, int(BUSY * at_once(pool)))
        triggers += [
            trigger("waiting", f"sum({waiting}{{{pods}}})", str(WAITING_A_REPLICA), "calls that wait in one engine"),
            trigger("running", f"sum({running}{{{pods}}})", str(busy),
                    f"{BUSY:.0%} of the {at_once(pool)} that one takes at once"),
        ]  # fmt: skip
        if cache:
            triggers.append(
                trigger("cache", f"sum({cache}{{{pods}}})", f"{FULL}", f"{FULL:.0%} of each cache in use")
            )
    for hours in deployment.deploy.kubernetes.hours:
        floor = {
            "timezone": hours.timezone,
            "start": hours.start,
            "end": hours.end,
            "desiredReplicas": str(hours.replicas),
        }
        triggers.append(
            Because({"type": "cron", "metadata": floor}, "business hours: ready before they begin")
        )
    spec: Object = {
        "scaleTargetRef": target(deployment, pool),
        "minReplicaCount": Because(least, "one may fail" if least > 1 else "a start takes minutes, so one stays"),
        "maxReplicaCount": Because(max(most, *(one.replicas for one in deployment.deploy.kubernetes.hours), 1),
                                   _most_why(deployment, pool)),
        "pollingInterval": 15,
        "cooldownPeriod": 900,
        "fallback": Because(
            {"failureThreshold": 4, "replicas": int(pool.replicas.value)},
            "without Prometheus for a minute: as many as were planned",
        ),
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(pool)}},
        "triggers": triggers,
    }  # fmt: skip
    return made(
        "keda.sh/v1alpha1",
        "ScaledObject",
        engine_name(deployment, pool),
        deployment,
        component=ENGINE,
        pool=pool,
        spec=spec,
    )


def adapter_rules(deployment: Deployment) -> Object:
    """Values for prometheus-adapter's chart, so that the HorizontalPodAutoscaler finds these metrics."""
    custom = []
    engines = {pool.setup.engine for pool in deployment.pools}
    for engine in sorted(engines & METRICS.keys()):
        for name in filter(None, METRICS[engine]):
            custom.append(
                {
                    "seriesQuery": f'{name}{{namespace!="",pod!=""}}',
                    "resources": {
                        "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
                    },
                    "name": {"as": name.replace(":", "_")},
                    "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
                }
            )
    name = DESIRED if DESIRED in FAMILIES else QUEUE_WAITING.name
    external = {
        "seriesQuery": name,
        "resources": {"namespaced": False},
        "name": {"as": name},
        "metricsQuery": f"{_over(name)}(<<.Series>>{{<<.LabelMatchers>>}})",
    }
    return {"rules": {"default": False, "custom": custom, "external": [external]}}
