"""TensorRT-LLM: the line behind `trtllm-serve`. Gemma 4 runs through AutoDeploy only (pull request #12710), with open
faults (#12808, #13558) and not on L4 (#14942): an experiment, and said to be one."""

from __future__ import annotations

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.plan.placement import Placement

SOURCE = "TensorRT-LLM, tensorrt_llm/commands/serve.py, commit 00209af1"


def command(placement: Placement) -> Command:
    """How TensorRT-LLM is started for a placement."""
    setup = placement.setup
    flags = [
        Flag(
            "--backend", "_autodeploy", "the only way in which it loads Gemma 4", "NVIDIA/TensorRT-LLM #12710"
        ),
        Flag("--tp_size", str(setup.tp), "cards of one replica", SOURCE),
        Flag("--max_seq_len", str(setup.length), "the longest prompt with its answer", SOURCE),
        Flag("--max_batch_size", str(setup.at_once), "requests at once; the gateway queues the rest", SOURCE),
        Flag("--max_num_tokens", str(setup.in_steps_of), "tokens of prompts in one step", SOURCE),
        Flag(
            "--kv_cache_free_gpu_memory_fraction",
            f"{setup.share:.2f}",
            "share of what weights leave free; not of the whole card, as in vLLM",
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
    notes = ("no tool-call or reasoning parser for Gemma 4 is known there: tools and thoughts come as text",)
    program = ("trtllm-serve", setup.checkpoint.repo)
    return Command("tensorrt_llm", setup.version, program, tuple(flags), variables, notes=notes)
