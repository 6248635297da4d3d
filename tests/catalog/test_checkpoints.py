"""Checkpoints are as large as their files, and a short name means one that engine and card can load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.accelerators import accelerator, accelerators
from gemstead.catalog.checkpoints import Checkpoint, checkpoint, checkpoints, every
from gemstead.catalog.engine_versions import engines
from gemstead.catalog.models import ModelFacts, models
from gemstead.refused import Refused

each = pytest.mark.parametrize("one", every(), ids=lambda one: f"{one.model}-{one.format}")
SIZES = [facts.size for facts in models()]


@pytest.mark.parametrize(
    ("said", "model", "engine", "card", "repo"),
    [
        ("INT4", "31B", "vllm", "H100", "google/gemma-4-31B-it-qat-w4a16-ct"),
        ("INT4", "26B-A4B", "vllm", "L4", "cyankiwi/gemma-4-26B-A4B-it-AWQ-4bit"),  # Google publishes none
        ("INT4", "31B", "llamacpp", "T4", "google/gemma-4-31B-it-qat-q4_0-gguf"),
        ("FP8", "31B", "vllm", "MI300X", "RedHatAI/gemma-4-31B-it-FP8-block"),
        ("FP8", "26B-A4B", "sglang", "A100", "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic"),
        ("BF16", "12B", "vllm", "B200", "google/gemma-4-12B-it"),
        ("NVFP4", "31B", "vllm", "B200", "nvidia/Gemma-4-31B-IT-NVFP4"),
        ("awq", "31B", "vllm", "A100", "cyankiwi/gemma-4-31B-it-AWQ-4bit"),
        ("gemma-4-31b-it-qat-w4a16-ct", "gemma-4-31b", "vllm", "H100", "google/gemma-4-31B-it-qat-w4a16-ct"),
        ("gguf", "E2B", "embedded", "cpu", "google/gemma-4-E2B-it-qat-q4_0-gguf"),
    ],
)
def test_a_short_name_means_what_the_engine_loads_on_the_card(
    said: str, model: str, engine: str, card: str, repo: str
) -> None:
    assert checkpoint(said, model, engine, accelerator(card)).repo == repo


@pytest.mark.parametrize(
    ("said", "model", "engine", "card", "why"),
    [
        ("BF16", "31B", "vllm", "T4", "needs compute capability 8.0; NVIDIA T4 16GB has 7.5"),
        ("NVFP4", "31B", "vllm", "MI300X", "it needs NVIDIA. What loads there: google/gemma-4-31B-it (bf16)"),
        ("NVFP4", "E2B", "vllm", "B200", "Widths: bf16, int4, fp8"),
        ("BF16", "31B", "llamacpp", "H100", "it runs in sglang, tensorrt_llm, tgi, transformers, vllm"),
        ("FP16", "31B", "vllm", "H100", "did you mean `"),
        ("INT4", "27B", "vllm", "H100", "No checkpoint of `27B`"),
    ],
)
def test_what_does_not_load_is_refused_with_what_does(
    said: str, model: str, engine: str, card: str, why: str
) -> None:
    with pytest.raises(Refused) as refused:
        checkpoint(said, model, engine, accelerator(card))
    assert why in refused.value.message


def test_nvidias_nvfp4_of_31b_is_not_nineteen_gib() -> None:
    assert checkpoint("NVFP4", "31B").weights_gib == 31.18


@pytest.mark.parametrize("facts", models(), ids=lambda facts: facts.size)
def test_every_size_has_16_and_8_and_4_bits_and_a_gguf(facts: ModelFacts) -> None:
    widths = {one.bits for one in checkpoints(facts.size)}
    assert {"bf16", "int8", "fp8", "int4"} <= widths
    gguf = checkpoint("gguf-q4_0", facts.size, "llamacpp")
    assert gguf.file == facts.gguf.file
    assert gguf.weights_bytes == pytest.approx(facts.gguf.bytes, rel=0.002)
    assert gguf.repo == facts.gguf.repo


@each
def test_the_bytes_are_what_the_tensors_allow(one: Checkpoint) -> None:
    """No checkpoint is smaller than its embeddings at 16 bits with the rest at its width, none larger than 16 bits."""
    shape = next(facts for facts in models() if facts.size == one.model).shape
    whole = shape.all_b * 2e9 / 2**30
    assert 0.2 * whole < one.weights_gib < 1.05 * whole
    if one.disk_gb and not one.quantization and one.weights_from == "files" and not one.projector_gib:
        assert one.weights_gib == pytest.approx(one.disk_gb * 1e9 / 2**30, rel=0.01)


@each
def test_the_facts_of_a_checkpoint_are_whole(one: Checkpoint) -> None:
    assert one.source
    assert one.weights_from in ("log", "files", "computed")
    assert set(one.engines) <= {facts.engine for facts in engines()}
    assert one.model in SIZES
    assert one.vendors
    # what the engine is told to load is a name that a hub or Ollama knows
    assert " " not in one.repo or not one.engines


def test_a_logged_size_confirms_the_computed_ones() -> None:
    """26B-A4B FP8 was logged; computed as the others are, it comes out within two percent."""
    shape = next(facts for facts in models() if facts.size == "26B-A4B").shape
    assert shape.moe is not None
    eight_bits = shape.moe.experts_b + 1.110 + 0.535
    computed = (eight_bits + 2 * shape.embed_b + 2 * shape.vision_b) * 1e9 / 2**30
    assert computed == pytest.approx(checkpoint("FP8", "26B-A4B").weights_gib, rel=0.02)


@given(
    st.sampled_from(SIZES),
    st.sampled_from(["INT4", "INT8", "FP8", "BF16", "NVFP4"]),
    st.sampled_from(["vllm", "sglang", "llamacpp", "ollama"]),
    st.sampled_from(accelerators()),
)
def test_what_is_given_loads_and_what_does_not_is_refused(
    size: str, width: str, engine: str, card: object
) -> None:
    try:
        found = checkpoint(width, size, engine, card)  # type: ignore[arg-type]
    except Refused as refused:
        assert refused.message
        return
    assert engine in found.engines
    assert not found.fault_on(card)  # type: ignore[arg-type]
    assert found.bits == width.lower()
