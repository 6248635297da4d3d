"""Layouts: from traffic and cards to replicas, with the published article as the golden case."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.catalog.accelerators import accelerator
from gemstead.engines.commands import launch_command
from gemstead.plan import Media, plan
from gemstead.plan.fitted import ROOM
from gemstead.refused import Refused

GIB = 1 << 30


def test_the_article_two_cards_are_one_replica():
    """Callstack on two RTX PRO 6000: one replica of two, 32k, share 0.90, about 85 GiB of each card used."""
    found = plan("31B", "RTX PRO 6000", 2, context=32_768, weights="BF16", engine="vllm")
    chosen = found.chosen
    assert (chosen.setup.tp, chosen.replicas, chosen.setup.share) == (2, 1, 0.90)
    assert chosen.memory.used_bytes / GIB == pytest.approx(85, rel=0.02)
    line = launch_command(chosen.placements(found.traffic.media)[0])
    text = line.shell()
    for said in ("--tensor-parallel-size 2", "--gpu-memory-utilization 0.90", "--max-model-len 32768",
                 "--enable-auto-tool-choice", "--reasoning-parser gemma4", "--tool-call-parser gemma4",
                 "--async-scheduling", "--speculative-config", "CUDA_VISIBLE_DEVICES=0,1"):  # fmt: skip
        assert said in text
    assert '"num_speculative_tokens": 4' in text


def test_the_article_a_single_card_holds_16k_but_not_in_comfort():
    found = plan("31B", "RTX PRO 6000", 1, context=16_384, weights="BF16", engine="vllm")
    assert found.chosen.memory.fits


def test_the_article_eight_cards_are_four_pairs_for_usual_requests():
    chosen = plan("31B", "RTX PRO 6000", 8, context=32_768, weights="BF16", engine="vllm").chosen
    assert (chosen.setup.tp, chosen.replicas) == (2, 4)
    places = chosen.placements(Media())
    assert [place.devices for place in places] == [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")]
    assert [place.port for place in places] == [8000, 8001, 8002, 8003]


def test_the_article_very_long_contexts_get_wider_groups():
    chosen = plan("31B", "RTX PRO 6000", 8, context=262_144, weights="BF16", engine="vllm").chosen
    assert chosen.setup.tp in (4, 8) and chosen.comfortable


def test_what_the_article_says_of_drafting_is_in_the_advice():
    """2.48 times as fast at 1 and 1.09 at 100 requests: on for few, off for many."""
    few = plan("31B", "RTX PRO 6000", 2, context=32_768, weights="BF16").chosen
    assert few.drafting.tokens >= 2 and few.drafting.gain > 1.5
    many = plan(
        "31B", "RTX PRO 6000", 2, context=32_768, weights="BF16", requests_per_s=8, headroom=0, spares=0
    ).chosen
    assert many.drafting.tokens < few.drafting.tokens


def test_a_published_manifest_that_cannot_start_is_refused_with_a_change():
    """131,072 tokens of 31B at 16 bits on one H100, as a vendor's manifest asks."""
    found = plan("31B", "H100", 1, context=131_072, weights="BF16", engine="vllm", utilisation=0.92)
    assert not found.chosen.memory.fits and not found.best.meets
    assert "does not fit" in found.chosen.reasons[0] and found.chosen.memory.cheapest_change is not None
    free = plan("31B", "H100", 1, context=131_072)
    assert free.best.meets and free.chosen.setup.checkpoint.bits != "bf16"


def test_more_users_need_more_replicas_and_one_is_spare():
    few = plan("26B-A4B", "H100", None, users=1_000).chosen
    many = plan("26B-A4B", "H100", None, users=200_000).chosen
    assert few.replicas == 2 and few.spares == 1
    assert many.replicas > few.replicas and many.short == 0
    assert many.capacity is not None and many.capacity.load <= 0.65 + 1e-9


def test_too_few_cards_are_said():
    found = plan("31B", "H100", 1, users=100_000, weights="FP8", engine="vllm")
    assert found.chosen.short > 0 and not found.best.meets
    assert any("are missing for the busiest hour" in note for note in found.chosen.notes)


def test_an_aim_for_the_time_per_token_widens_the_group_or_is_said_to_be_missed():
    slow = plan("31B", "RTX PRO 6000", 8, context=16_384, weights="BF16", drafting=0, engine="vllm").chosen
    quick = plan(
        "31B",
        "RTX PRO 6000",
        8,
        context=16_384,
        weights="BF16",
        drafting=0,
        engine="vllm",
        longest_tpot_s=0.020,
    ).chosen
    assert quick.setup.tp > slow.setup.tp and quick.alone.tpot_s.likely <= 0.020
    never = plan("31B", "L40S", 2, drafting=0, longest_tpot_s=0.001)
    assert not never.best.meets and any("is missed" in note for note in never.chosen.notes)


