"""What one step of decoding costs, and what a prompt's token costs: the arithmetic under every speed we state.

A model that writes makes one step for one token of every request that is running. The step must read all the
weights once, and the cache of every request, through the memory of each card; on top come a fixed cost for each
layer that is launched, the exchange between cards that share a layer, a little for each request, and the share of
other requests' prompts that are read between the steps:

    step = (weights(b) + b x cache(c)) / (cards x bandwidth x reached)            read
         + layers x launch + [experts: layers x routing]                          launched
         + [cards > 1: 2 x layers x (exchange + b x hidden x 2 bytes over the link)]  exchanged
         + (b - 1) x each                                                         kept
         + b x prompt/output x token                                              prompts of others

with b requests running at c tokens of context. Of a mixture of experts a step reads those that any of its tokens
chose, experts x (1 - (1 - chosen/experts)^b). A prompt's token is bound by compute instead of memory:

    token = 2 x parameters / (cards x peak x share) + attention(c) / (cards x peak x 0.22) + what is exchanged of it

Attention counts apart because its share of the peak is lower and because it grows with depth: two published pairs of
prompt speeds on RTX 3090, at 10k and 90k (31B) and at 10k and 161k tokens (26B-A4B, club-3090 BENCHMARKS.md at
2026-08-22), both give 0.22. Gemma's wide heads (512) leave vLLM and SGLang only kernels in Triton, which do not use
the matrix instructions of large cards and are bound by latency there (vllm-project/vllm#43257: 6 to 13 % occupancy on
Hopper). On MI300X a pair of first tokens, at 1,024 and 8,192 tokens (E2B, gemma4-dev, 2026-09-17), gives 0.05 of the
peak, and on one H100 with an 8-bit cache a pair of total speeds, 3,592 tokens a second at 4k and 2,441 at 16k (31B,
air-gapped/skills bench-numbers.md, 2026-04-30, rows that are not among our cases), gives 0.03.

Cards exchange by all-reduce: each sends and receives 2 (n - 1) / n of a message. Through a switch (NVLink) its delay
hardly grows with n; around a ring over PCIe it grows with n - 1, which is why wide groups on PCIe pay late.

This file knows nothing of engines' flags, memory limits or queues; `throughput.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.models import ModelFacts
from gemstead.plan.setup import Setup

BF16_BYTES = 2
FILES = ("gguf", "ollama")  # formats of llama.cpp
OWN_MATRIX_SM = (9, 10)  # first digits of the compute capabilities with wgmma or tcgen05; sm_120 has neither
SWITCHED = ("nvlink", "xgmi", "ici")
OLD_KERNELS = (
    0.15  # of the share on smaller cards, where kernels do not use a card's own instructions: see above
)
EACH_AT_GBS = 1638.0  # bandwidth of a v6e
EAGLE_READ_BYTES = 277e6  # an EAGLE-3 head for 31B (thoughtworks/Gemma-4-31B-Eagle3)
UNKNOWN_LINK_GBS = 100.0  # one way, of TPUs: no figure is in the catalogue


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What cannot be read from a data sheet. Times in milliseconds, shares from 0 to 1."""

    reached: float  # of the bandwidth on the data sheet
    cache_reached: float  # of what is reached by weights, by the cache
    launch_ms: float  # for each layer
    routing_ms: float  # for each layer with experts
    exchange_ms: float  # for each of two all-reduces in a layer, a short message
    link_share: float  # of the link's one-way bandwidth on the data sheet
    each_ms: float  # for each request beyond the first: sampling, scheduling, detokenising
    mixed_share: float  # of peak compute, for prompts read between steps
    checked_share: float  # of peak compute, for drafts that are checked
    prompt_share: float  # of peak compute, for a prompt that somebody waits for
    attention_share: float  # of peak 16-bit compute
    unpack_share: float  # of peak compute that weight-only 4-bit kernels reach of what 16-bit ones reach
    fp8_share: float  # of the gain that 8-bit arithmetic promises
    fp4_share: float
    draft_ms: float  # for each pass of a drafter beyond its bytes
    first_ms: float  # of a first token, however short the prompt: tokenising, scheduling, one step


