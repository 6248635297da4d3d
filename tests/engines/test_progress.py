"""A long answer is work, not a hang: what llama.cpp's page said in the middle of one (build 11549)."""

from __future__ import annotations

from gemstead.engines.progress import progress

PAGE = """# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 16
llamacpp:tokens_predicted_total 0
llamacpp:n_decode_total {decodes}
llamacpp:requests_processing 1
"""


def test_progress_grows_with_each_step_of_a_long_answer():
    assert progress(PAGE.format(decodes=1517)) < progress(PAGE.format(decodes=2575))


def test_an_engine_that_counts_nothing_we_know_has_no_progress():
    assert progress("other:thing_total 3\n") is None
    assert progress("") is None
