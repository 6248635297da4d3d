"""An engine that is on this machine and can be started: which version, in what, and the words before its own.

Whoever installs engines (`operate.engines`) finds and records these; an adapter puts `argv_prefix` before the words of
the engine's own program. Nothing is looked up here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Installed:
    """One engine at one version, ready to be started.

    The engine's program follows the prefix: for vLLM `argv_prefix + ("serve", MODEL, "--port", ...)`, so a virtual
    environment's prefix is `("/state/engines/vllm-0.32.0/bin/vllm",)` and a container's ends with its image
    (`("docker", "run", ..., "vllm/vllm-openai:v0.32.0")`, whose entry point is the program). Words of `{port}` and
    `{name}` in the prefix are replaced by the replica's; with `{env}` as a word of its own, `-e NAME` for each
    variable of the launch stands in its place, and with `{mounts}` one `-v PATH:PATH:ro` for each path that the
    engine reads.
    """

    engine: str  # a key of `engines.ENGINES`
    version: str  # "0.32.0", as its flag list is named
    runner: Literal["venv", "container", "path"]
    argv_prefix: tuple[str, ...]  # replaces the engine's program word ("vllm", "llama-server", ...)
    image: str = ""  # of a container; empty for others
    lacks: frozenset[str] = (
        frozenset()
    )  # flags that this build is known not to have although the version does