# `name` is the value for vLLM with CUDA graphs on NVIDIA over NVLink; `name.kind` replaces it for a vendor, an engine
# or a link. Source of all that no comment explains: set by eye on 34 published runs of Gemma 4 (21 of a single stream,
# 13 batched), compiled 2026-11-20. How well they do, and how well values fitted on half of the published runs do on
# the other half, is measured in tests/plan/test_throughput.py and told in docs/planning.md.
KNOWN: dict[str, float] = {
    "reached": 0.85,
    "reached.amd": 0.70,
    "cache_reached": 1.0,
    # Three batches of 31B on MI300X in SGLang ask for about a half. That it is for each byte of the cache and not for
    # each request is seen in E2B, whose cache is small: 64 requests on that card take 2 ms more than one (n06, n09).
    "cache_reached.amd": 0.48,
    "launch_ms": 0.04,
    "launch_ms.sglang": 0.08,  # its Triton attention of April to July 2026
    "launch_ms.llamacpp": 0.10,
    "launch_ms.embedded": 0.10,
    "launch_ms.ollama": 0.10,
    "launch_ms.transformers": 0.35,  # no graphs, about a dozen kernels a layer: reckoned, not measured
    "routing_ms": 0.035,
    # 26B-A4B on a B70 in llama.cpp (SYCL): 52.6 tokens a second in Q4_K_M (PMZFX/intel-arc-pro-b70-benchmarks, 2026-04)
    # and 40.1 in Q8_0 (r/LocalLLaMA 1uao1pk, 2026-06) ask for 0.35 to 0.45; 56.1 on a B60 in vLLM for 0.3.
    "routing_ms.intel": 0.38,
    "exchange_ms": 0.008,
    "exchange_ms.pcie": 0.015,
    "exchange_ms.network": 0.03,  # two boxes over RDMA: reckoned, not measured
    "link_share": 0.6,  # reckoned, as the next one; together with them the run in test_throughput.py of another
    "link_share.pcie": 0.4,  # model on two RTX PRO 6000, on which nothing was set, is met within a tenth
    "each_ms": 0.04,
    "each_ms.google": 0.22,  # on a v6e; see `coefficients`
    # Of prompts read in full steps beside others. Both halves of the published runs ask for 0.6 or more, where one
    # prompt alone reaches 0.25 to 0.38: in a benchmark some are read before anybody waits for a second token.
    "mixed_share": 0.6,
    # One large matrix unit instead of many small ones: 0.76 was reached with large batches on TPU v4 (Pope et al.,
    # arXiv 2211.05102), and a first token after 1,024 tokens in 15 to 16 ms on a v6e (t30, n21) asks for 0.5 or more.
    "checked_share": 0.45,  # eleven published gains of drafters, of which 1.09 at 100 requests depends on it most
    "prompt_share": 0.35,
    "prompt_share.google": 0.6,
    # In the same runs 512 tokens of a prompt of 12B reach 0.2 (1,578 a second), of 26B-A4B 0.05 (1,129 and 1,332).
    "prompt_share.intel": 0.12,
    "attention_share": 0.22,  # two pairs of prompt speeds, as told above
    "attention_share.amd": 0.05,
    # Marlin unpacks 4 bits before it multiplies and does not use the matrix instructions that Hopper and datacentre
    # Blackwell have of their own (OWN_MATRIX_SM). The older ones reach 62.9 % of an H100's peak (Luo et al., arXiv
    # 2402.13499); on cards without new ones it reaches what bf16 reaches.
    "unpack_share": 0.63,
    "fp8_share": 0.75,  # reckoned: no published run of Gemma 4 tells it apart
    "fp4_share": 0.6,  # the same
    "draft_ms": 1.3,  # the middle of what seven published runs ask for (0.6 to 2.0): see drafting.py
    "first_ms": 38.0,  # "30 to 45 ms" in the same compilation
    "first_ms.google": 12.0,  # 16 ms for a prompt of 1,024 tokens on one v6e (t30)
}
_NAMES = tuple(one.name for one in fields(Coefficients))


def coefficients(setup: Setup, known: Mapping[str, float] = KNOWN) -> Coefficients:
    """The coefficients for a vendor, an engine and a link; where two replace the same one, the later of those."""
    card = setup.accelerator
    kinds = ("" if card.unified else card.vendor, setup.engine, card.interconnect)
    chosen = {name: known[name] for name in _NAMES}
    for kind in kinds:
        chosen |= {name: known[f"{name}.{kind}"] for name in _NAMES if f"{name}.{kind}" in known}
    if card.vendor == "google":
        # A TPU pads each request of a batch to what it was compiled for, and that passes through its memory: the same
        # runs at 1 to 16 requests take 0.22 ms for each on a v6e and 0.4 on a v5e, which has half its bandwidth.
        chosen["each_ms"] *= EACH_AT_GBS / card.bandwidth_gbs
    return Coefficients(**chosen)


