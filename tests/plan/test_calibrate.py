"""Coefficients learned from runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speed_runs import setup

from gemstead.plan.calibrate import Run, calibrated, error, estimated_s, fit
from gemstead.plan.step import KNOWN
from gemstead.plan.throughput import estimate

CARD = setup("12B", "bf16", "l40s")


def run(running, known=KNOWN, factor=1.0):
    seconds = estimated_s(Run(CARD, running, 800, 300, 1.0), known) * factor
    return Run(CARD, running, 800, 300, seconds)


@given(factor=st.floats(0.5, 2))
def test_one_run_scales_everything(factor):
    known = calibrated([run(8, factor=factor)])
    assert estimated_s(run(8), known) == pytest.approx(run(8).tpot_s * factor, rel=1e-6)


def test_several_runs_find_the_machine_that_made_them():
    """A card that reaches less of its bandwidth and pays more for each request, seen at 1, 8 and 64; told at 24."""
    machine = KNOWN | {"reached": 0.7, "each_ms": 0.12}
    known = calibrated([run(n, machine) for n in (1, 8, 64)])
    assert abs(error(run(24, machine), known)) < 0.03
    assert abs(error(run(24, machine))) > 0.15


def test_one_odd_run_does_not_bend_the_others():
    runs = [run(n) for n in (1, 2, 4, 8, 16, 32)]
    known = calibrated([*runs, run(12, factor=3.0)])
    assert max(abs(error(one, known)) for one in runs) < 0.10


def test_what_no_run_speaks_about_stays():
    assert calibrated([run(1), run(8)])["cache_reached.amd"] == KNOWN["cache_reached.amd"]
    assert fit([run(1)], ["exchange_ms.pcie"])["exchange_ms.pcie"] == KNOWN["exchange_ms.pcie"]


def test_a_calibrated_estimate_is_surer():
    known = calibrated([run(8, factor=1.2)])
    plain, tuned = estimate(CARD, 8, 800, 300), estimate(CARD, 8, 800, 300, known=known, calibrated=True)
    assert tuned.tpot_s.high / tuned.tpot_s.likely < plain.tpot_s.high / plain.tpot_s.likely
    assert tuned.tpot_s.likely == pytest.approx(1.2 * plain.tpot_s.likely)


def test_nothing_measured_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        calibrated([])
    with pytest.raises(ValueError, match="no coefficient is called luck"):
        fit([run(1)], ["luck"])
