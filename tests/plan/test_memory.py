"""Does it fit: promises that hold for every setup, and the cases that people get wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.catalog import names
from gemstead.catalog.accelerators import accelerator, accelerators, with_memory
from gemstead.catalog.checkpoints import checkpoint, every
from gemstead.plan import kv_vllm
from gemstead.plan.explained import explained
from gemstead.plan.memory import Setup, budget
from gemstead.plan.setup import GIB, visible_bytes
from gemstead.refused import Refused

SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")


def setup(size: str, form: str, card: str, **chosen: object) -> Setup:
    engine = str(chosen.get("engine", "vllm"))
    one = accelerator(card)
    return Setup(names.find(f"gemma-4-{size.lower()}"), checkpoint(form, size, engine, one), one, **chosen)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    form = draw(st.sampled_from([one for one in every() if one.engines]))
    engine = draw(st.sampled_from(form.engines))
    cards = [one for one in accelerators() if one.vendor != "cpu"]
    return Setup(
        names.find(f"gemma-4-{form.model.lower()}"),
        form,
        draw(st.sampled_from(cards)),
        tp=draw(st.sampled_from([1, 2, 4, 8])),
        engine=engine,
        version=draw(st.sampled_from(["", "0.20.0", "0.25.1", "0.26.0"])) if engine == "vllm" else "",
        context=draw(st.integers(1, 131_072)),
        kv_dtype=draw(st.sampled_from(["auto", "bf16", "fp8"])),
        batched_tokens=draw(st.none() | st.integers(256, 32_768)),
        drafter=draw(st.booleans()),
        vision=draw(st.booleans()),
        hybrid=draw(st.booleans()),
        requests=draw(st.none() | st.integers(1, 512)),
    )


@given(setups(), st.integers(1, 100_000))
def test_more_memory_never_fits_less(made, more_mib):
    larger = made.with_(accelerator=with_memory(made.accelerator, made.accelerator.memory_mib + more_mib))
    # A default may follow the card's size; the promise is about the same choice on both.
    same = {"batched_tokens": made.in_steps_of, "requests": made.at_once, "utilisation": 0.9}
    before, after = budget(made.with_(**same)), budget(larger.with_(**same))
    assert after.spare_bytes >= before.spare_bytes
    assert after.fits or not before.fits
    assert after.largest_context >= before.largest_context
    assert after.concurrent(made.length) >= before.concurrent(made.length)


@given(setups(), st.integers(1, 131_072), st.integers(1, 131_072))
def test_a_longer_context_never_raises_concurrency(made, one, other):
    found = budget(made)
    assert found.concurrency(max(one, other)) <= found.concurrency(min(one, other))
    assert found.decoding(max(one, other)) <= found.decoding(min(one, other))


@given(setups())
@settings(max_examples=60)
def test_what_fits_is_what_the_largest_context_says(made):
    found = budget(made)
    if found.faults:
        assert found.largest_context == 0
    elif made.engine in ("vllm", "sglang"):
        assert found.fits == (made.length <= found.largest_context)


@given(setups())
@settings(max_examples=40, deadline=None)
def test_the_cheapest_change_fits_and_changes_something(made):
    found = budget(made)
    change = found.cheapest_change
    if found.fits:
        assert change is None
    elif change:
        assert change.text
        assert budget(change.setup).fits
        assert change.setup.length == made.length


@given(setups())
def test_the_lines_add_up(made):
    found = budget(made)
    assert found.kv_pool_bytes == found.taken_bytes - sum(line.bytes for line in found.lines)
    assert all(line.formula and line.source for line in found.lines)


@given(setups())
def test_the_explanation_adds_up_and_names_its_sources(made):
    steps = {line.name: line for line in explained(budget(made))}
    assert all(line.formula and line.source for line in steps.values())
    names_ = list(steps)
    before = [steps[name].bytes for name in names_[: names_.index("cache pool")]]
    assert sum(before) == steps["cache pool"].bytes
    after = [steps[name].bytes for name in ("cache pool", "kept free", "longest request")]
    assert sum(after) == steps["spare"].bytes


@given(setups())
def test_a_smaller_cache_format_never_holds_less(made):
    assert budget(made.with_(kv_dtype="fp8")).needed_bytes <= budget(made.with_(kv_dtype="bf16")).needed_bytes


# 131,072 tokens of 31B at a share of 0.92 on one H100: a published manifest of a vendor, which cannot start.
MANIFEST = setup("31B", "BF16", "H100", context=131_072, utilisation=0.92)


def test_the_vendors_manifest_is_refused_with_what_fits():
    found = budget(MANIFEST)
    assert not found.fits
    assert found.spare_bytes < -10 * GIB
    assert dict(found.shorter) == pytest.approx({8192: 13_000, 4096: 55_000, 2496: 88_000}, rel=0.08)
    assert found.cheapest_change.text == "4096 batched tokens and an 8-bit cache (fp8)"
    assert "does not fit" in found.verdict()


def test_eight_bits_everywhere_hold_the_whole_context_twice_on_one_h100():
    found = budget(setup("31B", "FP8", "H100", kv_dtype="fp8"))
    assert found.fits
    assert 2.2 <= found.concurrency(262_144) <= 2.7


@pytest.mark.parametrize(
    ("form", "card", "chosen", "published", "ours"),
    [  # manifests that ask for far less than fits
        ("E4B", "L4", {"version": "0.24.0"}, 2_048, 131_072),
        ("E2B", "L4", {"version": "0.24.0"}, 1_024, 131_072),
        ("31B", "RTX PRO 6000", {"version": "", "utilisation": 0.9}, 51_200, 125_000),
    ],
)
def test_timid_manifests_are_corrected_upwards(form, card, chosen, published, ours):
    found = budget(setup(form, "BF16", card, **chosen))
    assert found.largest_context >= ours > published


def test_two_rtx_pro_6000_as_in_the_article_that_measured_them():
    """31B at 16 bits over two cards, a share of 0.90, text only, with its drafter: "~85" of each card was used."""
    chosen = {"tp": 2, "version": "0.21.0", "utilisation": 0.9, "drafter": True, "vision": False}
    found = budget(setup("31B", "BF16", "RTX PRO 6000", **chosen))
    assert found.fits
    assert found.used_bytes / GIB == pytest.approx(85, abs=1.5)
    assert 840_000 <= found.kv_tokens_reported <= 1_050_000
    assert 3.2 <= found.concurrency(262_144) <= 4.0


def test_a_budget_is_told_in_one_sentence():
    assert "fits with" in budget(setup("E2B", "BF16", "L4")).verdict()
    said = budget(setup("31B", "BF16", "L4", context=8_192)).verdict()
    assert "lacks" in said and "Fits with" in said


def test_a_connector_that_knows_no_windows_costs_eleven_times_the_cache():
    made = setup("31B", "BF16", "RTX PRO 6000", context=28_992)
    without = budget(made.with_(connector="LMCacheConnectorV1"))
    assert without.needed_bytes == 28_992 * 901_120
    assert not budget(made.with_(connector="LMCacheConnectorV1", context=65_536)).fits
    assert budget(made.with_(connector="OffloadingConnector", context=65_536)).fits
    change = budget(made.with_(connector="LMCacheConnectorV1", context=65_536)).cheapest_change
    assert "connector" in change.text


@pytest.mark.parametrize(
    ("size", "sliding", "full", "layers", "groups", "block_bytes"),
    [  # as vLLM lays them out on one card at 16 bits
        ("E2B", 32, 16, 3, 5, 98_304),
        ("E4B", 32, 16, 4, 6, 262_144),
        ("12B", 16, 64, 8, 6, 1_048_576),
        ("26B-A4B", 16, 32, 5, 6, 655_360),
        ("31B", 16, 32, 10, 6, 2_621_440),
    ],
)
def test_pages_and_groups(size, sliding, full, layers, groups, block_bytes):
    made = kv_vllm.layout(setup(size, "BF16", "H100"))
    assert (made.block_sliding, made.block_full, made.group_layers) == (sliding, full, layers)
    assert (made.groups, made.block_bytes) == (groups, block_bytes)


@pytest.mark.parametrize(
    ("size", "context", "pools"),
    [  # the smallest pool that admits one request, in GiB, at 2496, 4096, 8192 and 16384 tokens in flight
        ("E2B", 131_072, (0.79, 0.80, 0.85, 0.94)),
        ("E4B", 131_072, (2.12, 2.18, 2.33, 2.65)),
        ("12B", 262_144, (5.08, 5.57, 6.82, 9.32)),
        ("26B-A4B", 262_144, (5.67, 5.98, 6.76, 8.32)),
        ("31B", 262_144, (22.7, 23.9, 27.0, 33.3)),
    ],
)
def test_the_smallest_pool(size, context, pools):
    made = kv_vllm.layout(setup(size, "BF16", "H200"))
    ours = [made.request_bytes(context, ahead) / GIB for ahead in (2496, 4096, 8192, 16384)]
    assert ours == pytest.approx(pools, rel=0.005, abs=0.006)


def test_one_head_is_never_cut():
    one = kv_vllm.layout(setup("E2B", "BF16", "H100"))
    assert kv_vllm.layout(setup("E2B", "BF16", "H100", tp=4)).block_bytes == one.block_bytes
    assert kv_vllm.layout(setup("31B", "BF16", "H100", tp=4)).block_bytes * 4 == 2_621_440


def test_the_printed_size_has_three_meanings():
    made = setup("31B", "AWQ", "A100", context=131_072, utilisation=0.9, kv_pool_bytes=50 * GIB)
    old, middle, new = (
        budget(made.with_(version=version)).kv_tokens_reported for version in ("0.20.0", "0.25.1", "0.26.0")
    )
    assert old == pytest.approx(55_000, rel=0.01)  # issue #43308: "~55k" became "~525k" tokens
    assert middle == pytest.approx(525_000, rel=0.02)
    assert new < middle  # issue #49878: more is in flight


def test_an_old_versions_two_figures_agree():
    """kenrollins.github.io/gemma-forge: 31B NVFP4 on two L4, "10,432 tokens" and "3.58x" at 4,096 tokens."""
    made = setup("31B", "NVFP4", "L4", tp=2, version="0.20.0", kv_dtype="fp8", context=4_096, vision=False)
    blocks = 10_432 // kv_vllm.PAGE_TOKENS * kv_vllm.layout(made).groups
    pool = blocks * kv_vllm.layout(made).block_bytes
    assert kv_vllm.reported_tokens(made, pool) == 10_432
    assert kv_vllm.concurrency(made, pool, 4_096) == pytest.approx(3.58, abs=0.005)


def test_faults_are_said_whatever_the_memory():
    fp8_cache = budget(setup("31B", "INT4", "RTX 3090", kv_dtype="fp8", tp=4))
    assert not fp8_cache.fits and "8-bit floats" in fp8_cache.faults[0]
    slices = budget(setup("E2B", "BF16", "h100-sxm/1g.20gb", tp=2, context=8_192))
    assert "slices" in slices.faults[0]
    assert "heads" in budget(setup("E2B", "BF16", "H100", tp=3)).faults[0]
    assert "reads 131072" in budget(setup("E2B", "BF16", "H100", context=200_000)).faults[0]
    full = budget(setup("E2B", "BF16", "H100", utilisation=1.0))
    assert "leaves" in full.faults[0]


def test_switching_pictures_off_gives_their_towers_back():
    with_, without = (budget(setup("31B", "BF16", "H100", vision=on)) for on in (True, False))
    assert (with_.weights_bytes - without.weights_bytes) / 1e9 == pytest.approx(0.57 * 2, rel=0.01)


def test_weights_read_from_the_files_are_taken_at_their_word():
    made = setup("31B", "BF16", "H100", weights_bytes=20 * GIB, tp=2)
    assert budget(made).weights_bytes == 10 * GIB


def test_decoding_requests_hold_less_than_the_worst_case():
    found = budget(setup("31B", "BF16", "H200", context=32_768))
    assert found.decoding(8_192) > found.concurrent(8_192) >= 1


def test_a_spill_is_told_before_it_happens():
    """Ollama on an RTX 3090 with 15.1 GB free ran at an eighth of its speed: 26B's 4-bit file did not fit."""
    form = checkpoint("gemma4:26b", "26B-A4B", "ollama")
    free = with_memory(replace(accelerator("rtx-3090"), unified=True), 14_400)
    made = Setup(names.find("gemma-4-26b"), form, free, engine="ollama", context=4_096)
    assert not budget(made).fits
    assert budget(replace(made, accelerator=accelerator("rtx-3090"))).fits


