"""SGLang: the line behind `sglang serve`. Attention kernels are its own choice (Triton; TensorRT-LLM's on sm_100)."""

from __future__ import annotations

import json

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.engines.flaglist import FlagList, flag_list
from gemstead.plan.placement import Placement
from gemstead.plan.setup import Setup
from gemstead.refused import Reason, Refused

COOKBOOK = "sgl-project/sgl-cookbook, Gemma 4, 2026-05-01"
ARTICLE = "Callstack, Optimizing Self-Hosted Gemma for Production Inference (2026)"
PARSER = "SGLang 0.5.23, its own argument parser"


def command(placement: Placement) -> Command:
    """How SGLang is started for a placement.

    Raises:
        Refused: UNSUPPORTED, when what is wanted cannot be said to this version.
    """
    setup, known = placement.setup, flag_list("sglang", placement.setup.version)
    flags = [
        Flag("--model-path", setup.checkpoint.repo, "the weights", PARSER),
        *_names(placement),
        *_memory(setup),
        *_dialect(placement, known),
        *_media(placement, known),
        *_drafting(setup),
        Flag(
            "--enable-metrics",
            None,
            "load and cache are read from its metrics, which are off by default",
            PARSER,
        ),
        Flag("--enable-cache-report", None, "cached tokens are reported and can be billed as such", PARSER),
        Flag("--host", placement.host, "only the gateway reaches it", PARSER),
        Flag("--port", str(placement.port), "where the gateway looks for it", PARSER),
    ]
    return Command("sglang", setup.version, ("sglang", "serve"), tuple(flags), _variables(placement))


def _names(placement: Placement) -> list[Flag]:
    setup, flags = placement.setup, []
    if placement.name:
        flags.append(
            Flag("--served-model-name", placement.name, "the name that the gateway asks for", PARSER)
        )
    if setup.tp > 1:
        flags.append(Flag("--tp-size", str(setup.tp), f"one replica over {setup.tp} cards", ARTICLE))
    return flags


def _memory(setup: Setup) -> list[Flag]:
    flags = [
        Flag("--context-length", str(setup.length), "the longest prompt with its answer", PARSER),
        Flag(
            "--mem-fraction-static",
            f"{setup.share:.2f}",
            "share of the card for weights and cache; the rest is for work and graphs",
            ARTICLE,
        ),
        Flag(
            "--max-running-requests",
            str(setup.at_once),
            "requests at once: beyond this only the first token comes later, so the gateway queues instead",
            "published runs stop scaling at 64 to 128",
        ),
        Flag("--chunked-prefill-size", str(setup.in_steps_of), "tokens of a prompt in one step", PARSER),
    ]
    if setup.cache_format == "fp8" and setup.kv_dtype not in ("", "auto"):
        reason = "half the cache for each token; measured: 139.5k tokens instead of 69.7k for 31B on 96 GB"
        flags.append(Flag("--kv-cache-dtype", "fp8_e4m3", reason, "reference case m31"))
    if setup.swa_ratio is not None:
        reason = "size of the sliding layers' pool against the full layers'"
        flags.append(Flag("--swa-full-tokens-ratio", f"{setup.swa_ratio:g}", reason, PARSER))
    if not setup.hybrid:
        flags.append(
            Flag("--disable-hybrid-swa-memory", None, "asked for: every layer keeps every token", PARSER)
        )
    if not setup.graphs:
        flags.append(Flag("--disable-cuda-graph", None, "no CUDA graphs: less memory, slower steps", PARSER))
    return flags


def _dialect(placement: Placement, known: FlagList) -> list[Flag]:
    flags = [
        Flag("--reasoning-parser", "gemma4", "thoughts are kept apart from the answer", COOKBOOK),
        Flag(
            "--tool-call-parser", "gemma4", "Gemma 4 calls tools in a form of its own, not in JSON", COOKBOOK
        ),
    ]
    if "--default-chat-template-kwargs" in known.known:
        thinking = json.dumps({"enable_thinking": placement.thinking})
        reason = "whether it thinks when a request does not say; engines differ in their default, so it is always said"
        flags.append(Flag("--default-chat-template-kwargs", thinking, reason, PARSER))
    elif placement.thinking:  # the template's own default is off, so off needs no flag
        message = f"SGLang {known.asked} cannot think by default; use 0.5.23, or say enable_thinking in each request"
        raise Refused(Reason.UNSUPPORTED, message)
    return flags


def _media(placement: Placement, known: FlagList) -> list[Flag]:
    media, flags = placement.media, []
    if not media.any and "--language-model-only" in known.known:
        flags.append(Flag("--language-model-only", None, "text only: no memory for encoders", PARSER))
    if media.any:
        counts = {"image": media.images, "audio": media.audios, "video": media.videos}
        missing = [
            kind for kind, count in counts.items() if count and kind not in placement.setup.model.modalities
        ]
        if missing:
            raise Refused(
                Reason.UNSUPPORTED, f"{placement.setup.model.title} takes no {' and no '.join(missing)}"
            )
        limits = json.dumps(counts, separators=(",", ":"))
        flags.append(Flag("--limit-mm-data-per-request", limits, "the product's real limit", PARSER))
    if "--allowed-media-domains" in known.known:
        reason = "the engine must not fetch addresses that callers write into a request"
        flags.append(Flag("--allowed-media-domains", media.domains or ("none.invalid",), reason, PARSER))
    return flags


def _drafting(setup: Setup) -> list[Flag]:
    if not setup.drafter or not setup.draft_tokens:
        return []
    drafter = setup.checkpoint.drafter or setup.model.assistant.repo
    reason = "a small drafter writes tokens ahead and the model checks them in one pass"
    return [
        Flag("--speculative-algorithm", "NEXTN", reason, f"{COOKBOOK}; {ARTICLE}"),
        Flag(
            "--speculative-draft-model-path",
            drafter,
            "Gemma 4's drafter is a checkpoint of its own",
            COOKBOOK,
        ),
        Flag("--speculative-num-steps", str(setup.draft_tokens), "how far ahead", COOKBOOK),
        Flag("--speculative-eagle-topk", "1", "one guess at each place", COOKBOOK),
        Flag(
            "--speculative-num-draft-tokens",
            str(setup.draft_tokens + 1),
            "the drafts and one of its own",
            COOKBOOK,
        ),
    ]


def _variables(placement: Placement) -> tuple[Variable, ...]:
    setup, found = placement.setup, []
    if placement.devices and setup.accelerator.vendor in ("nvidia", "amd"):
        name = "CUDA_VISIBLE_DEVICES" if setup.accelerator.vendor == "nvidia" else "HIP_VISIBLE_DEVICES"
        found.append(Variable(name, ",".join(placement.devices), "its cards and no others", ARTICLE))
    if setup.accelerator.vendor == "amd" and setup.model.size in ("E2B", "E4B"):
        found.append(Variable("SGLANG_USE_AITER", "0", "AMD's kernels do not know these shapes", COOKBOOK))
    return tuple(found)
