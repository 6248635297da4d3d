"""The table of metric names, and the page that is written from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemstead.observe.names import FAMILIES, table

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_named_as_prometheus_advises(family):
    assert family.name.startswith("gemstead_")
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.help.endswith(".")
    assert bool(family.buckets) == (family.kind == "histogram")
    assert list(family.buckets) == sorted(set(family.buckets))


def test_the_buckets_reach_from_the_fastest_to_the_slowest_useful_answer():
    assert max(FAMILIES["gemstead_time_to_first_token_seconds"].buckets) >= 600
    assert min(FAMILIES["gemstead_time_per_output_token_seconds"].buckets) <= 0.001


def test_no_metric_tells_of_a_person_a_key_or_an_application():
    """Who may read metrics sees counts of tenants and models, and no more of who used what."""
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert "tenant" in labels
    assert labels.isdisjoint({"user", "app", "key", "key_id", "client", "session", "subject"})


def test_the_page_says_what_the_table_says():
    """`GEMSTEAD_WRITE_DOCS=1 python -m pytest tests/observe` writes the page anew."""
    if os.environ.get("GEMSTEAD_WRITE_DOCS"):
        PAGE.write_text(table())
    assert PAGE.read_text() == table()
