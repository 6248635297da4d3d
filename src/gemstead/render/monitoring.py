"""What watches a deployment: Prometheus, Alertmanager and Grafana, as their own configuration files.

The alerts, the dashboard and the names of metrics are `observe`'s; here they are written down for these programs. Who
is told of an alert is the operator's to say: the receiver that is rendered only shows them on Alertmanager's page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gemstead.observe.alerts import rules
from gemstead.observe.dashboard import dashboard
from gemstead.render.because import Because
from gemstead.render.bundle import HEAD
from gemstead.render.yamltext import document


def prometheus(jobs: Mapping[str, Sequence[str]], alertmanager: str) -> str:
    """`prometheus.yml`: what is scraped (job -> host:port), which rules, who is told."""
    return document(
        {
            "global": {
                "scrape_interval": Because("15s", "four points to a minute: enough for rates over 5 minutes"),
                "evaluation_interval": "15s",
            },
            "rule_files": ["/etc/prometheus/alerts.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in jobs.items()
            ],
        },
        head=HEAD,
    )


def alerts(runbooks: str) -> str:
    """The rule file."""
    return document(rules(runbooks), head=HEAD)


def alertmanager() -> str:
    """`alertmanager.yml`: critical ones at once, warnings together."""
    return document(
        {
            "route": {
                "receiver": "page",
                "group_by": ["alertname", "model"],
                "group_wait": "30s",
                "group_interval": "5m",
                "repeat_interval": Because("12h", "a warning that stands is said twice a day"),
                "routes": [
                    {
                        "matchers": ['severity="critical"'],
                        "receiver": "page",
                        "group_wait": "10s",
                        "repeat_interval": "1h",
                    }
                ],
            },
            "receivers": Because(
                [{"name": "page"}],
                "shows alerts on Alertmanager's page and tells nobody: add email, Slack, PagerDuty or a webhook here",
            ),
            "inhibit_rules": [
                {
                    "source_matchers": ['alertname="GemsteadMissing"'],
                    "target_matchers": ['alertname=~"Gemstead.*"', 'alertname!="GemsteadMissing"'],
                }
            ],
        },
        head=HEAD,
    )


def grafana(url: str) -> dict[str, str]:
    """Grafana's provisioning, by path: its source at `url`, and the dashboard."""
    source = {"name": "Prometheus", "type": "prometheus", "uid": "prometheus", "url": url, "isDefault": True}
    folder = {"name": "Gemstead", "type": "file", "options": {"path": "/var/lib/grafana/dashboards"}}
    return {
        "provisioning/datasources/prometheus.yaml": document(
            {"apiVersion": 1, "datasources": [source]}, head=HEAD
        ),
        "provisioning/dashboards/gemstead.yaml": document(
            {"apiVersion": 1, "providers": [folder]}, head=HEAD
        ),
        "dashboards/gemstead.json": json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n",
    }
