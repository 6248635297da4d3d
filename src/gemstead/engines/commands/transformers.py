"""Transformers: the line behind `transformers serve`, for trying a checkpoint and for nothing else.

It answers one request at a time (Gemma 4 falls back from continuous batching), has no limit on the prompt and no
metrics. Run here with 5.22.2 and 5.23.0, 2026-11-20.
"""

from __future__ import annotations

import json

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.plan.placement import Placement

SOURCE = "transformers 5.23.0, cli/serve.py"


def command(placement: Placement) -> Command:
    """How Transformers is started for a placement."""
    setup = placement.setup
    vendor = setup.accelerator.vendor
    flags = [
        Flag("--dtype", "bfloat16", "as the weights are", SOURCE),
        Flag(
            "--device",
            "cpu" if vendor == "cpu" else "cuda:0" if setup.tp == 1 else "auto",
            "where it runs",
            SOURCE,
        ),
        Flag(
            "--chat-template-kwargs",
            json.dumps({"enable_thinking": placement.thinking}),
            "whether it thinks when a request does not say",
            SOURCE,
        ),
        Flag("--host", placement.host, "only the gateway reaches it", SOURCE),
        Flag("--port", str(placement.port), "where the gateway looks for it", SOURCE),
    ]
    variables = (
        (Variable("CUDA_VISIBLE_DEVICES", ",".join(placement.devices), "its cards and no others", SOURCE),)
        if placement.devices
        else ()
    )
    notes = ("one request at a time, and no limit on the length of a prompt: for trying out only",)
    program = ("transformers", "serve", setup.checkpoint.repo)
    return Command("transformers", setup.version, program, tuple(flags), variables, notes=notes)
