"""Which engines are installed on this machine, and at which version, without starting any of them.

`vllm --version` imports PyTorch and takes ten seconds, so a Python engine's version is read from the packages beside
its program. The others answer `--version` at once. Container images are counted too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gemstead.operate.doctor.seen import Engine

if TYPE_CHECKING:
    from gemstead.operate.doctor.probe import Runner

SECONDS = 4.0
# engine: (program, its package as it is written in dist-info)
PYTHON = {
    "vllm": ("vllm", r"vllm(?:_cpu)?"),
    "sglang": ("sglang", "sglang"),
    "transformers": ("transformers", "transformers"),
}
PROGRAMS = {  # engine: (command, what its version looks like)
    "ollama": (("ollama", "--version"), r"(\d+\.\d+\.\d+)"),
    "llamacpp": (("llama-server", "--version"), r"version: (\d+)"),
}
IMAGES = {
    "vllm": r"vllm/vllm-openai:v?([\d.]+)",
    "sglang": r"lmsysorg/sglang:v?([\d.]+)",
    "tgi": r"text-generation-inference:v?([\d.]+)",
    "ollama": r"ollama/ollama:v?([\d.]+)",
}


def installed(runner: Runner) -> tuple[Engine, ...]:
    """Every engine that was found."""
    found = [*_programs(runner), *_images(runner)]
    for engine, (program, package) in PYTHON.items():
        if path := shutil.which(program):
            found += [Engine(engine, version, path) for version in _beside(Path(path), package)]
    return tuple(dict.fromkeys(found))


def _beside(program: Path, package: str) -> Iterator[str]:
    """The package's versions in the environment that a program belongs to."""
    for folder in program.resolve().parent.parent.glob("lib/python3*/site-packages/*.dist-info"):
        if found := re.fullmatch(rf"{package}-([^-]+)\.dist-info", folder.name):
            yield found[1]
            return


def _programs(runner: Runner) -> Iterator[Engine]:
    for engine, (command, form) in PROGRAMS.items():
        answer = runner(command, SECONDS)
        if answer.code == 0 and (found := re.search(form, answer.out + answer.err)):
            yield Engine(engine, found[1], command[0])


def _images(runner: Runner) -> Iterator[Engine]:
    for tool in ("docker", "podman"):
        answer = runner((tool, "images", "--format", "{{.Repository}}:{{.Tag}}"), SECONDS)
        for line in answer.out.splitlines() if answer.code == 0 else ():
            for engine, form in IMAGES.items():
                if found := re.search(form, line):
                    yield Engine(engine, found[1].strip("."), line.strip())
