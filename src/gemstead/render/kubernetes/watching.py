"""What is scraped and alerted on: Prometheus Operator's objects, or Google's managed Prometheus'."""

from __future__ import annotations

from typing import Any

from gemstead.observe.alerts import RUNBOOKS, rules
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import enginetls, scaling
from gemstead.render.kubernetes.objects import ENGINE, GATEWAY, Object, made, selector

AGENT_PORT = 15020  # of Istio's agent in each pod: it shows the engine's metrics with its own, outside mTLS
INTERVAL = Because("15s", "four points to a minute; engines that are asked more often grow slower")


def objects(deployment: Deployment) -> list[Object]:
    """Monitors and rules; none where nobody watches."""
    chosen = deployment.deploy.kubernetes.monitoring
    if chosen == "off":
        return []
    runbooks = str(deployment.deploy.options.get("runbooks", RUNBOOKS))
    alerts = rules(runbooks)
    scraped = [pool for pool in deployment.pools if pool.setup.engine != "ollama"]  # Ollama shows no metrics
    if chosen == "google":
        found = [_google(deployment, "gateway", selector(deployment, GATEWAY), "admin")]
        if scraped:
            found.append(_google(deployment, "engines", selector(deployment, ENGINE), "http"))
        for group in alerts["groups"]:
            group["interval"] = "30s"  # Google's Rules demand what Prometheus has a default for
        alerts["groups"] += scaling.recorded(deployment) if deployment.pools else []
        rule = made("monitoring.googleapis.com/v1", "Rules", deployment.name, deployment, spec=alerts)
        return [*found, rule]
    found = [
        _pods(deployment, "gateway", selector(deployment, GATEWAY), {"port": "admin", "path": "/metrics"})
    ]
    if scraped and deployment.deploy.kubernetes.mesh == "istio":
        agent = {"portNumber": AGENT_PORT, "path": "/stats/prometheus"}
        found.append(_pods(deployment, "engines", selector(deployment, ENGINE), agent))
    elif scraped:
        found.append(_services(deployment))
    rule = made("monitoring.coreos.com/v1", "PrometheusRule", deployment.name, deployment, spec=alerts)
    return [*found, rule]


def _google(deployment: Deployment, name: str, chosen: dict[str, str], port: str) -> Object:
    return made(
        "monitoring.googleapis.com/v1",
        "PodMonitoring",
        f"{deployment.name}-{name}",
        deployment,
        spec={
            "selector": {"matchLabels": chosen},
            "endpoints": [{"port": port, "path": "/metrics", "interval": INTERVAL}],
        },
    )


def _pods(deployment: Deployment, name: str, chosen: dict[str, str], where: Object) -> Object:
    endpoint: Any = {**where, "interval": INTERVAL}
    return made(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        f"{deployment.name}-{name}",
        deployment,
        spec={"selector": {"matchLabels": chosen}, "podMetricsEndpoints": [endpoint]},
    )


def _services(deployment: Deployment) -> Object:
    return made(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        f"{deployment.name}-engines",
        deployment,
        spec={
            "selector": {"matchLabels": selector(deployment, ENGINE)},
            "endpoints": [
                {"port": "http", "path": "/metrics", "interval": INTERVAL, **enginetls.scraped(deployment)}
            ],
        },
    )
