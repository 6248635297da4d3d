"""The registry's promises, read back by Prometheus' own parser."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gemstead.observe import names
from gemstead.observe.metrics import MOST_LABEL_SETS, Family, Registry, exposition, merge


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def text_of(registry: Registry) -> str:
    return exposition(registry.snapshot(), registry.families())


def test_a_counter_counts_by_label():
    registry = Registry()
    calls = registry.counter("calls_total", "Calls.", ("tenant",))
    calls.labels("a").add(2)
    calls.labels("a").add(1)
    calls.labels("b").add(0.5)
    assert text_of(registry) == (
        "# HELP calls_total Calls.\n# TYPE calls_total counter\n"
        'calls_total{tenant="a"} 3\ncalls_total{tenant="b"} 0.5\n'
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (-2.0, "-2"),
        (0.1, "0.1"),
        (1e20, "1e+20"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_every_number_has_a_text_form(value, written):
    registry = Registry()
    registry.gauge("g", "G.").labels().set(value)
    assert text_of(registry).splitlines()[-1] == f"g {written}"


def test_a_child_is_the_same_each_time():
    family = Registry().gauge("g", "G.", ("x",))
    assert family.labels("a") is family.labels("a")


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-1, "0.1"), (0.1, "0.1"), (0.100001, "1"), (1, "1"), (7, "+Inf"), (math.inf, "+Inf")],
)
def test_a_value_falls_into_the_first_bucket_that_holds_it(value, bucket):
    registry = Registry()
    registry.histogram("h", "H.", buckets=(0.1, 1)).labels().observe(value)
    told = parsed(text_of(registry))
    first = next(le for le in ("0.1", "1", "+Inf") if told[("h_bucket", (("le", le),))])
    assert first == bucket
    assert (told[("h_count", ())], told[("h_sum", ())]) == (1, value)


def test_histograms_are_cumulative_and_end_in_infinity():
    registry = Registry()
    child = registry.histogram("h", "H.", ("m",), (1, 2)).labels("x")
    for value in (0.5, 1.5, 1.5, 9):
        child.observe(value)
    told = parsed(text_of(registry))
    assert [told[("h_bucket", (("le", le), ("m", "x")))] for le in ("1", "2", "+Inf")] == [1, 3, 4]


@given(st.text())
def test_any_label_value_survives_the_text_form(value):
    value = value.encode("utf-8", "replace").decode()[:128]
    registry = Registry()
    registry.gauge("g", 'A "quoted" \\ help\nof two lines.', ("x",)).labels(value).set(1)
    text = text_of(registry)
    text.encode()
    if (
        value.splitlines() == [value] or not value
    ):  # the parser splits at more than line feeds; Prometheus does not
        assert parsed(text) == {("g", (("x", value),)): 1}
    assert text.count("\n") == 3


def test_a_lone_surrogate_cannot_break_the_page():
    registry = Registry()
    registry.gauge("g", "G.", ("x",)).labels("\ud800").set(1)
    text_of(registry).encode()


def test_the_number_of_label_sets_is_bounded_and_nothing_is_lost():
    registry = Registry()
    family = registry.counter("c_total", "C.", ("tenant", "model"))
    for number in range(MOST_LABEL_SETS + 500):
        family.labels(f"t{number}", "m").add(1)
    family.labels("t3", "m").add(1)
    numbers = registry.snapshot()["c_total"]
    assert len(numbers) == MOST_LABEL_SETS + 1
    assert numbers['tenant="other",model="other"'] == [500]
    assert numbers['tenant="t3",model="m"'] == [2]
    assert sum(value for (value,) in numbers.values()) == MOST_LABEL_SETS + 501


def test_a_long_value_is_cut_and_still_counted_together():
    registry = Registry()
    family = registry.counter("c_total", "C.", ("tenant",))
    family.labels("x" * 500).add(1)
    family.labels("x" * 600).add(1)
    assert registry.snapshot()["c_total"] == {f'tenant="{"x" * 128}"': [2]}


def test_a_snapshot_does_not_change_afterwards():
    registry = Registry()
    child = registry.counter("c_total", "C.").labels()
    child.add(1)
    before = registry.snapshot()
    child.add(1)
    assert before == {"c_total": {"": [1]}}


def test_workers_are_summed_and_gauges_merge_as_declared():
    families = {
        "c_total": Family(name="c_total", kind="counter", help="C."),
        "high": Family(name="high", kind="gauge", help="H.", merge="max"),
        "low": Family(name="low", kind="gauge", help="L.", merge="min"),
        "h": Family(name="h", kind="histogram", help="H.", buckets=(1.0,)),
    }
    one = {"c_total": {"": [1.0]}, "high": {"": [1.0]}, "low": {"": [1.0]}, "h": {"": [0.5, 1.0, 0.0]}}
    two = {"c_total": {"": [2.0]}, "high": {"": [0.0]}, "low": {"": [0.0]}, "h": {"": [7.0, 0.0, 1.0]}}
    merged = merge([one, two], families)
    assert merged == {
        "c_total": {"": [3.0]},
        "high": {"": [1.0]},
        "low": {"": [0.0]},
        "h": {"": [7.5, 1.0, 1.0]},
    }
    assert one["c_total"] == {"": [1.0]}
    assert exposition([one, two], families) == exposition(merged, families)


@given(st.lists(st.lists(st.floats(0, 100), max_size=20), max_size=5))
def test_how_values_are_spread_over_workers_never_matters(workers):
    def registry_of(values: list[float]) -> Registry:
        registry = Registry()
        child = registry.histogram("h", "H.", buckets=(1, 10, 50)).labels()
        for value in values:
            child.observe(value)
        return registry

    every = registry_of([value for values in workers for value in values])
    parts = merge([registry_of(values).snapshot() for values in workers], every.families())
    if workers:
        assert parts["h"][""][1:] == every.snapshot()["h"][""][1:]
        assert math.isclose(parts["h"][""][0], every.snapshot()["h"][""][0], abs_tol=1e-9)


def filled() -> str:
    registry = Registry()
    for family in names.FAMILIES.values():
        values = tuple(f"{label}-1" for label in family.labels)
        if family.kind == "histogram":
            registry.histograms(family).labels(*values).observe(0.3)
        else:
            registry.values(family).labels(*values).add(1)
    return text_of(registry)


def test_every_name_in_the_table_can_be_shown_and_read():
    told = {family.name: family.type for family in text_string_to_metric_families(filled())}
    expected = {family.name.removesuffix("_total"): family.kind for family in names.FAMILIES.values()}
    assert told == expected


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_fault():
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=filled(),
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_an_empty_registry_is_an_empty_page():
    assert text_of(Registry()) == ""
    assert exposition([], {}) == ""
