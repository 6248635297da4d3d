"""The facts on the models are whole, and agree with one another."""

from __future__ import annotations

import re

import pytest

from gemstead.catalog.models import ModelFacts, models
from gemstead.plan.first_model import CONTEXTS, SHARE, fit, needed_bytes
from gemstead.spec.model import ModelSpec

each = pytest.mark.parametrize("facts", models(), ids=lambda facts: facts.size)


def test_there_are_five_sizes_smallest_first() -> None:
    assert [facts.size for facts in models()] == ["E2B", "E4B", "12B", "26B-A4B", "31B"]
    sizes = [facts.gguf.bytes for facts in models()]
    assert sizes == sorted(sizes)


def test_the_default_of_the_file_is_the_smallest() -> None:
    assert models()[0].name == ModelSpec().name


def test_the_default_download_is_named_exactly() -> None:
    gguf = models()[0].gguf
    assert (gguf.repo, gguf.file) == ("google/gemma-4-E2B-it-qat-q4_0-gguf", "gemma-4-E2B_q4_0-it.gguf")
    assert gguf.projector_file == "gemma-4-E2B-it-mmproj.gguf"


@each
def test_a_download_can_be_checked(facts: ModelFacts) -> None:
    gguf = facts.gguf
    assert re.fullmatch(r"[0-9a-f]{40}", gguf.revision)
    assert gguf.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", gguf.sha256)
    assert gguf.projector_sha256 is None or re.fullmatch(r"[0-9a-f]{64}", gguf.projector_sha256)
    assert gguf.projector_file is not None
    assert gguf.file.endswith(".gguf")
    assert facts.size in gguf.repo


@each
def test_a_four_bit_file_is_as_large_as_its_parameters_say(facts: ModelFacts) -> None:
    """Q4_0 is 4.5 bits a weight; embeddings are kept at more, which counts most in the small models."""
    bits = facts.gguf.bytes * 8 / (facts.parameters_b * 1e9)
    assert 4.2 < bits < 5.6


@each
def test_modalities_beyond_text_have_a_projector(facts: ModelFacts) -> None:
    assert "text" in facts.modalities
    assert "image" in facts.modalities
    assert facts.licence == "apache-2.0"


@pytest.mark.parametrize(
    ("gib", "cpus", "name"),
    [
        (4, 2, "gemma-4-e2b"),
        (8, 4, "gemma-4-e2b"),
        (16, 8, "gemma-4-e4b"),
        (64, 16, "gemma-4-26b-a4b"),
        (64, 2, "gemma-4-e2b"),  # it would fit, but two CPUs answer too slowly with it
    ],
)
def test_a_machine_gets_a_model_that_it_holds(gib: int, cpus: int, name: str) -> None:
    assert fit(gib << 30, cpus).facts.name == name


def test_a_download_that_the_disk_does_not_hold_is_not_chosen() -> None:
    assert fit(64 << 30, 16, disk_free_bytes=10 << 30).facts.name == "gemma-4-e4b"
    assert fit(64 << 30, 16, disk_free_bytes=0).facts.name == "gemma-4-e2b"


@pytest.mark.parametrize("gib", [2, 6, 8, 12, 24, 32, 48, 96, 512])
@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_what_was_fitted_fits_or_is_called_tight(gib: int, cpus: int) -> None:
    chosen = fit(gib << 30, cpus)
    assert chosen.context in CONTEXTS
    assert chosen.context <= chosen.facts.context_tokens
    assert chosen.threads == cpus
    fits = needed_bytes(chosen.facts, chosen.context, chosen.slots) <= (gib << 30) * SHARE
    assert fits is not chosen.tight


@each
def test_the_shape_gives_the_cache_that_is_written_down(facts: ModelFacts) -> None:
    shape = facts.shape  # keys and values, two bytes each
    assert facts.cache_bytes_per_token == shape.kv_layers_full * shape.kv_heads_full * shape.head_dim_full * 4
    windowed = shape.kv_layers_sliding * shape.kv_heads_sliding * shape.head_dim_sliding * 4
    assert facts.windowed_cache_bytes_per_token == windowed
    assert facts.window_tokens == shape.window


@each
def test_the_shape_adds_up(facts: ModelFacts) -> None:
    shape = facts.shape
    period = 5 if facts.size == "E2B" else 6
    assert shape.layers == shape.layers_full * period
    assert shape.kv_layers_full <= shape.layers_full
    assert shape.all_b == pytest.approx(shape.text_b + shape.vision_b + shape.audio_b, abs=0.02)
    parts = shape.active_no_embed_b + shape.embed_b
    assert shape.active_with_lm_head_b == pytest.approx(parts, abs=0.002)
    if shape.moe is None:
        assert shape.text_b == pytest.approx(parts + shape.per_layer_embedding_b, abs=0.002)
    else:  # eight of 128 experts are read for a token
        idle = shape.moe.experts_b * (1 - shape.moe.top_k / shape.moe.experts)
        assert shape.text_b - idle == pytest.approx(shape.active_with_lm_head_b, abs=0.02)
    assert facts.weights_bf16.computed_gib == pytest.approx(shape.all_b * 2e9 / 2**30, rel=0.001)
    assert 0 <= facts.weights_bf16.vllm_log_gib / facts.weights_bf16.computed_gib - 1 < 0.035
    assert (shape.all_b, shape.active_with_lm_head_b) == (
        facts.parameters_b,
        pytest.approx(facts.active_parameters_b, abs=0.001),
    )


@each
def test_the_experts_of_a_mixture_are_counted(facts: ModelFacts) -> None:
    moe = facts.shape.moe
    assert (moe is not None) == (facts.size == "26B-A4B")
    if moe:  # gate, up and down of each expert in every layer
        tensors = facts.shape.layers * moe.experts * 3 * facts.shape.hidden * moe.expert_intermediate
        assert tensors / 1e9 == pytest.approx(moe.experts_b, rel=0.01)


@each
def test_a_drafter_is_as_large_as_its_parameters(facts: ModelFacts) -> None:
    drafter = facts.assistant
    assert drafter.repo == f"{facts.repo}-assistant"
    assert drafter.mib_bf16 == pytest.approx(drafter.parameters_m * 2e6 / 2**20, rel=0.01)
    least, most = drafter.draft_tokens
    assert 1 <= least <= most <= 8


def test_31b_at_32k_is_two_and_a_half_gib_and_windows() -> None:
    facts = models()[-1]
    assert facts.cache_bytes_per_token * 32_768 == 2.5 * 2**30
    every_layer = (
        2
        * 2
        * (
            facts.shape.kv_layers_sliding * facts.shape.kv_heads_sliding * facts.shape.head_dim_sliding
            + facts.shape.kv_layers_full * facts.shape.kv_heads_full * facts.shape.head_dim_full
        )
    )
    assert every_layer == 901_120  # what a cache without windows costs: eleven times as much