def test_small_models_may_share_a_card_in_slices():
    found = plan("E2B", "H100", 1)
    sliced = [
        one.layout for one in found.others if one.layout.setup.accelerator.is_slice and one.layout.memory.fits
    ]
    assert sliced and all(one.setup.tp == 1 and one.replicas > 1 for one in sliced)
    assert all(place.devices == () for one in sliced for place in one.placements(Media()))


def test_a_slice_can_be_asked_for_by_name():
    chosen = plan("E2B", "h100-sxm/1g.20gb", 4).chosen
    assert chosen.memory.fits and (chosen.setup.tp, chosen.replicas) == (1, 4)


def test_a_budget_that_nothing_meets_is_said():
    found = plan("31B", "H100", 8, usd_month=100)
    assert not found.best.meets and found.best.over_budget
    assert any("more than the budget" in note for note in found.notes)


def test_pictures_take_room_and_are_off_unless_wanted():
    off = plan("31B", "H100", 1, weights="FP8", engine="vllm").chosen
    on = plan("31B", "H100", 1, weights="FP8", engine="vllm", media=Media(images=4)).chosen
    assert not off.setup.vision and on.setup.vision
    assert on.memory.kv_pool_bytes < off.memory.kv_pool_bytes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "27B", "gpu": "H100"}, "gemma-4-26b-a4b"),
        ({"model": "31B", "gpu": "H1000"}, "[Dd]id you mean"),
        ({"model": "31B", "gpu": "H100", "count": 0}, "1 or more"),
        ({"model": "31B", "gpu": "H100", "count": 2, "tp": 4}, "tp must be"),
        ({"model": "31B", "gpu": "H100", "context": 300_000}, "262144"),
        ({"model": "31B", "gpu": "H100", "context": 512}, "longer than the context"),
        ({"model": "31B", "gpu": "H100", "output_tokens": 0}, "at least one token"),
        ({"model": "31B", "gpu": "H100", "headroom": 1.0}, "headroom"),
        ({"model": "31B", "gpu": "H100", "day": "weekend"}, "office"),
        ({"model": "31B", "gpu": "H100", "media": Media(audios=1)}, "takes no audio"),
        ({"model": "31B", "gpu": "H100", "engine": "vlm"}, "Did you mean `vllm`"),
        (
            {"model": "E2B", "gpu": "H100", "engine": "embedded"},
            "does not run on NVIDIA H100.*only on processors",
        ),
        ({"model": "31B", "gpu": "L4", "weights": "W9A9"}, "There is no checkpoint `W9A9`"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(arguments, said):
    with pytest.raises(Refused, match=said):
        plan(**arguments)


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from(["E2B", "E4B", "12B", "26B-A4B", "31B"]),
    gpu=st.sampled_from(["L4", "A100", "H100", "RTX PRO 6000", "B200", "MI300X"]),
    count=st.sampled_from([1, 2, 8]),
    context=st.sampled_from([8_192, 32_768, 131_072]),
    prompt=st.integers(16, 4_000),
    output=st.integers(1, 1_000),
)
def test_whatever_is_chosen_fits_and_can_be_started(size, gpu, count, context, prompt, output):
    found = plan(size, gpu, count, context=context, prompt_tokens=prompt, output_tokens=output)
    for option in found.options:
        layout = option.layout
        assert layout.cards + layout.cards_idle == count * max(1, _pieces(layout.setup.accelerator))
        if not layout.memory.fits:
            assert layout.replicas == 0 and not option.meets
            continue
        assert layout.memory.largest_context >= context
        assert layout.comfortable is (layout.comfortable and layout.memory.fits)
        assert layout.setup.at_once >= 1 and layout.full.tokens_per_s.likely > 0
        for place in layout.placements(found.traffic.media)[:1]:
            try:
                launch_command(place)
            except Refused as refused:
                assert "flag" not in refused.message
    best = found.chosen
    if best.comfortable and best.setup.engine == "vllm":
        assert best.memory.concurrency(context) >= ROOM


def _pieces(card) -> int:
    return accelerator(card.parent).slice_count(card.id.rpartition("/")[2]) if card.is_slice else 1


@settings(max_examples=25, deadline=None)
@given(size=st.sampled_from(["E4B", "26B-A4B", "31B"]), gpu=st.sampled_from(["A100", "H100", "B200"]))
def test_twice_the_cards_never_answer_less(size, gpu):
    one, two = (plan(size, gpu, count, context=16_384, compare=False).best for count in (2, 4))
    if one.meets:
        assert two.meets


