"""What people call the models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.models import ModelFacts, models
from gemstead.catalog.names import aliases, canonical, find, is_gguf_path
from gemstead.refused import Reason, Refused

KNOWN = [
    ("gemma-4-e2b", "gemma-4-e2b"),
    ("gemma4:e2b", "gemma-4-e2b"),
    ("google/gemma-4-E2B-it", "gemma-4-e2b"),
    ("google/gemma-4-E2B", "gemma-4-e2b"),
    ("Gemma 4 E2B", "gemma-4-e2b"),
    ("  gemma_4_e2b_it ", "gemma-4-e2b"),
    ("gemma4:e2b-it-q4_K_M", "gemma-4-e2b"),
    ("gemma4:e2b-nvfp4", "gemma-4-e2b"),
    ("hf.co/unsloth/gemma-4-E2B-it-GGUF:UD-Q4_K_XL", "gemma-4-e2b"),
    ("https://huggingface.co/google/gemma-4-E2B-it-qat-q4_0-gguf", "gemma-4-e2b"),
    ("bartowski/google_gemma-4-E2B-it-GGUF", "gemma-4-e2b"),
    ("gemma4", "gemma-4-e4b"),
    ("gemma4:latest", "gemma-4-e4b"),
    ("google/gemma-4-E4B-it-qat-w4a16-ct", "gemma-4-e4b"),
    ("gemma4:12b", "gemma-4-12b"),
    ("ggml-org/gemma-4-12b-it-GGUF", "gemma-4-12b"),
    ("gemma4:26b", "gemma-4-26b-a4b"),
    ("gemma-4-26b-a4b", "gemma-4-26b-a4b"),
    ("gemma4:26b-a4b-it-q8_0", "gemma-4-26b-a4b"),
    ("nvidia/Gemma-4-26B-A4B-NVFP4", "gemma-4-26b-a4b"),
    ("cyankiwi/gemma-4-26B-A4B-it-AWQ-4bit", "gemma-4-26b-a4b"),
    ("unsloth/gemma-4-31B-it-GGUF", "gemma-4-31b"),
    ("RedHatAI/gemma-4-31B-it-FP8-block", "gemma-4-31b"),
    ("nvidia/Gemma-4-31B-IT-NVFP4", "gemma-4-31b"),
]
REFUSED = [
    ("gemma-4-9b", "There is no Gemma 4 9B. The nearest sizes are E4B and 12B: write `gemma-4-e4b` or `gemma-4-12b`."),
    ("google/gemma-4-27b-it", "There is no Gemma 4 27B. The nearest sizes are 26B-A4B and 31B:"),
    ("gemma4:27b", "There is no Gemma 4 27B."),
    ("gemma-4-2b", "There is no Gemma 4 2B. The nearest size is E2B: write `gemma-4-e2b`."),
    ("gemma-4-4b-it", "There is no Gemma 4 4B. The nearest size is E4B: write `gemma-4-e4b`."),
    ("gemma-4-1b", "The nearest size is E2B"),
    ("gemma-4-70b", "The nearest size is 31B"),
    ("gemma-4-26b-a8b", "There is no Gemma 4 26B-A8B. The nearest size is 26B-A4B"),
    ("gemma-4-it", "names no size of Gemma 4. The sizes are E2B, E4B, 12B, 26B-A4B and 31B"),
    ("gemma-4-e2b-abliterated", "is not Gemma 4 E2B itself (`abliterated`)"),
    ("google/gemma-4-31B-it-assistant", "is the draft model that speeds up Gemma 4"),
    ("gema-4-e2b", "There is no model `gema-4-e2b`. The nearest size is E2B"),
    ("llama3", "`llama3` is not a Gemma 4"),
    ("google/gemma-3-27b-it", "is not a Gemma 4"),
    ("gemma3n:e2b", "is not a Gemma 4"),
    ("qwen3:8b", "Any other model runs with `file`"),
    ("", "No model is named. The sizes are"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "means"), KNOWN)
def test_a_name_is_understood_as_people_write_it(name: str, means: str) -> None:
    assert canonical(name) == means


@pytest.mark.parametrize(("name", "said"), REFUSED)
def test_what_does_not_exist_is_refused_with_what_does(name: str, said: str) -> None:
    with pytest.raises(Refused) as caught:
        find(name)
    assert caught.value.reason is Reason.UNKNOWN_MODEL
    assert said in caught.value.message


@pytest.mark.parametrize("facts", models(), ids=lambda facts: facts.size)
def test_every_alias_means_its_model_and_no_other(facts: ModelFacts) -> None:
    assert aliases(facts)[0] == facts.name
    assert {find(alias) for alias in aliases(facts)} == {facts}
    others = {alias.casefold() for other in models() if other is not facts for alias in aliases(other)}
    assert not others & {alias.casefold() for alias in aliases(facts)}


packings = st.lists(st.sampled_from(["it", "qat", "q4_0", "Q4_K_M", "GGUF", "bf16"]), max_size=3)


@given(
    st.sampled_from(models()),
    st.sampled_from(["", "google/", "unsloth/", "hf.co/ggml-org/"]),
    st.sampled_from(["-", "_", " ", ":", "--"]),
    packings,
    st.booleans(),
)
def test_owner_case_separators_and_packing_do_not_matter(
    facts: ModelFacts, owner: str, separator: str, packing: list[str], loud: bool
) -> None:
    name = separator.join(["gemma", "4", facts.size, *packing])
    assert find(owner + (name.upper() if loud else name.lower())) is facts


@given(st.text(max_size=200))
def test_any_text_is_a_model_or_is_refused_with_a_sentence(name: str) -> None:
    try:
        assert find(name) in models()
    except Refused as refused:
        assert refused.message.endswith(".")
        assert any(facts.name in refused.message for facts in models())


@pytest.mark.parametrize(
    ("name", "path"), [("./a.gguf", True), ("A.GGUF ", True), ("unsloth/gemma-4-E2B-it-GGUF", False)]
)
def test_a_path_of_a_model_file_is_told_from_a_name(name: str, path: bool) -> None:
    assert is_gguf_path(name) is path
