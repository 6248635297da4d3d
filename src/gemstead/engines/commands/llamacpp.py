"""llama.cpp: the line behind `llama-server`, for a card or a processor.

Its context is shared out among the slots, so the context on the line is that of one request times the requests at once.
"""

from __future__ import annotations

import json

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.plan.placement import Placement
from gemstead.plan.setup import Setup

README = "llama.cpp build 11549, tools/server/README.md"
RUN_HERE = "run with llama.cpp build 11549 on 2026-11-20"
PROMPT_CACHE_MIB = 256


def command(placement: Placement) -> Command:
    """How llama-server is started for a placement."""
    setup = placement.setup
    flags = [
        *_weights(placement),
        *_memory(setup),
        *_dialect(placement),
        *_drafting(setup),
        *_serving(placement),
    ]
    notes: tuple[str, ...] = ()
    if setup.drafter and setup.draft_tokens:
        repo = setup.checkpoint.drafter or setup.model.assistant.repo
        notes = (
            f"convert the drafter first: `convert_hf_to_gguf.py --outtype q8_0` on a download of {repo}",
        )
    variables = _variables(placement)
    return Command("llamacpp", setup.version, ("llama-server",), tuple(flags), variables, notes=notes)


def _weights(placement: Placement) -> list[Flag]:
    setup = placement.setup
    checkpoint = setup.checkpoint
    if checkpoint.repo.endswith(".gguf"):
        flags = [Flag("--model", checkpoint.repo, "the weights", README)]
    else:
        flags = [Flag("--hf-repo", checkpoint.repo, "the weights, fetched once into the hub's cache", README)]
    if checkpoint.file and flags[0].name == "--hf-repo":
        flags.append(Flag("--hf-file", checkpoint.file, "this file of the repository", README))
    if not placement.media.any:
        flags.append(Flag("--no-mmproj", None, "text only: the projector is not loaded", README))
    if placement.name:
        flags.append(Flag("--alias", placement.name, "the name that the gateway asks for", README))
    return flags


def _memory(setup: Setup) -> list[Flag]:
    total = setup.length * setup.at_once
    flags = [
        Flag(
            "--ctx-size",
            str(total),
            f"{setup.at_once} requests of {setup.length} tokens: slots share it",
            RUN_HERE,
        ),
        Flag("--parallel", str(setup.at_once), "requests at once", RUN_HERE),
        Flag("--ubatch-size", str(setup.in_steps_of), "tokens of a prompt in one step", README),
        Flag(
            "--cache-ram", str(PROMPT_CACHE_MIB), "MiB of prompts kept in RAM; the default is 8 GiB", RUN_HERE
        ),
    ]
    if setup.accelerator.vendor != "cpu":
        reason = "all layers on the card: with some of them on the processor it is eight times slower"
        flags.append(Flag("--n-gpu-layers", "999", reason, "club-3090 BENCHMARKS.md, 2026-08-22"))
        flags.append(Flag("--flash-attn", "on", "less memory for long prompts", README))
    if setup.tp > 1:
        flags.append(Flag("--split-mode", "layer", f"layers are spread over {setup.tp} cards", README))
    if setup.cache_format in ("q8_0", "q4_0"):
        reason = "a smaller cache for each token"
        flags.append(Flag("--cache-type-k", setup.cache_format, reason, README))
        flags.append(Flag("--cache-type-v", setup.cache_format, reason, README))
    if not setup.hybrid:
        flags.append(Flag("--swa-full", None, "asked for: every layer keeps every token", README))
    return flags


def _dialect(placement: Placement) -> list[Flag]:
    thinking = json.dumps({"enable_thinking": placement.thinking})
    return [
        Flag(
            "--jinja",
            None,
            "the model's own chat template; without it tool calls come as text",
            "llama.cpp #22786",
        ),
        Flag(
            "--chat-template-kwargs",
            thinking,
            "whether it thinks when a request does not say; llama.cpp's own default is on, others' is off",
            RUN_HERE,
        ),
    ]


def _drafting(setup: Setup) -> list[Flag]:
    if not setup.drafter or not setup.draft_tokens:
        return []
    reason = "a small drafter writes tokens ahead and the model checks them in one pass"
    return [
        Flag("--spec-type", "draft-mtp", reason, RUN_HERE),
        Flag("--model-draft", _drafter_file(setup), "Gemma 4's drafter is a checkpoint of its own", RUN_HERE),
        Flag("--spec-draft-n-max", str(setup.draft_tokens), "how far ahead", RUN_HERE),
    ]


def _drafter_file(setup: Setup) -> str:
    """The drafter's file. No drafter is published as GGUF, so it is converted from its repository."""
    repo = setup.checkpoint.drafter or setup.model.assistant.repo
    return f"{repo.rpartition('/')[2]}.gguf"


def _serving(placement: Placement) -> list[Flag]:
    return [
        Flag("--metrics", None, "load is read from its metrics, which are off by default", RUN_HERE),
        Flag("--no-ui", None, "no second web page beside the gateway's", README),
        Flag("--host", placement.host, "only the gateway reaches it", README),
        Flag("--port", str(placement.port), "where the gateway looks for it", README),
    ]


def _variables(placement: Placement) -> tuple[Variable, ...]:
    vendor = placement.setup.accelerator.vendor
    if not placement.devices or vendor not in ("nvidia", "amd"):
        return ()
    name = "CUDA_VISIBLE_DEVICES" if vendor == "nvidia" else "HIP_VISIBLE_DEVICES"
    return (Variable(name, ",".join(placement.devices), "its cards and no others", README),)
