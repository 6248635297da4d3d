"""The arithmetic of the gateway benchmark: ratios inside rounds, what counts as kept up, verdicts."""

from __future__ import annotations

import math

import pytest
from benchmarks.gateway.bars import Bar, Run, added, judge, lost, ratios, sustained


def run(number, scenario, subject, **figures):
    return Run(number, scenario, subject, {"wrong": 0, "lost": 0, **figures})


def test_a_ratio_is_taken_inside_a_round_and_never_across_rounds():
    runs = [
        run(0, "json-c32", "mine", cpu_us=40.0),
        run(0, "json-c32", "peer", cpu_us=80.0),
        run(1, "json-c32", "mine", cpu_us=90.0),
        run(1, "json-c32", "peer", cpu_us=60.0),
        run(2, "json-c32", "mine", cpu_us=1.0),  # the peer is missing
        run(3, "json-c32", "mine", cpu_us=1.0),
        run(3, "json-c32", "peer", cpu_us=math.nan),  # answered nothing
    ]
    assert ratios(runs, "json-c32", "mine", "peer") == [0.5, 1.5]


def test_an_added_delay_is_against_the_bare_engine_of_the_same_round():
    runs = [
        run(0, "rate-1000", "direct", delay_p99_us=70.0),
        run(0, "rate-1000", "mine", delay_p99_us=300.0),
        run(1, "rate-1000", "mine", delay_p99_us=900.0),
    ]
    assert added(runs, "rate-1000", "mine", "delay_p99_us") == [230.0]


@pytest.mark.parametrize(
    ("figures", "chunks_per_s"),
    [
        ({"delay_p99_us": 9_000.0, "per_s": 33_000.0}, 40_000),  # ramps included, so per_s alone says less
        ({"delay_p99_us": 16_000.0, "per_s": 39_000.0}, 39_000.0),
        ({"delay_p99_us": 9_000.0, "per_s": 41_000.0, "lost": 3}, 39_999),
        ({"per_s": 0.0}, 0.0),
    ],
)
def test_a_rate_counts_as_kept_up_only_without_losses_and_in_time(figures, chunks_per_s):
    assert sustained([run(0, "streams-40k", "mine", **figures)], "mine") == [chunks_per_s]


def test_one_lost_stream_in_any_round_fails_the_bar():
    runs = [run(n, "streams-1000", "mine", lost=int(n == 1)) for n in range(3)]
    assert lost(runs, "mine") == [1]
    bars = {bar.name: bar for bar in judge(runs, {}, "mine")}
    assert bars["streams lost or broken, of all paced ones"].verdict == "FAIL"


@pytest.mark.parametrize(
    ("sense", "measured", "verdict"),
    [
        ("at most", 10.0, "pass"),
        ("at most", 10.1, "FAIL"),
        ("at most", math.inf, "FAIL"),
        ("at most", None, "not measured"),
        ("at most", math.nan, "not measured"),
        ("at least", 9.9, "FAIL"),
        ("at least", 10.0, "pass"),
        ("exactly", 11.0, "FAIL"),
        ("exactly", 10.0, "pass"),
    ],
)
def test_verdicts(sense, measured, verdict):
    assert Bar("a bar", measured, 10, "µs", sense).verdict == verdict


def test_nothing_measured_passes_nothing():
    assert {bar.verdict for bar in judge([], {}, "mine")} == {"not measured"}
