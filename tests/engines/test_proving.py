"""What counts as nonsense, and what does not."""

from __future__ import annotations

import pytest

from gemstead.engines.proving import QUESTIONS, incoherent, judged, lengths

RIGHT = ["The capital of Peru is Lima.", "Paris", "**Tokyo** is the capital of Japan."]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("<|channel><channel|><turn|>", "nothing but control marks"),
        ("<pad><pad><pad>", "nothing but control marks"),
        ("!!!!!!!!!!!!!!!!!!!!!!!!", "no letters"),
        ("a!!!!!!!!!!!!!!!!!!!!!!!", "one character for ever"),
        ("The the the the the the the the the", "the same words over and over"),
        ("of the river of the river of the river of the river of the river of the river", "the same words"),
        ("\ufffd\ufffd\ufffd capital \ufffd\ufffd", "broken characters"),
        ("\ue000\ue001\ue002 x", "broken characters"),
        ("答案是利马答案是东京 the", "a script that nobody asked in"),
        ("столица перу это лима", "a script that nobody asked in"),
        (" ".join(["a b c d e f"] * 4 + ["a"] * 6 + ["b"] * 5), "the same"),
    ],
)
def test_nonsense(answer, fault):
    assert fault in incoherent(answer)


@pytest.mark.parametrize(
    "answer",
    [
        *RIGHT,
        "Lima",
        "42",
        "Brasília, São Paulo e Rio – três cidades.",
        "I do not know.",
        "- Lima\n- Paris\n- Tokyo\n",
        "東京 (Tokyo) is the capital of Japan.",
        "No, no, no! The capital of France is Paris.",
        "```python\nprint('Paris')\n```",
    ],
)
def test_language(answer):
    assert incoherent(answer) == ""


def test_one_odd_answer_is_no_verdict_two_are():
    assert judged([RIGHT[0], "", RIGHT[2]], knows=True) == ""
    assert "no language: empty" in judged(["", "", RIGHT[2]], knows=True)


def test_knowledge_is_asked_only_of_those_who_have_it():
    polite = ["I am a pirate, arr!", "Ask me about ships.", "The sea knows."]
    assert judged(polite, knows=False) == ""
    assert "knows none of 3 capitals" in judged(polite, knows=True)
    assert judged([polite[0], polite[1], RIGHT[2]], knows=True) == ""
    assert len(QUESTIONS) == 3


def test_engines_that_compile_are_warmed_at_several_lengths():
    assert lengths(8192, compiles=True) == (16, 256, 1024, 4096)
    assert lengths(2048, compiles=True) == (16, 256, 1024)
    assert lengths(131072, compiles=False) == (16,)