def test_llamacpp_has_all_cells_at_start_for_every_slot():
    one = setup("12B", "INT4", "L4", engine="llamacpp", context=32_768)
    assert budget(one.with_(requests=4)).needed_bytes == 4 * budget(one).needed_bytes
    assert budget(one.with_(hybrid=False)).needed_bytes > 4 * budget(one).needed_bytes
    assert budget(one.with_(context=32_700)).needed_bytes == budget(one).needed_bytes  # cells are 256 tokens


def test_sglang_holds_more_with_a_smaller_sliding_pool():
    made = setup("31B", "FP8", "RTX PRO 6000", engine="sglang")
    assert budget(made.with_(swa_ratio=0.1)).kv_tokens_reported > 3 * budget(made).kv_tokens_reported
    assert not budget(made).fits
    assert "sliding pool" in budget(made).cheapest_change.text


def test_what_a_program_is_given_of_a_card():
    seen = {"rtx-pro-6000-server": 94.97, "h100-sxm": 79.10, "rtx-3090": 23.56, "l4": 21.95, "b200": 178.35}
    for card, gib in seen.items():
        assert visible_bytes(accelerator(card)) / GIB == pytest.approx(gib, abs=0.13)


@pytest.mark.parametrize(
    ("size", "form", "card", "fits"),
    [  # slices of cards, 8k tokens
        ("12B", "INT4", "rtx-pro-6000-server/1g.24gb", True),
        ("E4B", "BF16", "rtx-pro-6000-server/1g.24gb", True),
        ("31B", "FP8", "rtx-pro-6000-server/1g.24gb", False),
        ("26B-A4B", "FP8", "rtx-pro-6000-server/2g.48gb", True),
        ("31B", "NVFP4", "rtx-pro-6000-server/2g.48gb", True),
        ("E2B", "BF16", "h100-sxm/1g.10gb", False),
        ("E2B", "BF16", "h100-sxm/1g.20gb", True),
        ("12B", "INT4", "h100-sxm/1g.20gb", True),
        ("26B-A4B", "INT4", "h100-sxm/3g.40gb", True),
    ],
)
def test_slices(size, form, card, fits):
    assert budget(setup(size, form, card, context=8_192)).fits is fits


