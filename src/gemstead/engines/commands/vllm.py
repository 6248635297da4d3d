"""vLLM: the line behind `vllm serve`.

Three flags decide most of what a vLLM costs and gives. `--max-model-len` is the longest request and must be matched to
the prompts: a longer one costs admission. `--max-num-batched-tokens` is how much of a prompt one step takes; every
sliding layer reserves that much for each request, so on large models it decides how many requests fit. `--max-num-seqs`
stops admission where more requests at once only make everybody slower; the rest waits in the gateway, which knows who
is more important.
"""

from __future__ import annotations

import json

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.engines.flaglist import flag_list
from gemstead.plan.placement import DEFAULT_IMAGE_TOKENS, Media, Placement
from gemstead.plan.setup import Setup
from gemstead.refused import Reason, Refused

RECIPE = "vllm-project/recipes Google/Gemma4.md, 2026-08-21"
ARTICLE = "Callstack, Optimizing Self-Hosted Gemma for Production Inference (2026)"
PARSER = "vLLM 0.32.0, its own argument parser"
RUN_HERE = "run with vLLM 0.32.0 on 2026-11-20"
NOWHERE = "none.invalid"  # a name that can never exist (RFC 2606)
EAGLE3 = {"31B": "RedHatAI/gemma-4-31B-it-speculator.eagle3"}


def command(placement: Placement) -> Command:
    """How vLLM is started for a placement.

    Raises:
        Refused: UNSUPPORTED, when what is wanted cannot be said to it.
    """
    setup = placement.setup
    flags = [
        *_name(placement),
        *_memory(setup),
        *_batching(setup),
        *_dialect(placement),
        *_media(placement.media, setup),
        *_drafting(setup),
        *_serving(placement),
    ]
    program = ("vllm", "serve", setup.checkpoint.repo)
    return Command("vllm", setup.version, program, tuple(flags), _variables(placement))


def _name(placement: Placement) -> list[Flag]:
    setup, flags = placement.setup, []
    if placement.name and placement.name != setup.checkpoint.repo:
        flags.append(
            Flag("--served-model-name", placement.name, "the name that the gateway asks for", PARSER)
        )
    if setup.tp > 1:
        reason = f"one replica over {setup.tp} cards, which share weights and cache"
        flags.append(Flag("--tensor-parallel-size", str(setup.tp), reason, ARTICLE))
    if setup.checkpoint.quantization:
        reason = "the weights are made smaller while they are loaded; the files are 16-bit"
        flags.append(
            Flag("--quantization", setup.checkpoint.quantization, reason, "vLLM 0.33, quantization methods")
        )
    return flags


def _memory(setup: Setup) -> list[Flag]:
    flags = []
    if setup.accelerator.vendor != "cpu":
        share = f"{setup.share:.2f}"
        flags.append(
            Flag(
                "--gpu-memory-utilization",
                share,
                "share of the card for weights, cache and work; said, because the default is 0.90 or 0.92 by version",
                f"{PARSER}; {ARTICLE}",
            )
        )
    reason = (
        "the longest prompt with its answer; cache that longer requests would reserve serves more of these"
    )
    flags.append(Flag("--max-model-len", str(setup.length), reason, ARTICLE))
    if setup.kv_dtype not in ("", "auto", "bf16"):
        reason = "half the cache for each token, so twice the requests or the context"
        flags.append(Flag("--kv-cache-dtype", setup.kv_dtype, reason, "vLLM docs, quantized KV cache"))
    if setup.connector:
        config = json.dumps({"kv_connector": setup.connector, "kv_role": "kv_both"}, separators=(",", ":"))
        flags.append(
            Flag("--kv-transfer-config", config, "cache is kept outside the card", "vLLM 0.33, kv_connector")
        )
    if not setup.hybrid:
        reason = "asked for; every layer then keeps every token, which costs up to 11 times the cache"
        flags.append(
            Flag("--disable-hybrid-kv-cache-manager", None, reason, "vLLM 0.33, v1/core/kv_cache_planning.py")
        )
    if not setup.graphs:
        flags.append(Flag("--enforce-eager", None, "no CUDA graphs: less memory, slower steps", PARSER))
    return flags


def _batching(setup: Setup) -> list[Flag]:
    flags = [
        Flag(
            "--max-num-seqs",
            str(setup.at_once),
            "requests at once: beyond this only the first token comes later, so the gateway queues instead",
            "published runs stop scaling at 64 to 128: reference cases of 31B on H100, H200 and MI300X",
        ),
        Flag(
            "--max-num-batched-tokens",
            str(setup.in_steps_of),
            "tokens of prompts in one step: sliding layers reserve them for every request that is admitted",
            "vLLM 0.33, v1/core/kv_cache_planning.py; vllm-project/vllm#49878",
        ),
    ]
    if setup.accelerator.vendor == "google":
        flags.append(Flag("--disable-chunked-mm-input", None, "a TPU takes a picture in one piece", RECIPE))
    elif setup.async_scheduling is False:
        flags.append(
            Flag("--no-async-scheduling", None, "asked for: reserves half as much in sliding layers", PARSER)
        )
    else:
        reason = "the next step is prepared while this one runs; the default, said so that it does not vanish silently"
        flags.append(Flag("--async-scheduling", None, reason, f"{RECIPE}; {ARTICLE}"))
    return flags


