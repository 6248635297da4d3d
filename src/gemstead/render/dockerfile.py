"""A Dockerfile as a list of steps, each with its reason; stages one after another.

The order of steps is the order of layers: what changes seldom comes first, so that a new version of Gemstead or of a
flag rebuilds little. Commands are written as JSON lists, which no shell reads, wherever no shell is needed.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from gemstead.render.deployment import Deployment, Pool

USER = 10001  # above what distributions give out; the same in every image, so that volumes can be shared
HEAD = (
    "# syntax=docker/dockerfile:1\n"
    "# Made by gemstead render docker from gemstead.yaml; change that file and render again.\n"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction; `reason` becomes a comment above it."""

    text: str
    reason: str = ""


def dockerfile(*stages: Sequence[Step]) -> str:
    """The file's text."""
    return HEAD + "\n".join("\n" + "\n".join(_lines(stage)) for stage in stages) + "\n"


def exec_form(instruction: str, words: Sequence[str]) -> str:
    """`CMD ["a", "--b", "c"]`, an option and its value on a line of their own."""
    lines: list[list[str]] = []
    for word in words:
        if lines and not word.startswith("--") and lines[-1][0].startswith("--"):
            lines[-1].append(word)
        else:
            lines.append([word])
    written = (", ".join(json.dumps(word, ensure_ascii=False) for word in line) for line in lines)
    return f"{instruction} [" + ", \\\n  ".join(written) + "]"


def run(*commands: str) -> str:
    """`RUN` of shell commands, each of which must succeed."""
    return "RUN " + " \\\n && ".join(commands)


def asks(url: str) -> str:
    """A program for `python -c` that fails unless the address answers well within four seconds."""
    return f"import urllib.request as r; r.urlopen('{url}', timeout=4)"


def environment(values: dict[str, str]) -> str:
    """One `ENV` for all of them."""
    return "ENV " + " \\\n    ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())


def labels(values: dict[str, str]) -> str:
    """One `LABEL` for all of them."""
    return "LABEL " + " \\\n      ".join(f"{name}={json.dumps(value)}" for name, value in values.items())


def _lines(stage: Sequence[Step]) -> list[str]:
    found: list[str] = []
    for step in stage:
        found += [f"# {line}" for part in step.reason.splitlines() for line in textwrap.wrap(part, 110)]
        found.append(step.text)
    return found


def image_labels(
    deployment: Deployment, title: str, description: str, pool: Pool | None = None, base: str = ""
) -> dict[str, str]:
    """What is written on an image, by the names of the OCI."""
    found = {
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.description": description,
        "org.opencontainers.image.version": deployment.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    base = base or (pool.image.reference if pool else "")
    if base:
        name, _, digest = base.partition("@")
        found["org.opencontainers.image.base.name"] = name
        found |= {"org.opencontainers.image.base.digest": digest} if digest else {}
    if pool is not None:
        found["dev.gemstead.engine"] = f"{pool.setup.engine} {pool.command.version}".strip()
        found["dev.gemstead.checkpoint"] = pool.setup.checkpoint.repo
    return found
