from __future__ import annotations

import pytest

from gemstead.traffic.estimate import ANSWER_TOKENS, prompt_tokens, tokens_to_hold


@pytest.mark.parametrize(
    ("prompt", "tokens"), [(b"", 0), (b"a", 1), (b"abcd", 1), (b"abcde", 2), ("ü" * 4, 2)]
)
def test_four_bytes_are_a_token_rounded_up(prompt, tokens):
    assert prompt_tokens(prompt.encode() if isinstance(prompt, str) else prompt) == tokens


@pytest.mark.parametrize(
    ("answer_most", "held"), [(None, 10 + ANSWER_TOKENS), (5, 15), (10**6, 10 + ANSWER_TOKENS), (0, 10)]
)
def test_a_callers_cap_counts_up_to_the_usual_answer(answer_most, held):
    assert tokens_to_hold(10, answer_most) == held
