"""What the picker is for: more answers that are good, and nobody's first token later for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import ENGINE, played, some_load

from gemstead.simulate.report import summary

ROOMY = replace(ENGINE, most_running=128, kv_tokens=400_000, step_tokens=8192)


@pytest.mark.parametrize("seed", [1, 2])
def test_more_answers_keep_to_their_aim_than_with_others_at_the_same_first_tokens(seed):
    """Busy engines whose steps prompts make ten times as long, where all would be a little too slow."""
    load = some_load(count=1500, rate=20.0, seed=seed, longest=4000, answers=150)
    ours, sticky, least = (
        summary(played(load, policy, replicas=4, engine=ROOMY)[1], 0.1)
        for policy in ("ours", "sticky", "least-outstanding")
    )
    assert ours.goodput > 1.1 * sticky.goodput
    assert ours.goodput > 1.05 * least.goodput
    assert ours.ttft_mean < 1.05 * sticky.ttft_mean
    assert ours.ttft_p99 < 1.1 * sticky.ttft_p99
