"""The ledger names what a launch would meet, and nothing that it would not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.accelerators import accelerator, accelerators
from gemstead.catalog.checkpoints import checkpoint
from gemstead.catalog.engine_versions import engines
from gemstead.catalog.known_bad import SEVERITIES, KnownBad, consult, known_bad, ledger
from gemstead.catalog.known_bad import given as read_flags
from gemstead.catalog.models import models
from gemstead.catalog.versions import check, within

DRAFTS = ["--speculative-config", '{"model": "google/gemma-4-31B-it-assistant", "num_speculative_tokens": 4}']


def met(*words: Any, **more: Any) -> dict[str, KnownBad]:
    return {entry.id: entry for entry in consult(*words, **more)}


@pytest.mark.parametrize(
    ("launch", "more", "entry"),
    [
        (("vllm", "0.25.1", "31B", "H100", DRAFTS), {}, "vllm-0251-mtp-v1"),
        (("vllm", "0.20.0", "31B", "H100", DRAFTS), {}, "vllm-mtp-too-old"),
        (("vllm", "0.22.1", "12B", "H100", []), {}, "vllm-12b-too-old"),
        (("vllm", "0.4.0", "31B", "H100", []), {}, "vllm-too-old"),
        (("vllm", "0.33.0", "31B", "RTX 3090", ["--kv-cache-dtype=fp8"]), {}, "vllm-kv-fp8-sm86"),
        (("vllm", "0.33.0", "31B", "RTX 3090", ["--kv-cache-dtype", "fp8_e4m3"]), {}, "vllm-kv-fp8-sm86"),
        (("vllm", "0.33.0", "E2B", "T4", []), {}, "vllm-turing"),
        (("vllm", "0.33.0", "31B", "5090", ["--kv-cache-dtype", "nvfp4"]), {}, "vllm-kv-nvfp4-sm120"),
        (("vllm", "0.24.0", "31B", "H100", [*DRAFTS, "--enable-auto-tool-choice"]), {}, "vllm-mtp-tools"),
        (("vllm", "0.33.0", "31B", "H100", ["--dtype", "float16"]), {}, "vllm-float16"),
        (("vllm", "0.33.0", "31B", "H100", ["--quantization=int8"]), {}, "vllm-quantization-name"),
        (("vllm", "0.32.0", "31B", "H100", ["--swap-space", "4"]), {}, "vllm-removed-flags"),
        (
            (
                "vllm",
                "0.33.0",
                "31B",
                "H100",
                ["--kv-transfer-config", '{"kv_connector":"LMCacheConnectorV1"}'],
            ),
            {},
            "vllm-connector-without-hybrid",
        ),
        (
            ("vllm", "0.33.0", "31B", "H100", ["--limit-mm-per-prompt", '{"image": 0, "audio": 0}']),
            {},
            "vllm-video-left-on",
        ),
        (("vllm", "0.32.0", "31B", "H100", ["--limit-mm-per-prompt", "image=4"]), {}, "vllm-mm-limit-form"),
        (
            ("vllm", "0.27.1", "31B", "GB10", []),
            {"beside": {"transformers": "5.15.2"}},
            "vllm-0271-transformers-515",
        ),
        (
            ("vllm", "0.33.0", "31B", "H100", []),
            {"env": {"VLLM_GPU_MEMORY_UTILIZATION": "0.85"}},
            "vllm-variables-not-read",
        ),
        (
            ("vllm", "0.33.0", "31B", "H100", []),
            {"env": {"VLLM_SERVER_DEV_MODE": "1"}},
            "vllm-sleep-dev-mode",
        ),
        (("vllm", "0.33.0", "E2B", "v6e", []), {}, "vllm-tpu-hybrid"),
        (("vllm", "0.33.0", "31B", "v6e", ["--tensor-parallel-size", "2"]), {}, "vllm-tpu-v6e-chips"),
        (("vllm", "0.33.0", "31B", "H100", []), {}, "vllm-media-fetch"),
        (("sglang", "0.5.10.post1", "31B", "H100", []), {}, "sglang-too-old"),
        (("sglang", "0.5.23", "E4B", "MI300X", []), {}, "sglang-amd-aiter"),
        (("sglang", "0.5.23", "31B", "H100", ["--enable-lora"]), {}, "sglang-lora"),
        (("embedded", "2026.10.11549", "E2B", "cpu", []), {}, "llamacpp-thinking-on"),
        (("ollama", "0.21.0", "E4B", "L4", []), {}, "ollama-context"),
        (("tensorrt_llm", "", "E4B", "L4", []), {}, "trtllm-l4"),
        (("transformers", "5.23.0", "31B", "H100", []), {}, "transformers-5230-assistant"),
        (("litellm", "1.82.8", None, None, []), {}, "litellm-malware"),
    ],
)
def test_a_launch_that_went_wrong_for_others_is_named(
    launch: tuple[Any, ...], more: dict[str, Any], entry: str
) -> None:
    engine, version, model, card, flags = launch
    found = met(engine, version, model, accelerator(card) if card else None, flags, **more)
    assert entry in found
    assert found[entry].symptom
    assert found[entry].remedy


@pytest.mark.parametrize(
    ("launch", "more", "entry"),
    [
        (("vllm", "0.33.0", "31B", "H100", DRAFTS), {}, "vllm-0251-mtp-v1"),
        (("vllm", "0.25.1", "31B", "H100", []), {}, "vllm-0251-mtp-v1"),
        (
            ("vllm", "0.25.1", "31B", "H100", DRAFTS),
            {"env": {"VLLM_USE_V2_MODEL_RUNNER": "1"}},
            "vllm-0251-mtp-v1",
        ),
        (("vllm", "0.33.0", "31B", "H100", ["--kv-cache-dtype=fp8"]), {}, "vllm-kv-fp8-sm86"),
        (("vllm", "0.33.0", "31B", "H100", ["--dtype", "bfloat16"]), {}, "vllm-float16"),
        (("vllm", "0.33.0", "31B", "H100", DRAFTS), {}, "vllm-mtp-wrong-drafter"),
        (
            (
                "vllm",
                "0.33.0",
                "31B",
                "H100",
                ["--limit-mm-per-prompt", '{"image": 0, "audio": 0, "video": 0}'],
            ),
            {},
            "vllm-video-left-on",
        ),
        (
            ("vllm", "0.27.1", "31B", "H100", []),
            {"beside": {"transformers": "5.8.1"}},
            "vllm-0271-transformers-515",
        ),
        (("sglang", "0.5.23", "E4B", "H100", []), {}, "sglang-amd-aiter"),
        (("sglang", "0.5.23", "E4B", "MI300X", []), {"env": {"SGLANG_USE_AITER": "0"}}, "sglang-amd-aiter"),
        (("litellm", "1.82.9", None, None, []), {}, "litellm-malware"),
    ],
)
def test_a_launch_that_differs_in_one_thing_is_left_alone(
    launch: tuple[Any, ...], more: dict[str, Any], entry: str
) -> None:
    engine, version, model, card, flags = launch
    assert entry not in met(engine, version, model, accelerator(card) if card else None, flags, **more)


def test_a_checkpoint_that_a_card_cannot_load_is_named() -> None:
    fp8 = checkpoint("FP8", "31B")
    assert "vllm-fp8-gibberish" in met("vllm", "0.33.0", "31B", flags=(), checkpoint=fp8)
    assert "vllm-fp8-gibberish" not in met("vllm", "0.33.0", "31B", checkpoint=checkpoint("BF16", "31B"))


def test_an_unknown_version_is_perhaps_one_of_the_bad() -> None:
    found = met("vllm", "", "12B")
    assert not found["vllm-12b-too-old"].certain
    assert not found["vllm-12b-too-old"].blocks
    assert met("vllm", "0.22.0", "12B")["vllm-12b-too-old"].blocks
    assert not met("vllm", "0.27.1")["vllm-0271-transformers-515"].certain


def test_the_usual_launch_of_today_is_stopped_by_nothing() -> None:
    flags = ["--max-model-len", "32768", "--gpu-memory-utilization", "0.90", "--language-model-only", *DRAFTS]
    for facts in models():
        found = consult("vllm", "0.33.0", facts, accelerator("RTX PRO 6000"), flags)
        assert not [entry for entry in found if entry.blocks or entry.severity in ("unsafe", "wrong")]


def test_flags_that_are_not_known_are_not_held_against_a_launch() -> None:
    assert "vllm-media-fetch" in met("vllm", "0.33.0", "31B", None, ())
    assert "vllm-media-fetch" not in met("vllm", "0.33.0", "31B")
    assert not [entry for entry in consult("llamacpp") if entry.flags or entry.any_flags or entry.without]


def test_slices_are_met_as_their_card_is() -> None:
    whole = consult("vllm", "0.24.0", "31B", accelerator("B200"))
    part = consult("vllm", "0.24.0", "31B", accelerator("b200/1g.45gb"))
    assert [entry.id for entry in whole] == [entry.id for entry in part]


def test_the_worst_comes_first() -> None:
    found = consult("vllm", "", "31B", accelerator("T4"), ["--dtype=half"], env={"VLLM_SERVER_DEV_MODE": "1"})
    order = [SEVERITIES.index(entry.severity) for entry in found]
    assert order == sorted(order)
    assert found[0].severity == "unsafe"
    assert known_bad is consult


def test_every_entry_is_whole_and_names_what_exists() -> None:
    cards = {name for card in accelerators() for name in (card.id, card.vendor, card.arch, f"sm_{card.sm}")}
    sizes = {facts.size for facts in models()} | {"DiffusionGemma-26B-A4B"}
    ids = [entry.id for entry in ledger()]
    assert len(ids) == len(set(ids))
    beside_engines = {"lmstudio", "litellm", "bifrost", "production-stack", "sglang-router", "xinference"}
    beside_engines |= {"llm-d-router", "gateway-api-inference-extension", "dynamo", "vllm-router"}
    for entry in ledger():
        assert entry.severity in SEVERITIES
        assert entry.issues, entry.id
        assert set(entry.cards) <= cards, entry.id
        assert set(entry.models) <= sizes, entry.id
        assert not check(entry.versions), entry.id
        assert entry.engine in {facts.engine for facts in engines()} | beside_engines
        assert all(flag.startswith("-") for flag in (*entry.flags, *entry.any_flags, *entry.without)), (
            entry.id
        )


def test_the_text_of_an_entry_says_what_to_do_and_where_it_is_told() -> None:
    text = str(met("vllm", "0.25.1", "31B", None, DRAFTS)["vllm-0251-mtp-v1"])
    assert text == (
        "drafting crashes on the V1 model runner (vllm-project/vllm#48848, vllm-project/vllm#49008): "
        "set VLLM_USE_V2_MODEL_RUNNER=1, or use another version"
    )


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--a", "1", "--b=2", "--c"], {"--a": "1", "--b": "2", "--c": ""}),
        (["-np", "4", "-1"], {"-np": "4 -1"}),
        (["--limit-mm-per-prompt.image", "4"], {"--limit-mm-per-prompt": "image 4"}),
        (["serve", "model", "--x=--y"], {"--x": "--y"}),
        ([], {}),
        ({"--a": 1}, {"--a": "1"}),
    ],
)
def test_words_are_read_as_flags(words: Any, flags: dict[str, str]) -> None:
    assert read_flags(words) == flags


@given(st.lists(st.text(max_size=12), max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_any_words_and_versions_can_be_asked_about(words: list[str], version: str, model: str) -> None:
    for entry in consult("vllm", version, model, accelerator("l4"), words):
        assert entry.engine == "vllm"
        if entry.versions and entry.certain:
            assert within(version, entry.versions)
