"""What an engine takes of a card beside weights and cache: work buffers, graphs, libraries, and how surely.

    vLLM, llama.cpp: overhead = base + step x widest layer + links + graphs
    SGLang:          the share that it leaves free (`mem_fraction`) holds all of that

*Step x widest layer*: while a step of T tokens passes through an MLP, its inputs and outputs are alive together. With
experts each token is copied to those it goes to. *Base* is everything that no formula explains: scores over the
vocabulary, the vision tower's run, library workspaces, rounding of the allocator. It was set on half of the published
start-up logs and tried on the other half (tests/plan/test_memory_reference.py; docs/planning.md tells the errors).
What those logs scatter around it is kept free when a setup is judged to fit: `SPREAD_BYTES`.

From 0.21 vLLM measures its graphs before it sizes the cache, earlier it captured them into what was left.
"""

from __future__ import annotations

from gemstead.plan.setup import GIB, Setup, visible_bytes

BASE_BYTES = int(0.98 * GIB)  # set on half of the logs: see above
SPREAD_BYTES = int(0.67 * GIB)  # covers every log whose share of memory is published
LINK_BYTES = int(0.37 * GIB)  # NCCL on each rank: 342 to 392 MB in AIConfigurator 0.12.0's systems files
# vLLM's own estimate was 0.27 GiB for 26B-A4B with batches up to 128 (issue #41789); an allowance for larger ones.
GRAPH_BYTES = int(0.35 * GIB)
CONTEXT_BYTES = int(0.5 * GIB)  # the driver's own for each process, outside what the engine may take
# EAGLE-3 drafts with a network of its own: what 31B on one H100 with it had less than our overhead says (vLLM 0.20.0;
# set on one log, tried on another). Its graphs had no room at a share of 0.95 and did at 0.94 (air-gapped/skills,
# 2026-04-30).
EAGLE_BYTES = int(7.47 * GIB)
EAGLE_GRAPH_BYTES = int(3.5 * GIB)
LLAMACPP_BASE_BYTES = int(0.3 * GIB)
LLAMACPP_SPREAD_BYTES = int(0.25 * GIB)


def step_bytes(setup: Setup) -> int:
    """Work buffers of one step on one rank: two inputs, the gate and the result of the widest MLP, at 16 bits."""
    shape = setup.model.shape
    wide = 3 * max(shape.intermediate, shape.intermediate_shared) / setup.tp + 4 * shape.hidden
    if shape.moe:
        wide += shape.moe.top_k * (2 * shape.moe.expert_intermediate / setup.tp + 2 * shape.hidden)
    return int(setup.in_steps_of * wide * 2)


def links_bytes(setup: Setup) -> int:
    """Buffers with which ranks talk to each other."""
    return LINK_BYTES if setup.tp > 1 else 0


def graphs_bytes(setup: Setup) -> int:
    """CUDA graphs, where the engine counts them against its share."""
    return (
        GRAPH_BYTES
        if setup.graphs and setup.release >= (0, 21) and setup.accelerator.vendor != "google"
        else 0
    )


def drafter_bytes(setup: Setup) -> int:
    """The drafter on one rank: split like the target. It has no cache of its own but for EAGLE-3's one layer."""
    if not setup.drafter:
        return 0
    if setup.drafter_kind == "eagle3":
        return EAGLE_BYTES
    return (setup.model.assistant.mib_bf16 << 20) // setup.tp


def scores_bytes(setup: Setup) -> int:
    """llama.cpp's compute buffer: scores of one batch over the vocabulary in 32 bits, and the layers' own."""
    shape = setup.model.shape
    return setup.in_steps_of * (shape.vocabulary * 4 + (3 * shape.intermediate + 4 * shape.hidden) * 4)


def outside_bytes(setup: Setup) -> int:
    """What must find room in the share that the engine does not take."""
    outside = CONTEXT_BYTES
    if setup.engine == "vllm" and setup.graphs and setup.release < (0, 21):
        outside += GRAPH_BYTES
        outside += EAGLE_GRAPH_BYTES - GRAPH_BYTES if setup.drafter and setup.drafter_kind == "eagle3" else 0
    return outside


def sglang_share(setup: Setup) -> float:
    """The share of the card for weights and cache, as SGLang 0.5.12 sets it when nobody does."""
    if setup.utilisation is not None:
        return setup.utilisation
    card, chunk = setup.accelerator.memory_mib, setup.in_steps_of
    graphs = _sglang_graphs(card, setup.tp)
    kept = 512 + max(chunk, 2048) * 1.5 + graphs * 2 + setup.tp / 8 * 1024 + 58 * 8
    kept = max(kept, 10 * 1024) if card > 60 * 1024 else kept
    kept += 4 * 1024 if setup.drafter else 0
    share = round((card - kept) / card, 3)
    return share * _sglang_pictures(setup) if setup.vision else share


def _sglang_graphs(card_mib: int, tp: int) -> int:
    """The largest batch that SGLang captures a graph of."""
    steps = ((20, 8, 8), (35, 24, 80), (60, 32, 160), (160, 256, 512))
    for gib, few, many in steps:
        if card_mib < gib * 1024:
            return few if tp < 4 else many
    return 512


def _sglang_pictures(setup: Setup) -> float:
    """Its factor for models with a vision tower: 0.95 at ViT-L's size, a tenth less for each time as large again.

    The towers: 27 layers of 1152 (26B-A4B, 31B), 16 of 768 (E2B, E4B); 12B has none.
    """
    layers, width = (27, 1152) if setup.model.shape.vision_b > 0.3 else (16, 768)
    if setup.model.shape.vision_b < 0.1:
        return 1.0
    times = layers * width**2 / (24 * 1024**2)
    return 0.95 * max(0.8, min(1.05, 1 - 0.1 * (times - 1)))


def taken_bytes(setup: Setup) -> int:
    """What an engine may take of one card for everything."""
    there = visible_bytes(setup.accelerator)
    if setup.engine == "sglang":
        return int((there - CONTEXT_BYTES) * sglang_share(setup))
    if setup.engine in ("llamacpp", "embedded", "ollama"):
        share = 1.0 if setup.utilisation is None else setup.utilisation
        return int(there * (0.9 if setup.accelerator.vendor == "cpu" else share)) - CONTEXT_BYTES
    return int(there * setup.share)
