"""The chosen plan in `gemstead.yaml`: the file's `models` are replaced, everything else in it stays, line for line.

A plan for the embedded engine becomes settings. One for cards becomes endpoints, with the lines that start their
engines as comments above them. The old file is kept beside the new one; a file that would not be valid is not written.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from gemstead.cli.options import DEFAULT_FILE, file_of, shown, text_of
from gemstead.cli.trouble import Trouble
from gemstead.engines.flag import Command
from gemstead.plan.api import Proposal

DIALECTS = {"vllm": "vllm", "llamacpp": "llamacpp"}


def write(args: argparse.Namespace, proposal: Proposal, commands: Sequence[Command]) -> str:
    """Write the plan; a sentence that says where.

    Raises:
        Trouble: nothing fits, or the file cannot be written.
        SpecError: the file has other faults, which must be mended first.
    """
    if not commands:
        raise Trouble("--write: nothing fits, so nothing was written")
    if proposal.chosen.hosts > 1:
        raise Trouble(
            f"--write: this plan takes {proposal.chosen.hosts} hosts, and a file serves one: plan one with `--count 8`"
        )
    from gemstead.catalog.check import read

    path = file_of(args) or Path(DEFAULT_FILE).absolute()
    old = text_of(path) if path.exists() else ""
    text = with_models(old, models_text(proposal, commands))
    read(text, shown(path), [], os.environ)
    if old:
        path.with_name(path.name + ".old").write_text(old, "utf-8")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, "utf-8")
    draft.replace(path)
    kept = f" (the old one is {path.name}.old)" if old else ""
    return f"wrote `models` into {shown(path)}{kept}; next: gemstead serve"


def models_text(proposal: Proposal, commands: Sequence[Command]) -> str:
    """The `models` of the plan, as YAML."""
    setup = proposal.chosen.setup
    if setup.engine == "embedded":
        lines = [f"name: {setup.model.name}", f"context: {setup.length}", f"slots: {setup.at_once}"]
        return "models:\n  - " + "\n    ".join(lines) + "\n"
    comments = ["# Start each engine like this, or with `gemstead plan` as it prints them:"]
    for command in commands:
        comments += [f"#   {line}" for line in command.shell().splitlines()]
        comments += [f"#   {' '.join(after)}" for after in command.afterwards]
    placements = proposal.chosen.placements(proposal.traffic.media)
    dialect = DIALECTS.get(setup.engine, "external")
    lines = ["models:", f"  - name: {setup.model.name}", "    engine: external", "    endpoints:"]
    for placement in placements:
        lines.append(f"      - url: http://{placement.host}:{placement.port}")
        lines.append(f"        dialect: {dialect}")
    return "\n".join([*comments, *lines]) + "\n"


def with_models(old: str, models: str) -> str:
    """The file's text with its `models` replaced, or with them added at the end.

    A top-level key ends where the next one begins; comments before the next key are the next key's.
    """
    lines = old.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if re.match(r"models\s*:", line)), None)
    if start is None:
        return (old if not old or old.endswith("\n") else old + "\n") + models
    end = next((n for n in range(start + 1, len(lines)) if re.match(r"[^\s#-]", lines[n])), len(lines))
    while end > start + 1 and re.match(r"(#.*)?$", lines[end - 1].rstrip("\n")):
        end -= 1
    begin = start
    while begin > 0 and lines[begin - 1].startswith(("# Start each engine", "#   ")):
        begin -= 1  # our own comments of an earlier plan
    return "".join(lines[:begin]) + models + "".join(lines[end:])
