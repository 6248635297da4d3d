"""How SGLang lays out the cache of Gemma 4: two pools, one for full layers and one for sliding ones.

A pool of P bytes is cut so that the sliding pool has `ratio` as many tokens as the full one (`--swa-full-tokens-ratio`,
0.8 by default):

    full tokens = P / (full layers x bytes + ratio x sliding layers x bytes)

That is what it prints as `max_total_num_tokens`. A request keeps all its tokens in the full pool and, in the sliding
one, its window and what is being read. The default ratio is made for models whose windows matter little; on 31B
nine tenths of the pool are windows, so a smaller ratio buys context: at 0.2, three times as much.

Without the hybrid memory (`--disable-hybrid-swa-memory`) every layer keeps every token.

Source: sglang 0.5.12, srt/model_executor/pool_configurator.py (HybridSWAPoolConfigurator), server_args.py.
"""

from __future__ import annotations

from gemstead.plan.setup import Setup

RATIO = 0.8  # SGLang's default


def token_bytes(setup: Setup) -> tuple[float, float]:
    """Bytes of one token in all full layers and in all sliding ones, on one rank."""
    shape, tp, each = setup.model.shape, setup.tp, setup.element_bytes
    full = shape.kv_layers_full * max(1, shape.kv_heads_full // tp) * 2 * shape.head_dim_full * each
    sliding = (
        shape.kv_layers_sliding * max(1, shape.kv_heads_sliding // tp) * 2 * shape.head_dim_sliding * each
    )
    return full, sliding


def ratio(setup: Setup) -> float:
    """Tokens of the sliding pool for each token of the full one."""
    if not setup.hybrid:
        return 1.0
    return RATIO if setup.swa_ratio is None else setup.swa_ratio


def reported_tokens(setup: Setup, pool_bytes: int) -> int:
    """What it prints as `max_total_num_tokens`: tokens of the full pool."""
    full, sliding = token_bytes(setup)
    return int(max(pool_bytes, 0) // (full + ratio(setup) * sliding))


def sliding_tokens(setup: Setup, tokens: int) -> int:
    """Tokens that a request of this length keeps in the sliding pool, at most."""
    return min(tokens, setup.model.shape.window + setup.in_steps_of) if setup.hybrid else tokens


def request_bytes(setup: Setup, tokens: int) -> int:
    """The smallest pool, in bytes of one rank, that admits one request of this length."""
    full, sliding = token_bytes(setup)
    needed = max(tokens, sliding_tokens(setup, tokens) / ratio(setup))
    return int(needed * (full + ratio(setup) * sliding)) + 1


def concurrency(setup: Setup, pool_bytes: int, tokens: int) -> float:
    """Requests of this length that both pools hold."""
    there = reported_tokens(setup, pool_bytes)
    return min(there / tokens, there * ratio(setup) / sliding_tokens(setup, tokens))


def largest_context(setup: Setup, pool_bytes: int) -> int:
    """The longest request, in tokens, that both pools admit; not more than the model can."""
    there = reported_tokens(setup, pool_bytes)
    longest = min(there, setup.model.context_tokens)
    windows = int(there * ratio(setup))
    return longest if sliding_tokens(setup, longest) <= windows else min(longest, windows)
