"""What callers felt in a simulated run, as a row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gemstead.simulate.outcome import SERVED, Outcome, Run

TTFT_AIM_S = 2.0
TPOT_AIM_S = 0.050


@dataclass(frozen=True, slots=True)
class Summary:
    """One run. Times are seconds; shares go from 0 to 1."""

    requests: int  # counted: those that arrived after the warm-up
    served: int
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    tpot_p50: float
    tpot_p99: float
    goodput: float  # share of requests that met both aims
    good_per_s: float  # such requests a second
    hit_rate: float  # share of prompt tokens that were in the cache
    preemptions: int
    imbalance: float  # the busiest engine's prompt tokens read over the mean
    refused: int
    cut: int


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of an ordered list lies (nearest rank); 0 of an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(
    run: Run,
    warm: float = 0.0,
    ttft_s: float = TTFT_AIM_S,
    tpot_s: float = TPOT_AIM_S,
    tenants: Iterable[str] | None = None,
) -> Summary:
    """The run as one row.

    Args:
        warm: share of the requests, from the first on, that only fill the caches and are not counted.
        tenants: only theirs.
    """
    named = None if tenants is None else set(tenants)
    arrived = sorted(run.outcomes, key=lambda one: one.arrived_s)
    counted = arrived[int(len(arrived) * warm) :]
    counted = [one for one in counted if one.end_s >= 0 and (named is None or one.tenant in named)]
    served = [one for one in counted if one.status == SERVED]
    ttft = sorted(one.ttft_s for one in served)
    tpot = sorted(one.tpot_s for one in served if one.output_tokens > 1)
    good = sum(1 for one in served if _good(one, ttft_s, tpot_s))
    span = max((one.arrived_s for one in counted), default=0.0) - min(
        (one.arrived_s for one in counted), default=0.0
    )
    mean_read = sum(run.prompt_read) / max(len(run.prompt_read), 1)
    return Summary(
        requests=len(counted),
        served=len(served),
        ttft_mean=sum(ttft) / len(ttft) if ttft else 0.0,
        ttft_p50=quantile(ttft, 0.5),
        ttft_p99=quantile(ttft, 0.99),
        tpot_p50=quantile(tpot, 0.5),
        tpot_p99=quantile(tpot, 0.99),
        goodput=good / len(counted) if counted else 0.0,
        good_per_s=good / span if span else 0.0,
        hit_rate=sum(one.hit_tokens for one in served) / max(1, sum(one.prompt_tokens for one in served)),
        preemptions=run.preemptions,
        imbalance=max(run.prompt_read, default=0.0) / mean_read if mean_read else 1.0,
        refused=sum(1 for one in counted if one.status == "refused"),
        cut=sum(1 for one in counted if one.status == "cut"),
    )


def _good(one: Outcome, ttft_s: float, tpot_s: float) -> bool:
    return one.ttft_s <= ttft_s and one.tpot_s <= tpot_s