def test_the_smallest_slice_of_an_h100_holds_e2b_in_llamacpp_only():
    made = setup("E2B", "INT4", "h100-sxm/1g.10gb", engine="llamacpp", context=8_192)
    assert budget(made).fits


# The twenty questions: sizes by cards, contexts and widths, one card each, vLLM's newest and its defaults. `+` fits,
# `-` does not, `x`: no such checkpoint loads there. Contexts 8k, 32k, 256k (E2B and E4B: 128k, which is their longest).
CARDS = ("L4", "A100", "H100", "RTX PRO 6000", "B200", "MI300X")
SHEET = {
    ("E2B", "INT4"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("E2B", "FP8"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("E2B", "BF16"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("E4B", "INT4"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("E4B", "FP8"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("E4B", "BF16"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("12B", "INT4"): ("+++", "+++", "+++", "+++", "+++", "+++"),
    ("12B", "FP8"): ("++-", "+++", "+++", "+++", "+++", "+++"),
    ("12B", "BF16"): ("---", "+++", "+++", "+++", "+++", "+++"),
    ("26B-A4B", "INT4"): ("+--", "+++", "+++", "+++", "+++", "+++"),
    ("26B-A4B", "FP8"): ("---", "+++", "+++", "+++", "+++", "+++"),
    ("26B-A4B", "BF16"): ("---", "+++", "+++", "+++", "+++", "+++"),
    ("31B", "INT4"): ("---", "+++", "+++", "+++", "+++", "+++"),
    ("31B", "FP8"): ("---", "+++", "+++", "+++", "+++", "+++"),
    ("31B", "BF16"): ("---", "++-", "+--", "++-", "+++", "+++"),
}


def answer(size: str, form: str, card: str, context: int) -> str:
    facts = names.find(f"gemma-4-{size.lower()}")
    try:
        made = setup(size, form, card, context=min(context, facts.context_tokens))
    except Refused:
        return "x"
    return "+" if budget(made).fits else "-"


def row(size: str, form: str) -> tuple[str, ...]:
    return tuple("".join(answer(size, form, card, k * 1024) for k in (8, 32, 256)) for card in CARDS)


@pytest.mark.parametrize(("size", "form"), SHEET, ids="-".join)
def test_the_twenty_questions(size, form):
    assert row(size, form) == SHEET[size, form]


def test_the_sheet_is_complete():
    assert set(SHEET) == {(size, form) for size in SIZES for form in ("INT4", "FP8", "BF16")}


if __name__ == "__main__":
    for size in SIZES:
        for form in ("INT4", "FP8", "BF16"):
            print(f'    ("{size}", "{form}"): {row(size, form)!r},'.replace("'", '"'))
