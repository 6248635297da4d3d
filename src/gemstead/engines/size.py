"""How much a running engine says that it holds: tokens of its cache, and requests at once.

vLLM and SGLang name blocks and their size in their metrics, SGLang the tokens themselves as well. llama.cpp's server
has it in `/props`, SGLang in `/get_server_info` for who does not offer metrics. Where an engine says nothing, what the
plan foresees or the file says stays.

Sources: vllm 0.32 v1/metrics/loggers.py (cache_config_info), sglang 0.5.12 srt/metrics/collector.py and
entrypoints/http_server.py, llama.cpp tools/server/README.md (GET /props: `default_generation_settings.n_ctx` is the
context of one slot, `total_slots` how many there are).
"""

from __future__ import annotations

import re

# vllm:cache_config_info{block_size="16",num_gpu_blocks="27000",...} 1.0, one for each core; SGLang's has pages
CACHE = re.compile(r"^(?:vllm|sglang):cache_config_info\{([^}]*)\}", re.MULTILINE)
BLOCK = re.compile(r'(?:block_size|page_size)="(\d+)"')
BLOCKS = re.compile(r'(?:num_gpu_blocks|num_pages)="(\d+)"')
TOKENS = re.compile(r"^sglang:max_total_num_tokens(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)
# Where to ask an engine whose metrics do not say.
ASKED = {"llamacpp": "/props", "sglang": "/get_server_info"}


def kv_tokens(text: str) -> int:
    """The tokens that the cache holds by a page of metrics, over all cores of the engine; 0 when it does not say."""
    total = 0
    for labels in CACHE.findall(text):
        block, blocks = BLOCK.search(labels), BLOCKS.search(labels)
        if block is not None and blocks is not None:
            total += int(block[1]) * int(blocks[1])
    return total or int(sum(float(tokens) for tokens in TOKENS.findall(text)))


def said(engine: str, answer: object) -> tuple[int, int]:
    """(tokens of the cache, requests at once) by the answer of `ASKED[engine]`; 0 where it does not say."""
    if not isinstance(answer, dict):
        return 0, 0
    if engine == "llamacpp":
        settings, slots = answer.get("default_generation_settings"), _count(answer.get("total_slots"))
        context = _count(settings.get("n_ctx")) if isinstance(settings, dict) else 0
        return context * slots, slots
    tokens = _count(answer.get("max_total_num_tokens"))
    states = answer.get("internal_states")
    if not tokens and isinstance(states, list):  # of each data-parallel rank, since 0.4.5
        each = [state.get("max_total_num_tokens") for state in states if isinstance(state, dict)]
        tokens = sum(map(_count, each))
    return tokens, _count(answer.get("max_running_requests"))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
