"""TGI: the line behind `text-generation-launcher`. No sign was found that it serves Gemma 4 at all; the line is
given for those who must try, and says so."""

from __future__ import annotations

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.plan.placement import Placement

DOCS = "text-generation-inference, docs/source/reference/launcher.md, commit 032fc4c4"


def command(placement: Placement) -> Command:
    """How TGI would be started for a placement."""
    setup = placement.setup
    batch = str(max(setup.in_steps_of, setup.length))
    flags = [
        Flag("--model-id", setup.checkpoint.repo, "the weights", DOCS),
        Flag("--num-shard", str(setup.tp), "cards of one replica; by default it takes all", DOCS),
        Flag("--max-total-tokens", str(setup.length), "the longest prompt with its answer", DOCS),
        Flag("--max-input-tokens", str(setup.length - 1), "must be below the total", DOCS),
        Flag("--max-batch-prefill-tokens", batch, "a prompt is taken in one piece, so it must fit", DOCS),
        Flag("--max-concurrent-requests", str(setup.at_once), "the gateway queues instead", DOCS),
        Flag("--cuda-memory-fraction", f"{setup.share:.2f}", "share of the card", DOCS),
    ]
    if setup.checkpoint.bits == "bf16":
        reason = "its default is float16, in which Gemma's activations overflow"
        flags.append(Flag("--dtype", "bfloat16", reason, f"{DOCS}; transformers 5.23, Gemma 4 is bfloat16"))
    if setup.cache_format == "fp8":
        flags.append(Flag("--kv-cache-dtype", "fp8_e4m3fn", "half the cache for each token", DOCS))
    flags += [
        Flag("--usage-stats", "off", "nothing is reported to anybody", DOCS),
        Flag("--hostname", placement.host, "only the gateway reaches it", DOCS),
        Flag("--port", str(placement.port), "where the gateway looks for it", DOCS),
    ]
    variables = (
        (Variable("CUDA_VISIBLE_DEVICES", ",".join(placement.devices), "its cards and no others", DOCS),)
        if placement.devices
        else ()
    )
    return Command("tgi", setup.version, ("text-generation-launcher",), tuple(flags), variables)
