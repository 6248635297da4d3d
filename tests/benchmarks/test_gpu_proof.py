"""The proof on a card: what of it does not need one."""

from __future__ import annotations

import json
import shutil

import pytest
from benchmarks.engines.gpu_proof import SKIPPED, document, main, parser, write_checkpoint

from gemstead.catalog.check import read
from gemstead.catalog.models import models

SHAPES = ["31B", "26B-A4B"]


@pytest.mark.parametrize("size", SHAPES)
def test_its_checkpoint_has_the_models_own_shape(size, tmp_path):
    facts = next(one for one in models() if one.size == size)
    write_checkpoint(facts, tmp_path / "made")
    text = json.loads((tmp_path / "made" / "config.json").read_text())["text_config"]
    assert text["layer_types"].count("full_attention") == facts.shape.layers_full
    assert text["layer_types"].count("sliding_attention") == facts.shape.layers_sliding
    assert text["layer_types"][-1] == "full_attention"
    assert not list((tmp_path / "made").glob("*.safetensors"))


@pytest.mark.parametrize("size", SHAPES)
def test_its_file_is_a_valid_one(size, tmp_path):
    facts = next(one for one in models() if one.size == size)
    args = parser().parse_args(["--model", size])
    spec = read(document(facts, tmp_path, args), "gemstead.yaml", [], {}).spec
    assert (spec.models[0].engine, spec.models[0].flags) == ("vllm", ("--load-format dummy",))


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a card here")
def test_without_a_card_it_says_so_and_is_skipped(capsys):
    assert main(["--model", "31B"]) == SKIPPED
    assert "no NVIDIA card" in capsys.readouterr().out
