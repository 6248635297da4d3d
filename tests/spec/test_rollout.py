"""The rollout section: what is refused, and that a model may have its own."""

from __future__ import annotations

import pytest

from gemstead.spec.fault import SpecError
from gemstead.spec.load import parse


def test_a_model_may_have_its_own():
    spec = parse(
        "models:\n  - name: gemma-4-e2b\n    rollout: {strategy: canary, shares: [10, 50]}\n"
        "rollout: {strategy: blue_green}\n"
    )
    assert spec.models[0].rollout.shares == (10, 50)
    assert spec.rollout.strategy == "blue_green"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shares: [50, 5]", "the shares must rise"),
        ("shares: [0]", "shares"),
        ("shares: [100]", "shares"),
        ("strategy: sideways", "strategy"),
        ("slower: 1", "slower"),
    ],
)
def test_what_makes_no_sense_is_refused(line, words):
    with pytest.raises(SpecError, match=words):
        parse(f"rollout:\n  {line}\n")
