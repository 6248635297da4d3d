"""How llama.cpp (and Ollama, which is built on it) lays out the cache of Gemma 4: cells, all of them at start.

Every slot has its own cells: as many as its context in full layers and, in sliding ones, its window and one batch,
each rounded up to 256. All are allocated when the engine starts, whether used or not, so a setup fits or it does not;
nothing waits for memory later. With `--swa-full`, and in builds that do not window the cache (LM Studio until 2.10,
lmstudio-bug-tracker issue #1740), sliding layers have cells for the whole context too.

Over several cards whole layers are spread, so a card holds about `1 / cards` of the cells.

Source: llama.cpp build 11549, src/llama-kv-cache-iswa.cpp; its own report of buffers, read for `plan/deploy.py`.
"""

from __future__ import annotations

from gemstead.plan.setup import Setup

CELLS = 256  # a slot's context is rounded up to this


def cells(tokens: int) -> int:
    """Tokens rounded up to whole cells."""
    return -(-tokens // CELLS) * CELLS


def request_bytes(setup: Setup, tokens: int) -> int:
    """Bytes on all cards together of one slot with this context."""
    shape, each = setup.model.shape, setup.element_bytes
    full = shape.kv_layers_full * shape.kv_heads_full * 2 * shape.head_dim_full * each
    sliding = shape.kv_layers_sliding * shape.kv_heads_sliding * 2 * shape.head_dim_sliding * each
    whole = cells(tokens)
    windowed = min(cells(shape.window + setup.in_steps_of), whole) if setup.hybrid else whole
    return int(full * whole + sliding * windowed)


def largest_context(setup: Setup, pool_bytes: int) -> int:
    """The longest context, in tokens, with which every slot still fits; not more than the model can."""
    slots = max(setup.at_once, 1)
    low, high = 0, setup.model.context_tokens // CELLS
    while low < high:
        middle = (low + high + 1) // 2
        fits = request_bytes(setup, middle * CELLS) * slots <= pool_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * CELLS
