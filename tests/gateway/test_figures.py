"""What a finished call adds to the metrics."""

from __future__ import annotations

import pytest

from gemstead.gateway.figures import Figures
from gemstead.ledger.audit import AuditRecord
from gemstead.observe.metrics import Registry

ROUTE = "/v1/chat/completions"


def ended(**fields: object) -> AuditRecord:
    usual = {
        "call_id": "1", "began": 0.0, "route": ROUTE, "tenant": "t", "pool": "m", "outcome": "served", "seconds": 3.0,
        "stream": True, "first_token_s": 1.0, "prompt_tokens": 10, "cached_tokens": 4, "output_tokens": 5,
    }  # fmt: skip
    return AuditRecord(**(usual | fields))


def after(*records: AuditRecord) -> dict[str, dict[str, list[float]]]:
    figures = Figures(Registry())
    for record in records:
        figures.record(record)
    return figures.registry.snapshot()


def test_a_served_stream_is_counted_everywhere():
    numbers = after(ended(), ended())
    call = 'tenant="t",model="m"'
    assert numbers["gemstead_requests_total"] == {f'{call},route="{ROUTE}",outcome="served"': [2]}
    assert numbers["gemstead_tokens_total"] == {
        f'{call},direction="prompt"': [20],
        f'{call},direction="cached"': [8],
        f'{call},direction="output"': [10],
    }
    assert numbers["gemstead_request_seconds"][call][0] == 6
    assert numbers["gemstead_time_to_first_token_seconds"][call][0] == 2
    assert numbers["gemstead_time_per_output_token_seconds"][call][0] == 2 * (3 - 1) / 4


@pytest.mark.parametrize(
    "record",
    [
        ended(outcome="rate_limited", first_token_s=None, prompt_tokens=0, cached_tokens=0, output_tokens=0),
        ended(stream=False),
    ],
)
def test_a_call_without_a_stream_has_no_stream_times(record):
    numbers = after(record)
    assert sum(sum(each) for each in numbers["gemstead_requests_total"].values()) == 1
    for name in ("gemstead_time_to_first_token_seconds", "gemstead_time_per_output_token_seconds"):
        assert not any(any(each) for each in numbers[name].values())


def test_one_token_has_no_time_between_tokens():
    numbers = after(ended(output_tokens=1))
    assert not any(any(each) for each in numbers["gemstead_time_per_output_token_seconds"].values())


def test_many_tenants_neither_grow_without_bound_nor_lose_a_call():
    numbers = after(*(ended(tenant=f"t{i}") for i in range(6000)))
    requests = numbers["gemstead_requests_total"]
    assert len(requests) <= 1001
    assert sum(value for (value,) in requests.values()) == 6000


def test_the_live_figures_are_there_before_the_first_call():
    figures = Figures(Registry())
    figures.in_flight.add(1)
    figures.retries.add(1)
    figures.gap(0.02)
    figures.loop_lag.observe(0.001)
    figures.ledger(7, False)
    figures.breaker_open.labels("replica-0").set(1)
    numbers = figures.registry.snapshot()
    assert numbers["gemstead_in_flight"] == {"": [1]}
    assert numbers["gemstead_upstream_retries_total"] == {"": [1]}
    assert sum(numbers["gemstead_inter_token_seconds"][""][1:]) == 1
    assert sum(numbers["gemstead_loop_lag_seconds"][""][1:]) == 1
    assert numbers["gemstead_ledger_held_records"] == {"": [7]}
    assert numbers["gemstead_ledger_healthy"] == {"": [0]}
    assert numbers["gemstead_breaker_open"] == {'endpoint="replica-0"': [1]}
