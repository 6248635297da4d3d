"""The autoscale field of a model: off unless it is there, and what is refused."""

from __future__ import annotations

import pytest

from gemstead.spec.fault import SpecError
from gemstead.spec.load import parse


def model(more: str) -> str:
    return f"models:\n  - name: gemma-4-e2b\n{more}"


def test_it_is_off_unless_it_is_there() -> None:
    assert parse(model("")).models[0].autoscale is None
    found = parse(model("    autoscale: {most: 3}\n")).models[0].autoscale
    assert found is not None
    assert (found.least, found.most) == (1, 3)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{}", "most"),
        ("{least: 3, most: 2}", r"least \(3\) is above most \(2\)"),
        ("{most: 0}", "most"),
        ("{most: 2, down_after_s: 0}", "down_after_s"),
        ("{most: 2, soon: true}", "soon"),
    ],
)
def test_what_makes_no_sense_is_refused(said: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse(model(f"    autoscale: {said}\n"))


def test_engines_that_someone_else_runs_are_not_ours_to_start() -> None:
    with pytest.raises(SpecError, match="gemstead_desired_replicas"):
        parse(
            "models:\n  - name: m\n    autoscale: {most: 2}\n    endpoints: [{url: 'http://127.0.0.1:8000'}]\n"
        )