def test_the_same_question_has_the_same_answer():
    first, second = (plan("31B", "H200", 4, users=3_000) for _ in range(2))
    assert first == second


def test_one_slot_of_llamacpp_is_no_comfort():
    slots = plan("31B", "L4", 1, engine="llamacpp").chosen
    assert slots.memory.fits and slots.setup.at_once < ROOM and not slots.comfortable
    assert plan("31B", "H100", 1, context=262_144).chosen.setup.engine == "vllm"


def test_drafting_in_llamacpp_is_only_for_those_who_ask():
    assert plan("E4B", "L4", 1, engine="llamacpp").chosen.drafting.tokens == 0
    assert plan("E4B", "L4", 1, engine="llamacpp", drafting=3).chosen.drafting.tokens == 3


def test_break_even_is_said_against_the_cheapest_provider():
    against = plan("31B", "RTX PRO 6000", 2, context=32_768).against_api
    assert against is not None and against.tokens_a_month > 1e9 and against.tokens_per_s > 100
    assert "million" in against.verdict or "billion" in against.verdict
    assert plan("E4B", "T4", 1).against_api is None, "no price of the card"


def test_an_engine_that_answers_one_at_a_time_is_planned_so():
    chosen = plan("E4B", "H100", 1, engine="transformers").chosen
    assert chosen.setup.at_once == 1 and chosen.full.running == 1


def test_when_an_aim_cannot_be_met_the_comfortable_one_is_shown():
    found = plan("31B", "H100", 1, longest_ttft_s=0.001)
    assert not found.best.meets and found.chosen.comfortable


def test_more_than_eight_cards_are_several_hosts():
    chosen = plan("31B", "RTX PRO 6000", 20, context=32_768, weights="BF16", engine="vllm").chosen
    places = chosen.placements(Media())
    assert chosen.hosts == 3 and len(places) == 10
    assert places[4].devices == places[0].devices == ("0", "1") and places[4].port == 8000
    assert any("more than one host" in note for note in chosen.notes)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"users": -5}, "users can be 0 to"),
        ({"users": NAN}, "users can be"),
        ({"users": INF}, "users can be"),
        ({"requests_per_s": -1}, "requests a second"),
        ({"users": 5, "requests_per_user_day": 0}, "who ask nothing"),
        ({"users": 5, "requests_per_user_day": -3}, "one user a day"),
        ({"prompt_tokens": 0}, "at least one token"),
        ({"prompt_tokens": NAN}, "at least one token"),
        ({"output_tokens": 1e9}, "reads 262144 tokens"),
        ({"context": 2_000_000}, "context cannot be"),
        ({"context": 100}, "context cannot be"),
        ({"context": 512}, "longer than the context"),
        ({"longest_ttft_s": -1}, "first token must be above 0"),
        ({"longest_tpot_s": 0}, "further token must be above 0"),
        ({"usd_month": 0}, "the budget must be above 0"),
        ({"count": 0}, "how many cards"),
        ({"count": 10**9}, "up to 100000 cards"),
        ({"tp": 0}, "tp must be"),
        ({"tp": 2}, "number of cards"),
        ({"tp": 3, "count": 8}, "split over 1, 2, 4, 8"),
        ({"drafting": -1}, "0 switches it off"),
        ({"drafting": 99}, "0 switches it off"),
        ({"headroom": 2}, "headroom"),
        ({"headroom": NAN}, "headroom"),
        ({"spares": -1}, "spares"),
        ({"day": "mars"}, "day is one of"),
        ({"day": (1.0, 2.0)}, "24 weights"),
        ({"kv_dtype": "foo"}, "no format `foo`"),
        ({"engine_version": "newest"}, "is no version"),
        ({"media": Media(images=-1)}, "below 0"),
        ({"media": Media(images=100_000)}, "pictures"),
        ({"media": Media(audios=1)}, "takes no audio"),
    ],
)
def test_a_question_that_cannot_be_is_refused_with_what_to_write(asked, said):
    with pytest.raises(Refused, match=said):
        plan("31B", "H100", **asked)


def test_when_all_is_too_dear_the_cheapest_is_shown_with_its_price():
    found = plan("31B", "H100", None, users=100, usd_month=1)
    bills = [one.bill.usd_month for one in found.options if one.layout.memory.fits]
    assert found.best.bill.usd_month == min(bills) and not found.best.meets
    assert any(f"the least is ${min(bills):,.0f} a month" in note for note in found.notes)
