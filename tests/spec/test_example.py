"""The file that `gemstead init` writes is valid, and so is every line of it that is commented out."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gemstead.spec.example import Fitted, commented
from gemstead.spec.load import parse

FITTED = Fitted(
    machine="8 CPUs and 15.5 GiB of memory",
    name="gemma-4-e2b",
    title="Gemma 4 E2B",
    download="4.3 GB",
    context=8192,
    longest_context=131072,
    slots=4,
    threads=8,
    others=("gemma-4-e4b  5.2 GB",),
)


def test_the_file_says_what_was_fitted() -> None:
    model = parse(commented(FITTED)).models[0]
    assert (model.name, model.context, model.slots, model.threads) == ("gemma-4-e2b", 8192, 4, 8)


def test_an_editor_finds_the_schema() -> None:
    assert commented(FITTED).splitlines()[0] == "# yaml-language-server: $schema=gemstead.schema.json"


def test_every_commented_setting_is_valid_too() -> None:
    setting = re.compile(r"^(\s*)# ((?:- )?[a-z_]+:(?: \S.*)?|\s+(?:- )?[a-z_]+:.*)$")
    _, *lines = commented(FITTED).splitlines()
    spec = parse("\n".join(setting.sub(r"\1\2", line) for line in lines))
    assert spec.models[0].thinking is True
    assert spec.models[0].file == "/models/mine.gguf"
    assert spec.models[1].endpoints[0].api_key == "env:VLLM_API_KEY"
    assert spec.gateway.tls is not None
    assert spec.limits.concurrent == 16
    assert spec.ledger.on_error == "allow"
    assert spec.gateway.cors_origins == ("https://chat.example.com",)


@given(st.integers(256, 262144), st.integers(1, 256), st.integers(1, 512))
def test_whatever_was_fitted_reads_back(context: int, slots: int, threads: int) -> None:
    fitted = Fitted("a machine", "gemma-4-12b", "Gemma 4 12B", "7 GB", context, 262144, slots, threads)
    model = parse(commented(fitted)).models[0]
    assert (model.context, model.slots, model.threads) == (context, slots, threads)
