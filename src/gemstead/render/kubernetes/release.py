"""Changing engines by Argo Rollouts: a canary that has to prove itself, or blue and green side by side.

Both need cards for the new beside the old. The gateway finds replicas by name, so a canary's share of calls is its
share of replicas. What is measured is what callers get: errors, and time to the first token.
"""

from __future__ import annotations

from gemstead.observe.alerts import OURS
from gemstead.render.because import Because
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes.objects import ENGINE, Object, engine_name, made


def strategy(deployment: Deployment, pool: Pool) -> Object:
    """The `strategy` of a Rollout."""
    from gemstead.render.kubernetes.engine import surge

    analysis = {"templates": [{"templateName": engine_name(deployment, pool)}]}
    if deployment.deploy.kubernetes.rollouts == "blue-green":
        return {
            "blueGreen": {
                "activeService": engine_name(deployment, pool),
                "previewService": f"{engine_name(deployment, pool)}-preview",
                "autoPromotionEnabled": Because(
                    False, "somebody looks at green first: kubectl argo rollouts promote"
                ),
                "scaleDownDelaySeconds": Because(1800, "half an hour in which going back costs nothing"),
                "postPromotionAnalysis": analysis,
            }
        }
    more, less, why = surge(deployment, pool)
    return {
        "canary": {
            "maxSurge": Because(more, why),
            "maxUnavailable": less,
            "analysis": {**analysis, "startingStep": 1},
            "steps": [
                {"setWeight": 10},
                {"pause": {"duration": "10m"}},
                {"setWeight": 50},
                {"pause": {"duration": "10m"}},
            ],
        }
    }


def objects(deployment: Deployment, pool: Pool) -> list[Object]:
    """What the new release is measured by."""
    model = pool.model.name
    address = deployment.deploy.kubernetes.prometheus
    bad = f'sum(rate(gemstead_requests_total{{model="{model}",outcome=~"{OURS}"}}[5m]))'
    share = (
        f'({bad} or vector(0)) / clamp_min(sum(rate(gemstead_requests_total{{model="{model}"}}[5m])), 0.001)'
    )
    late = (
        "histogram_quantile(0.95, sum by (le) (rate("
        f'gemstead_time_to_first_token_seconds_bucket{{model="{model}"}}[5m])))'
    )
    metrics = [
        {
            "name": "errors",
            "interval": "1m",
            "failureLimit": 2,
            "successCondition": "len(result) == 0 || isNaN(result[0]) || result[0] < 0.05",
            "provider": {"prometheus": {"address": address, "query": share}},
        },
        {
            "name": "first-token",
            "interval": "1m",
            "failureLimit": 3,
            "successCondition": "len(result) == 0 || isNaN(result[0]) || result[0] < 5",
            "provider": {"prometheus": {"address": address, "query": late}},
        },
    ]
    return [
        made(
            "argoproj.io/v1alpha1",
            "AnalysisTemplate",
            engine_name(deployment, pool),
            deployment,
            component=ENGINE,
            pool=pool,
            spec={"metrics": metrics},
        )
    ]
