"""The loader follows what is installed beside the engine and where the weights lie, unless the file names one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.engines import ENGINES
from gemstead.engines.installed import Installed
from gemstead.plan.host import on_cards
from gemstead.plan.values import Card, Launch, Machine, ModelFile, Replica
from gemstead.spec.model import ModelSpec
from gemstead.wiring.loader import packages, with_loader


def environment(folder: Path, *beside: str) -> Installed:
    """A virtual environment with vLLM and these packages, as far as their folders go."""
    for name in ("vllm-0.32.0", *beside):
        (folder / "lib/python3.11/site-packages" / f"{name}.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    program = folder / "bin" / "vllm"
    program.write_text("#!/bin/sh\n")
    return Installed("vllm", "0.32.0", "venv", (str(program),))


def replica(path: Path, **more: object) -> Replica:
    here = Machine(
        64, 512 << 30, 500 << 30, 1 << 40, cards=(Card("NVIDIA H100 80GB HBM3", "nvidia", 0, "GPU-0", 81559),)
    )
    asked = ModelSpec(name="gemma-4-31b", engine="vllm", **more)  # type: ignore[arg-type]
    (one,) = on_cards([(asked, "vllm")], here, {}, {"vllm": "0.32.0"}).replicas
    return replace(one, port=9000, model=ModelFile(str(path)))


def launched(planned: Replica, installed: Installed) -> Launch:
    made: Launch = ENGINES["vllm"].launch(planned, installed=installed, api_key="")
    return with_loader(made, planned, installed, lambda _: "local")


def test_weights_on_a_local_disk_are_read_past_the_page_cache_when_that_loader_is_there(
    tmp_path: Path,
) -> None:
    there = environment(tmp_path, "fastsafetensors-0.3.4")
    assert packages(there) == {"fastsafetensors": "0.3.4"}
    argv = launched(replica(tmp_path), there).argv
    assert argv[argv.index("--load-format") + 1] == "fastsafetensors"


def test_an_old_loader_is_left_alone(tmp_path: Path) -> None:
    assert (
        "--load-format"
        not in launched(replica(tmp_path), environment(tmp_path, "fastsafetensors-0.2.0")).argv
    )


@pytest.mark.parametrize("said", ["--load-format safetensors", "--load-format=auto"])
def test_what_the_file_says_stays(tmp_path: Path, said: str) -> None:
    argv = launched(replica(tmp_path, flags=(said,)), environment(tmp_path, "fastsafetensors-0.3.4")).argv
    assert sum(word.startswith("--load-format") for word in argv) == 1
    assert "fastsafetensors" not in argv


def test_a_container_keeps_its_own(tmp_path: Path) -> None:
    planned = replica(tmp_path)
    inside = replace(
        environment(tmp_path, "fastsafetensors-0.3.4"), runner="container", image="vllm/vllm-openai:v0.32.0"
    )
    made: Launch = ENGINES["vllm"].launch(planned, installed=inside, api_key="")
    assert with_loader(made, planned, inside, lambda _: "local") == made