def _dialect(placement: Placement) -> list[Flag]:
    thinking = json.dumps({"enable_thinking": placement.thinking})
    return [
        Flag(
            "--enable-auto-tool-choice",
            None,
            "tools work without naming one; else such calls are refused",
            RECIPE,
        ),
        Flag("--tool-call-parser", "gemma4", "Gemma 4 calls tools in a form of its own, not in JSON", RECIPE),
        Flag("--reasoning-parser", "gemma4", "thoughts are kept apart from the answer", RECIPE),
        Flag(
            "--default-chat-template-kwargs",
            thinking,
            "whether it thinks when a request does not say; engines differ in their default, so it is always said",
            "transformers 5.23, chat template of Gemma 4",
        ),
        Flag(
            "--enable-prompt-tokens-details",
            None,
            "cached tokens are reported and can be billed as such",
            RUN_HERE,
        ),
    ]


def _media(media: Media, setup: Setup) -> list[Flag]:
    if not media.any:
        reason = "text only: no memory for encoders, and more attention kernels may be used"
        flags = [Flag("--language-model-only", None, reason, RUN_HERE)]
    else:
        missing = [
            kind for kind, count in _counts(media).items() if count and kind not in setup.model.modalities
        ]
        if missing:
            raise Refused(Reason.UNSUPPORTED, f"{setup.model.title} takes no {' and no '.join(missing)}")
        reason = (
            "the product's real limit; what is 0 takes no memory (all three must be named, or video stays on)"
        )
        limits = json.dumps(_counts(media), separators=(",", ":"))
        flags = [Flag("--limit-mm-per-prompt", limits, reason, f"{ARTICLE}; {RUN_HERE}")]
        if media.image_tokens != DEFAULT_IMAGE_TOKENS:
            size = json.dumps({"max_soft_tokens": media.image_tokens})
            reason = "tokens of one picture: more is sharper and slower"
            flags.append(Flag("--mm-processor-kwargs", size, reason, "transformers 5.23, Gemma 4 processor"))
    domains = media.domains or (NOWHERE,)
    reason = "the engine must not fetch addresses that callers write into a request" + (
        "; only these" if media.domains else "; the name can never exist, so media come inline only"
    )
    flags.append(Flag("--allowed-media-domains", domains, reason, "vllm-project/vllm#57157; CVE-2025-6242"))
    return flags


def _counts(media: Media) -> dict[str, int]:
    return {"image": media.images, "audio": media.audios, "video": media.videos}


def _drafting(setup: Setup) -> list[Flag]:
    if not setup.drafter or not setup.draft_tokens:
        return []
    if setup.drafter_kind == "eagle3":
        if setup.model.size not in EAGLE3:
            raise Refused(
                Reason.UNSUPPORTED,
                f"no EAGLE-3 drafter of {setup.model.title} is published; use its assistant",
            )
        method, drafter = "eagle3", EAGLE3[setup.model.size]
    else:
        method, drafter = "mtp", setup.checkpoint.drafter or setup.model.assistant.repo
    said = json.dumps({"method": method, "model": drafter, "num_speculative_tokens": setup.draft_tokens})
    reason = f"a small drafter writes {setup.draft_tokens} tokens ahead and the model checks them in one pass"
    return [Flag("--speculative-config", said, reason, f"{ARTICLE}; {RECIPE}")]


def _serving(placement: Placement) -> list[Flag]:
    known = flag_list("vllm", placement.setup.version)
    flags = []
    if "--shutdown-timeout" in known.known:
        reason = "running answers may end when it is stopped; the default cuts them off at once"
        flags.append(Flag("--shutdown-timeout", str(placement.drain_s), reason, RUN_HERE))
    reason = "only the gateway reaches it; vLLM leaves /metrics and /health open even with a key"
    return [
        *flags,
        Flag("--host", placement.host, reason, RUN_HERE),
        Flag("--port", str(placement.port), "where the gateway looks for it", PARSER),
    ]


def _variables(placement: Placement) -> tuple[Variable, ...]:
    found = []
    vendor = placement.setup.accelerator.vendor
    if placement.devices and vendor in ("nvidia", "amd"):
        name = "CUDA_VISIBLE_DEVICES" if vendor == "nvidia" else "HIP_VISIBLE_DEVICES"
        reason = "its cards and no others"
        found.append(Variable(name, ",".join(placement.devices), reason, ARTICLE))
    if vendor == "cpu":
        reason = "its own choice binds every replica to the same first processors; which it may use is set from outside"
        found.append(
            Variable("VLLM_CPU_OMP_THREADS_BIND", "nobind", reason, "run with vLLM 0.32.0 on 2026-11-21")
        )
    return (
        *found,
        Variable(
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
            "0",
            "an allowed address must not lead on to a forbidden one",
            "vLLM 0.19.1 to 0.32.0, envs.py; vllm-project/vllm#57157",
        ),
        Variable(
            "VLLM_NO_USAGE_STATS", "1", "nothing is reported to anybody", "vLLM 0.19.1 to 0.32.0, envs.py"
        ),
    )
