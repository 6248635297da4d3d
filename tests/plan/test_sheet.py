"""The twenty-question sheet, all 270 of it: five sizes on six cards, three widths of weights, three contexts.

`python tests/plan/test_sheet.py` prints the table that docs/planning.md shows.
"""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from gemstead.engines.commands import launch_command
from gemstead.plan import Media, Proposal, plan

SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
CARDS = ("L4", "A100", "H100", "RTX PRO 6000", "B200", "MI300X")
WIDTHS = ("INT4", "FP8", "BF16")
CONTEXTS = (8_192, 32_768, 262_144)  # the longest that E2B and E4B read is 131,072
NONE = Media()
LIMIT_S = 0.3


@cache
def answer(size: str, card: str, width: str, context: int) -> Proposal:
    if size in ("E2B", "E4B"):
        context = min(context, 131_072)
    return plan(size, card, weights=width, engine="vllm", context=context, compare=False)


def every() -> list[tuple[str, str, str, int]]:
    return [
        (size, card, width, at) for size in SIZES for card in CARDS for width in WIDTHS for at in CONTEXTS
    ]


def fits(size: str, card: str, width: str, context: int) -> bool:
    return answer(size, card, width, context).chosen.memory.fits


def table() -> str:
    """What fits, as Markdown."""
    rows = [
        "| | L4 | A100 80 | H100 | RTX PRO 6000 | B200 | MI300X |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for width in WIDTHS:
            cells = ("".join("-+"[fits(size, card, width, at)] for at in CONTEXTS) for card in CARDS)
            rows.append(f"| {size} {width} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_every_question_is_answered_within_the_processor_time_that_is_promised():
    answer.cache_clear()
    plan("31B", "H100", compare=False)  # what is read once, the catalogue, is read
    slowest = 0.0
    for one in every():
        before = time.process_time()
        answer(*one)
        slowest = max(slowest, time.process_time() - before)
    assert slowest < LIMIT_S


def test_what_fits_longer_fits_shorter_and_what_fits_wider_fits_narrower():
    for size in SIZES:
        for card in CARDS:
            by_width = [[fits(size, card, width, at) for at in CONTEXTS] for width in WIDTHS]
            for row in by_width:
                assert row == sorted(row, reverse=True), (size, card)
            for narrow, wide in pairwise(by_width):
                assert all(small >= large for small, large in zip(narrow, wide, strict=True)), (size, card)


def test_a_card_with_more_memory_fits_no_less():
    larger = {
        "L4": "A100",
        "H100": "RTX PRO 6000",
        "A100": "RTX PRO 6000",
        "RTX PRO 6000": "B200",
    }
    for size, card, width, at in every():
        if card in larger:
            assert fits(size, larger[card], width, at) >= fits(size, card, width, at), (
                size,
                card,
                width,
                at,
            )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("card", CARDS)
def test_what_fits_can_be_launched_and_is_told_with_sane_figures(size, card):
    for width in WIDTHS:
        for at in CONTEXTS:
            chosen = answer(size, card, width, at).chosen
            if not chosen.memory.fits:
                assert chosen.reasons and "does not fit" in chosen.reasons[0]
                continue
            (place,) = chosen.placements(NONE)
            assert launch_command(place).argv
            assert chosen.memory.used_bytes <= chosen.memory.card_bytes
            assert chosen.memory.largest_context >= chosen.setup.length
            assert 0.0005 < chosen.alone.tpot_s.likely < 0.5
            assert 0.005 < chosen.alone.ttft_s.likely < 30
            assert chosen.full.tokens_per_s.likely >= 0.99 / chosen.full.tpot_s.high


def test_narrow_weights_are_never_slower_for_one_reader():
    for size in SIZES:
        for card in CARDS:
            times = [
                answer(size, card, width, 8_192).chosen.alone.tpot_s.likely
                for width in WIDTHS
                if fits(size, card, width, 8_192)
            ]
            assert all(small <= large * 1.10 for small, large in pairwise(times)), (
                size,
                card,
            )


def test_the_document_shows_this_sheet():
    assert table() in (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table())
