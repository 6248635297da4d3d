"""Monitoring of one host, as a profile: who watches, and what they are told to watch."""

from __future__ import annotations

from typing import Any

from gemstead.observe.alerts import RUNBOOKS
from gemstead.render import monitoring
from gemstead.render.because import Because
from gemstead.render.deployment import ADMIN_PORT, ENGINE_PORT, Deployment

# Versions that were current when this was written; each can be set in .env.
WATCHERS = {
    "prometheus": "prom/prometheus:v2.53.2",
    "alertmanager": "prom/alertmanager:v0.27.0",
    "grafana": "grafana/grafana:11.2.0",
    "dcgm": "nvcr.io/nvidia/k8s/dcgm-exporter:3.3.8-3.6.0-ubuntu22.04",
}


def watchers(deployment: Deployment, engines: list[str]) -> dict[str, Any]:
    """The services that watch, as the profile `monitoring`."""
    common = {"profiles": ["monitoring"], "networks": ["monitoring"], "restart": "unless-stopped",
              "security_opt": ["no-new-privileges:true"], "cap_drop": ["ALL"]}  # fmt: skip
    found: dict[str, Any] = {
        "prometheus": {
            "image": "${PROMETHEUS_IMAGE:-" + deployment.image(WATCHERS["prometheus"]) + "}",
            **common,
            "networks": Because(["monitoring", "engines"], "engines are scraped too"),
            "command": [
                "--config.file=/etc/prometheus/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                Because(
                    "--storage.tsdb.retention.time=30d", "a month, for the error budget's longest look back"
                ),
            ],
            "volumes": ["./prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
            "ports": ["127.0.0.1:9090:9090"],
        },
        "alertmanager": {
            "image": "${ALERTMANAGER_IMAGE:-" + deployment.image(WATCHERS["alertmanager"]) + "}",
            **common,
            "command": ["--config.file=/etc/alertmanager/alertmanager.yml"],
            "volumes": ["./alertmanager:/etc/alertmanager:ro"],
            "ports": ["127.0.0.1:9093:9093"],
        },
        "grafana": {
            "image": "${GRAFANA_IMAGE:-" + deployment.image(WATCHERS["grafana"]) + "}",
            **common,
            "environment": {
                # Not `${NAME:?}`, which Compose asks for even while the profile is off.
                "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/GRAFANA_PASSWORD",
                "GF_ANALYTICS_REPORTING_ENABLED": "false",
            },
            "secrets": ["GRAFANA_PASSWORD"],
            "volumes": [
                "grafana:/var/lib/grafana",
                "./grafana/provisioning:/etc/grafana/provisioning:ro",
                "./grafana/dashboards:/var/lib/grafana/dashboards:ro",
            ],
            "ports": ["127.0.0.1:3000:3000"],
        },
    }
    if any(pool.setup.accelerator.vendor == "nvidia" for pool in deployment.pools):
        devices = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        found["dcgm"] = {
            "image": "${DCGM_IMAGE:-" + deployment.image(WATCHERS["dcgm"]) + "}",
            **common,
            "cap_add": Because(["SYS_ADMIN"], "profiling counters need it; without it they are missing"),
            "deploy": {"resources": {"reservations": {"devices": [devices]}}},
        }
    return found


def settings(deployment: Deployment, gateways: list[str], engines: list[str]) -> dict[str, str]:
    """Their files: what is scraped from gateways and engines, alerts, dashboards."""
    jobs = {"gemstead": [f"{name}:{ADMIN_PORT}" for name in gateways]}
    scraped = {
        f"{pool.name}-{n}"
        for pool in deployment.pools
        if pool.setup.engine != "ollama"
        for n in range(int(pool.replicas.value))
    }
    if scraped:
        jobs["engines"] = [f"{name}:{ENGINE_PORT}" for name in engines if name in scraped]
    if any(pool.setup.accelerator.vendor == "nvidia" for pool in deployment.pools):
        jobs["dcgm"] = ["dcgm:9400"]
    found = {
        "prometheus/prometheus.yml": monitoring.prometheus(jobs, "alertmanager:9093"),
        "prometheus/alerts.yaml": monitoring.alerts(str(deployment.deploy.options.get("runbooks", RUNBOOKS))),
        "alertmanager/alertmanager.yml": monitoring.alertmanager(),
    }
    return found | {
        f"grafana/{path}": text for path, text in monitoring.grafana("http://prometheus:9090").items()
    }
