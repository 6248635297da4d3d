"""Versions compare as their engines mean them, and engines know from which one they serve what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.engine_versions import engine_facts, engines
from gemstead.catalog.versions import check, parsed, within
from gemstead.refused import Refused


@pytest.mark.parametrize(
    ("version", "bounds", "inside"),
    [
        ("0.33.0", ">=0.26", True),
        ("0.26", ">=0.26.0", True),
        ("0.26.0rc1", ">=0.26", False),
        ("0.5.13.post1", ">0.5.13", True),
        ("0.5.10.post1", "<0.5.11", True),
        ("v0.24.3", "==0.24.*", True),
        ("0.25.0", "==0.24.*", False),
        ("0.25.0", "!=0.24.*", True),
        ("0.32.0+cpu", "==0.32.0", True),
        ("2026.10.11549", ">=9000", True),
        ("b8999", "<9000", True),
        ("0.21", ">=0.19,<0.20", False),
        ("nightly", ">=0.1", False),
        ("nightly", "", True),
    ],
)
def test_a_version_lies_in_a_range(version: str, bounds: str, inside: bool) -> None:
    assert within(version, bounds) is inside


@pytest.mark.parametrize("bounds", ["0.21", ">=", "~=0.21", ">=0.21;<0.25", ">=x"])
def test_a_range_that_is_not_one_is_said(bounds: str) -> None:
    assert "write it like >=0.21" in check(bounds)
    with pytest.raises(ValueError, match="no bound"):
        within("0.21", bounds)


numbers = st.lists(st.integers(0, 999), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(numbers, numbers)
def test_of_two_versions_one_is_older_or_they_are_the_same(one: str, other: str) -> None:
    assert [within(one, f"{sign}{other}") for sign in ("<", "==", ">")].count(True) == 1
    assert within(one, f">={other}") is not within(one, f"<{other}")


@given(st.text(max_size=20))
def test_any_text_can_be_asked_for_a_version(text: str) -> None:
    version = parsed(text)
    assert version is None or all(isinstance(part, int) for part in version)


@pytest.mark.parametrize(
    ("version", "model", "features", "least"),
    [
        ("0.19.0", "31B", (), "0.19.1"),
        ("0.20.2", "31B", ("mtp",), "0.21.0"),
        ("0.22.0", "12B", (), "0.23.0"),
        ("0.21.0", "31B", ("mtp",), None),
        ("0.33.0", "12B", ("mtp",), None),
        ("nightly", "12B", ("mtp",), None),
        ("", "12B", (), None),
    ],
)
def test_a_version_that_is_too_old_is_said(
    version: str, model: str, features: tuple[str, ...], least: str | None
) -> None:
    fault = engine_facts("vllm").fault_of(version, model, features)
    assert (f"{least} is the first" in fault) if least else fault == ""


@pytest.mark.parametrize(
    ("said", "meant"), [("vLLM", "vllm"), ("llama.cpp", "llamacpp"), ("TensorRT-LLM", "tensorrt_llm")]
)
def test_an_engine_is_found_by_its_name(said: str, meant: str) -> None:
    assert engine_facts(said).engine == meant


def test_an_engine_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match="Did you mean `sglang`"):
        engine_facts("sgl")


def test_the_newest_seen_serves_everything() -> None:
    for facts in engines():
        for feature in facts.least:
            assert not facts.latest_seen or not facts.fault_of(facts.latest_seen, "", (feature,))
