"""How vLLM lays out the cache of Gemma 4: pages, groups, blocks, and what it prints about them.

Gemma 4 has sliding layers, which keep the last `window` tokens, and full layers, which keep all. Per rank, a layer
keeps `2 x heads x head_dim x bytes` of each token, where a rank holds `max(1, heads / tp)` heads: a head is never
cut, so one KV head stays whole on every rank and its cache does not shrink with more cards.

*Pages.* All layers share one pool of blocks, so pages must be of one size. The larger of the two 16-token pages is
it; the other kind of layer gets a multiple of 16 tokens in its page (31B on one card: 16 sliding, 32 full).

*Groups.* Layers that share a block table form a group, and all groups have the same number of layers: that of the
rarer kind. 31B is five groups of ten sliding layers and one of ten full ones. A drafter whose cache has a shape of
its own (EAGLE-3: one layer) makes groups of one layer each: 31B becomes 61 groups.

*What one request holds.* `ceil(L / block)` blocks in each full group and, in each sliding one,
`ceil(min(window - 1 + F, L) / block) + 1`, with F the tokens in flight: one step's, and from 0.26 two steps' when
steps overlap. That is what admission counts, and it decides whether the engine starts.

*What is printed* as "GPU KV cache size" has had two formulas and three meanings: until 0.20.1 blocks over groups
times 16; then concurrency times the longest request; from 0.26 the same with twice the tokens in flight. A drafter
for multi-token prediction has no cache: it reads the target's.

*Without the hybrid manager* (switched off by hand, by a connector that does not know it, or on TPU) every layer keeps
every token: eleven times as much for 31B.

Sources: vllm 0.20.2, 0.21.0, 0.26.0, 0.32.0, v1/core/kv_cache_utils.py (unify_kv_cache_spec_page_size,
_get_kv_cache_groups_uniform_page_size, get_max_concurrency_for_kv_cache_config), v1/kv_cache_interface.py
(SlidingWindowSpec), config/vllm.py (max_in_flight_tokens); issues #43308 and #49878.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.catalog.models import Shape
from gemstead.plan.setup import Setup

PAGE_TOKENS = 16  # vLLM's block size on GPUs
SCALE_BYTES = 4  # of each head and token, where the format keeps scales per token
WITH_HYBRID = frozenset({
    "OffloadingConnector", "SimpleCPUOffloadConnector", "MooncakeConnector", "MooncakeStoreConnector",
    "MoRIIOConnector", "NixlConnector", "MultiConnector", "HiSparseConnector", "UMBPStoreConnector",
})  # fmt: skip
# Read in vllm 0.33.0, the connectors that declare support. What is in neither list is taken not to support it.
WITHOUT_HYBRID = frozenset(
    {"LMCacheConnectorV1", "LMCacheMPConnectorUpstream", "FlexKVConnectorV1", "HF3FSKVConnector"}
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The cache of one rank. A block is a page in each layer of a group."""

    page_bytes: int
    block_sliding: int  # tokens
    block_full: int
    block_draft: int  # of a drafter's own layer; 0: it has none
    group_layers: int
    groups_sliding: int
    groups_full: int
    window: int
    block_bytes: int

    @property
    def groups(self) -> int:
        """Block tables of one request."""
        return self.groups_sliding + self.groups_full + bool(self.block_draft)

    def request_blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that a request of this length holds at most."""
        full = self.groups_full * _ceil(tokens, self.block_full)
        draft = _ceil(tokens, self.block_draft) if self.block_draft else 0
        if not self.groups_sliding:
            return full + draft
        kept = min(self.window - 1 + in_flight, tokens)
        return full + draft + self.groups_sliding * (_ceil(kept, self.block_sliding) + 1)

    def request_bytes(self, tokens: int, in_flight: int) -> int:
        """The same in bytes of one rank."""
        return self.request_blocks(tokens, in_flight) * self.block_bytes


def layout(setup: Setup) -> Layout:
    """How the cache of a setup is laid out on each rank."""
    shape, tp = setup.model.shape, setup.tp
    sliding = _token_bytes(shape.kv_heads_sliding, shape.head_dim_sliding, tp, setup)
    full = _token_bytes(shape.kv_heads_full, shape.head_dim_full, tp, setup)
    if not keeps_windows(setup):
        each = PAGE_TOKENS * (shape.kv_layers_sliding * sliding + shape.kv_layers_full * full)
        return Layout(each, PAGE_TOKENS, PAGE_TOKENS, 0, shape.kv_layers, 0, 1, shape.window, each)
    page = PAGE_TOKENS * max(sliding, full)
    own_layer = setup.drafter and setup.drafter_kind == "eagle3"
    layers, groups_sliding, groups_full = _groups(shape, own_layer)
    return Layout(
        page_bytes=page,
        block_sliding=_block_tokens(page, sliding, setup),
        block_full=_block_tokens(page, full, setup),
        block_draft=PAGE_TOKENS if own_layer else 0,
        group_layers=layers,
        groups_sliding=groups_sliding,
        groups_full=groups_full,
        window=shape.window,
        block_bytes=page * layers,
    )


def keeps_windows(setup: Setup) -> bool:
    """Whether sliding layers keep only their window: the hybrid manager is on."""
    return setup.hybrid and setup.accelerator.vendor != "google" and connector_knows(setup.connector)


def connector_knows(connector: str) -> bool:
    """Whether a KV connector works with the hybrid manager; no connector does."""
    return not connector or connector in WITH_HYBRID


def in_flight(setup: Setup) -> int:
    """Tokens that are scheduled and not yet settled, at most."""
    overlapping = setup.release >= (0, 26) and setup.is_async
    return setup.in_steps_of * (2 if overlapping else 1)


def blocks(made: Layout, pool_bytes: int) -> int:
    """Blocks in a pool of this size on one rank."""
    return max(pool_bytes, 0) // made.block_bytes


def concurrency(setup: Setup, pool_bytes: int, tokens: int) -> float:
    """Requests of this length that a pool holds, as vLLM prints it."""
    made = layout(setup)
    return blocks(made, pool_bytes) / made.request_blocks(tokens, in_flight(setup))


def reported_tokens(setup: Setup, pool_bytes: int) -> int:
    """What this version prints as "GPU KV cache size"."""
    made = layout(setup)
    if setup.release < (0, 20, 2):
        return blocks(made, pool_bytes) // made.groups * PAGE_TOKENS
    return int(concurrency(setup, pool_bytes, setup.length) * setup.length)


def largest_context(setup: Setup, pool_bytes: int) -> int:
    """The longest request, in tokens, that a pool admits; not more than the model can."""
    made, ahead, there = layout(setup), in_flight(setup), blocks(layout(setup), pool_bytes)
    low, high = 0, setup.model.context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if made.request_blocks(middle, ahead) <= there else (low, middle - 1)
    return low


def _token_bytes(heads: int, head_dim: int, tp: int, setup: Setup) -> int:
    """Bytes of one token in one layer on one rank."""
    scale = SCALE_BYTES if setup.cache_format.endswith("_per_token_head") else 0
    return int(max(1, heads // tp) * 2 * (head_dim * setup.element_bytes + scale))


def _block_tokens(page: int, token_bytes: int, setup: Setup) -> int:
    """Tokens of a layer that fit its page.

    Where the smaller page does not divide the larger (scales per token), 0.26 and later pad it and keep 16 tokens;
    older versions do not start without a patch that fills the page instead (issues #40388 and #40391).
    """
    if page % (token_bytes * PAGE_TOKENS) and setup.release >= (0, 26):
        return PAGE_TOKENS
    return page // (token_bytes * PAGE_TOKENS) * PAGE_TOKENS


def _groups(shape: Shape, own_layer: bool) -> tuple[int, int, int]:
    """Layers of each group, sliding groups, full groups."""
    layers = 1 if own_layer else min(shape.kv_layers_sliding, shape.kv_layers_full)
    return layers, _ceil(shape.kv_layers_sliding, layers), _ceil(shape.kv_layers_full, layers)


def _ceil(tokens: int, block: int) -> int:
    return -(-tokens // block)
