"""The simulator against a run that was measured: vLLM 0.19, Qwen3-32B, two RTX PRO 6000, far more than it can take.

The engine's numbers are the planner's arithmetic (`plan/step.py`) for that model and those cards, as written in
docs/traffic.md; nothing was set on this run. Ten requests a second come and two a second are done, so the wait for the
first token is nearly all queue, and an error of the speed adds up in it.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from gemstead.simulate.engine import Engine
from gemstead.simulate.fleet import Fleet
from gemstead.simulate.report import quantile
from gemstead.simulate.trial import policies
from gemstead.simulate.workload import Request, Workload

DATA = Path(__file__).parents[1] / "data/simulate/vllm_qwen3-32b_2xrtxpro6000.csv.gz"
ENGINE = Engine(
    base_s=0.0260,
    each_s=1.524e-4,
    context_s=8.6e-8,
    window_s=0.0,
    window=0,
    prefill_s=2.40e-4,
    deeper_s=5e-9,
    deeper_window_s=0.0,
    step_tokens=2048,
    most_running=128,
    kv_tokens=400_000,
    first_s=0.019,
)


@pytest.fixture(scope="module")
def rows():
    with gzip.open(DATA, "rt") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def outcomes(rows):
    requests = tuple(
        Request(row["arrival_s"], int(row["input_tokens"]), int(row["output_tokens"])) for row in rows
    )
    return (
        Fleet(Workload("measured", requests), [ENGINE], policies("round-robin", lambda count: 0))
        .run()
        .outcomes
    )


def test_the_time_per_token_is_met_within_a_tenth(rows, outcomes):
    measured = sorted(
        (row["last_token_s"] - row["first_token_s"]) / (row["output_tokens"] - 1)
        for row in rows
        if row["output_tokens"] > 1
    )
    simulated = sorted(one.tpot_s for one in outcomes if one.output_tokens > 1)
    assert quantile(simulated, 0.5) == pytest.approx(quantile(measured, 0.5), rel=0.10)
    assert quantile(simulated, 0.9) == pytest.approx(quantile(measured, 0.9), rel=0.15)


def test_the_last_answer_ends_within_a_tenth_and_the_queue_within_a_quarter(rows, outcomes):
    assert max(one.end_s for one in outcomes) == pytest.approx(
        max(row["last_token_s"] for row in rows), rel=0.10
    )
    measured = sorted(row["first_token_s"] - row["arrival_s"] for row in rows)
    simulated = sorted(one.ttft_s for one in outcomes)
    assert quantile(simulated, 0.5) == pytest.approx(quantile(measured, 0.5), rel=0.25)


def test_who_waits_longest_is_who_waited_longest(rows, outcomes):
    """Rank correlation of the waits for the first token."""
    measured = _ranks([row["first_token_s"] - row["arrival_s"] for row in rows])
    simulated = _ranks([one.ttft_s for one in outcomes])
    count = len(measured)
    apart = sum((one - other) ** 2 for one, other in zip(measured, simulated, strict=True))
    assert 1 - 6 * apart / (count * (count**2 - 1)) > 0.95


def _ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    for rank, place in enumerate(order):
        ranks[place] = rank
    return ranks
