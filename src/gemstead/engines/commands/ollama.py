"""Ollama: `ollama serve` has no options, so everything is said in its environment; the model is pulled afterwards.

Thinking and tools are a matter of each request there. Tags that end in `cloud` run on somebody else's machine and are
refused.
"""

from __future__ import annotations

from gemstead.engines.flag import Command, Variable
from gemstead.plan.placement import Placement
from gemstead.refused import Reason, Refused

CONTEXT = "ollama docs/context-length.mdx, 2026-08-21"
FAQ = "ollama docs/faq.mdx, 2026-08-21"
CONFIG = "ollama envconfig/config.go, read 2026-11-21"
CACHE = {"fp8": "q8_0", "int8": "q8_0", "q8_0": "q8_0", "q4_0": "q4_0"}


def tag_of(repo: str) -> str:
    """What Ollama calls a checkpoint: its own tags as they are, repositories of the hub with `hf.co/` before them.

    Raises:
        Refused: UNSUPPORTED, for a tag that leaves the machine.
    """
    if repo.casefold().endswith("cloud"):
        raise Refused(
            Reason.UNSUPPORTED, f"`{repo}` sends prompts to somebody else's machine; use a local tag"
        )
    hub = repo.count("/") == 1 and not repo.startswith(("hf.co/", "library/"))
    return f"hf.co/{repo}" if hub else repo


def command(placement: Placement) -> Command:
    """How Ollama is started for a placement, and how it gets the model.

    Raises:
        Refused: UNSUPPORTED, for a tag that leaves the machine.
    """
    setup = placement.setup
    tag = tag_of(setup.checkpoint.repo)
    variables = [
        Variable("OLLAMA_HOST", f"{placement.host}:{placement.port}", "only the gateway reaches it", FAQ),
        Variable(
            "OLLAMA_CONTEXT_LENGTH",
            str(setup.length),
            "the longest prompt with its answer; the default is 4k on small cards, and longer prompts are cut silently",
            CONTEXT,
        ),
        Variable(
            "OLLAMA_NUM_PARALLEL",
            str(setup.at_once),
            "requests at once; each takes a context of its own",
            FAQ,
        ),
        Variable(
            "OLLAMA_KEEP_ALIVE",
            "-1",
            "the model stays loaded; the default unloads it after five minutes",
            FAQ,
        ),
        Variable("OLLAMA_MAX_LOADED_MODELS", "1", "no second model pushes it off the card", FAQ),
        Variable(
            "OLLAMA_FLASH_ATTENTION", "1", "less memory for long prompts, and needed for a smaller cache", FAQ
        ),
        Variable("OLLAMA_NOPRUNE", "1", "files of other models are left alone", CONFIG),
    ]
    if (cache := CACHE.get(setup.cache_format)) and setup.kv_dtype not in ("", "auto"):
        variables.append(Variable("OLLAMA_KV_CACHE_TYPE", cache, "a smaller cache for each token", FAQ))
    if placement.devices and setup.accelerator.vendor in ("nvidia", "amd"):
        name = "CUDA_VISIBLE_DEVICES" if setup.accelerator.vendor == "nvidia" else "ROCR_VISIBLE_DEVICES"
        variables.append(Variable(name, ",".join(placement.devices), "its cards and no others", CONFIG))
    notes = []
    if not placement.thinking:
        notes.append("Ollama thinks unless a request says `think: false`; the gateway must say so")
    return Command(
        "ollama",
        setup.version,
        ("ollama", "serve"),
        (),
        tuple(variables),
        afterwards=(("ollama", "pull", tag),),
        notes=tuple(notes),
    )