@dataclass(frozen=True, slots=True)
class Work:
    """One model on one group of cards, as the numbers that the formulas use. Bytes are for all cards together."""

    layers: int
    fixed_bytes: float  # read at every step
    expert_bytes: float  # all experts; 0: none
    expert_chosen: float  # share of the experts that one token runs through
    flops_per_token: float  # of a prompt, without attention
    growing_bytes: float  # of cache read per token of context, as many as weights would be read in that time
    capped_bytes: float  # the same, up to `window` tokens
    window: int  # tokens
    growing_flops: float  # of attention per prompt token and token of context before it
    capped_flops: float
    bandwidth: float  # bytes a second, all cards
    peak: float  # operations a second, all cards, in the format that the checkpoint computes in
    attention_peak: float  # the same at 16 bits, as far as the kernels for attention can use it
    cards: int
    exchanged_bytes: float  # by one card for each token: two all-reduces in every layer
    link: float  # bytes a second, one way
    ring: bool  # whether cards exchange in a ring
    drafter_bytes: float
    drafter_kind: str
    known: Coefficients

    def cache_bytes(self, tokens: float) -> float:
        """Bytes of cache that one request at this length makes a step read."""
        return self.growing_bytes * tokens + self.capped_bytes * min(tokens, self.window)

    def weights_bytes(self, tokens: float) -> float:
        """Bytes of weights that a step over this many tokens reads."""
        missed: float = (1 - self.expert_chosen) ** tokens
        return self.fixed_bytes + self.expert_bytes * (1 - missed)

    def token_s(self, depth: float, share: float) -> float:
        """Seconds of compute for one prompt token with `depth` tokens of context before it."""
        attention = self.growing_flops * depth + self.capped_flops * min(depth, self.window)
        computed = self.flops_per_token / (self.peak * share)
        return computed + attention / (self.attention_peak * self.known.attention_share) + self.exchange_s()

    def exchange_s(self) -> float:
        """Seconds to exchange one token's part of all messages between cards."""
        return self.exchanged_bytes / (self.link * self.known.link_share) if self.cards > 1 else 0.0

    def prompt_s(self, tokens: float) -> float:
        """Seconds to read a prompt that has the cards to itself."""
        return tokens * self.token_s(tokens / 2, self.known.prompt_share)

    def overhead_s(self) -> float:
        """Seconds of one pass through all layers that are neither reading nor computing."""
        known = self.known
        each_layer = known.launch_ms
        each_layer += known.routing_ms if self.expert_bytes else 0
        hops = 0 if self.cards == 1 else self.cards - 1 if self.ring else 1
        each_layer += 2 * known.exchange_ms * hops
        return self.layers * each_layer / 1000

    def read_s(self, tokens: float, requests: float, context: float) -> float:
        """Seconds to read the weights for a pass over `tokens` and the cache of `requests`."""
        read = self.weights_bytes(tokens) + requests * self.cache_bytes(context)
        return read / (self.bandwidth * self.known.reached)

    def step_s(self, requests: float, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds between two tokens of a request while `requests` run and new ones keep coming."""
        context = prompt_tokens + output_tokens / 2
        step = self.read_s(requests, requests, context) + self.overhead_s()
        step += (requests - 1) * self.known.each_ms / 1000 + requests * self.exchange_s()
        return step + (requests - 1) * self.others_s(prompt_tokens, output_tokens)

    def others_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds of prompt reading that each running request brings to a step."""
        token = self.token_s(prompt_tokens / 2, self.known.mixed_share)
        return prompt_tokens / output_tokens * token


def work(setup: Setup, known: Mapping[str, float] = KNOWN) -> Work:
    """A setup as the numbers that the formulas use."""
    chosen = coefficients(setup, known)
    shape, card, tp = setup.model.shape, setup.accelerator, setup.tp
    fixed, experts = read_bytes(setup.model, setup.checkpoint)
    width = setup.element_bytes
    # Every layer reads a cache, also those that read another layer's. Heads that no longer divide are repeated.
    growing: float = shape.layers_full * max(shape.kv_heads_full, tp) * 2 * shape.head_dim_full * width
    capped: float = (
        shape.layers_sliding * max(shape.kv_heads_sliding, tp) * 2 * shape.head_dim_sliding * width
    )
    windowed = card.vendor != "google"  # vLLM on TPU keeps and reads every token in every layer (m09, m10)
    computed = _peak(setup.checkpoint, card, chosen)
    return Work(
        layers=shape.layers,
        fixed_bytes=fixed,
        expert_bytes=experts,
        expert_chosen=shape.moe.top_k / shape.moe.experts if shape.moe else 0.0,
        flops_per_token=2e9 * shape.active_no_embed_b,
        growing_bytes=growing / chosen.cache_reached,
        capped_bytes=capped / chosen.cache_reached,
        window=shape.window if windowed else 1 << 30,
        growing_flops=4.0 * shape.layers_full * shape.heads * shape.head_dim_full,
        capped_flops=4.0 * shape.layers_sliding * shape.heads * shape.head_dim_sliding,
        bandwidth=card.bandwidth_gbs * 1e9 * tp,
        peak=computed * 1e12 * tp,
        attention_peak=_peak_bf16(card) * 1e12 * tp * (OLD_KERNELS if _own_matrix(card) else 1.0),
        cards=tp,
        exchanged_bytes=2 * shape.layers * shape.hidden * BF16_BYTES * 2 * (tp - 1) / tp,
        link=(card.interconnect_gbs or 2 * UNKNOWN_LINK_GBS) / 2 * 1e9,
        ring=card.interconnect not in SWITCHED,
        drafter_bytes=EAGLE_READ_BYTES
        if setup.drafter_kind == "eagle3"
        else setup.model.assistant.mib_bf16 * 2.0**20,
        drafter_kind=setup.drafter_kind,
        known=chosen,
    )


def read_bytes(model: ModelFacts, checkpoint: Checkpoint) -> tuple[float, float]:
    """Bytes that every step reads, and those of all experts together.

    Not read at every step: vision and audio towers, and the per-layer embedding table of E2B and E4B, of which a
    token needs one row a layer.
    """
    shape = model.shape
    head = shape.embed_b * BF16_BYTES
    experts_b = shape.moe.experts_b if shape.moe else 0.0
    dense_b = shape.text_b - shape.embed_b - shape.per_layer_embedding_b - experts_b
    if checkpoint.format.startswith("bf16"):
        return (dense_b * 2 + head) * 1e9, experts_b * 2e9
    loaded = checkpoint.weights_bytes / 1e9
    if checkpoint.format.startswith(FILES):  # everything is quantised, and the towers are in another file
        width = loaded / shape.text_b
        return (dense_b + shape.embed_b) * width * 1e9, experts_b * width * 1e9
    aside = head + BF16_BYTES * (shape.per_layer_embedding_b + shape.vision_b + shape.audio_b)
    if "experts" in checkpoint.format:  # attention and the dense part stay at 16 bits
        return (dense_b * 2 + head) * 1e9, max(0.0, loaded - aside - dense_b * 2) * 1e9
    width = max(0.25, (loaded - aside) / (dense_b + experts_b))
    return (dense_b * width + head) * 1e9, experts_b * width * 1e9


def _peak_bf16(card: Accelerator) -> float:
    """Dense 16-bit operations, in 1e12 a second; cards without bf16 compute in fp16, processors in what they have."""
    return card.tflops.bf16 or card.tflops.fp16 or 1.0


def _peak(checkpoint: Checkpoint, card: Accelerator, known: Coefficients) -> float:
    """Dense operations in the format that a checkpoint computes in, in 1e12 a second."""
    at_16 = _peak_bf16(card)
    native = checkpoint.native_sm is not None and card.sm is not None and card.sm >= checkpoint.native_sm
    if (native or card.vendor == "amd") and checkpoint.bits == "fp8" and card.tflops.fp8:
        return at_16 + (card.tflops.fp8 - at_16) * known.fp8_share
    if native and checkpoint.bits == "nvfp4" and card.tflops.fp4:
        return at_16 + (card.tflops.fp4 - at_16) * known.fp4_share
    unpacks = checkpoint.bits in ("int4", "nvfp4") and not checkpoint.format.startswith(FILES)
    return at_16 * known.unpack_share if unpacks and _own_matrix(card) else at_16


def _own_matrix(card: Accelerator) -> bool:
    """Whether a card has matrix instructions that only kernels written for it use."""
    return card.vendor == "nvidia" and (card.sm or 0) // 10 in OWN_MATRIX_SM
