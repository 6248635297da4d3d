"""What the file asks of models that they are not."""

from __future__ import annotations

import pytest

from gemstead.catalog.check import facts_of, read
from gemstead.spec.fault import SpecError
from gemstead.spec.model import ModelSpec

WRONG = [
    ("models:\n- name: gemma-4-e2b\n  context: 200000",
     "gemstead.yaml:3 models[0].context: 200000 is more than Gemma 4 E2B allows (131072)"),
    ("models:\n- name: gemma-4-9b",
     "gemstead.yaml:2 models[0].name: There is no Gemma 4 9B. The nearest sizes are E4B and 12B: "
     "write `gemma-4-e4b` or `gemma-4-12b`"),
    ("models:\n- name: mine", "gemstead.yaml:2 models[0].name: `mine` is not a Gemma 4"),
    ("models:\n- name: gemma-4-e2b\n- name: gemma4:e2b",
     "gemstead.yaml:3 models[1].name: `gemma4:e2b` is Gemma 4 E2B, which models[0] is already"),
    ("models:\n- name: gemma-4-e2b\n- name: gemma-4-31b\n  aliases:\n  - gemma4:e2b",
     "gemstead.yaml:5 models[1].aliases[0]: `gemma4:e2b` means Gemma 4 E2B, which models[0] is"),
    ("models:\n- name: gemma-4-e2b\n  file: x.gguf\n  context: 200000", "is more than Gemma 4 E2B allows"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_a_model_is_not_is_said_at_its_line(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    (line,) = str(caught.value).splitlines()
    assert said in line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models: [{name: gemma4:31b, context: 262144}]",
        "models: [{name: mine, file: mine.gguf, context: 262144}]",
        "models: [{name: big, endpoints: [{url: 'http://h:1'}]}]",
        "models: [{name: gemma-4-e2b, aliases: [gemma4:e2b, gpt-4o]}]",
        "models: [{name: ./gemma-4-9b.gguf}]",
    ],
)
def test_what_can_run_is_accepted(text: str) -> None:
    read(text)


def test_all_that_is_wrong_is_said_together() -> None:
    with pytest.raises(SpecError) as caught:
        read("gateway: {keys: off, listen: ':1'}\nmodels:\n- {name: gemma-4-e2b, context: 300000}")
    assert [fault.field for fault in caught.value.faults] == ["gateway.keys", "models[0].context"]


def test_the_option_is_named_when_it_is_at_fault() -> None:
    with pytest.raises(
        SpecError, match=r"^--set models\[0\].context: 200000 is more than Gemma 4 E2B allows"
    ):
        read("", overrides=["models[0].context=200000"])


def test_a_model_that_only_the_file_knows_has_no_facts() -> None:
    assert facts_of(ModelSpec(name="mine", file="x")) is None
    known = facts_of(ModelSpec(name="gemma4:12b"))
    assert known is not None
    assert known.size == "12B"
