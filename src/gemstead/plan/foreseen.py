"""What the gateway is told of an engine before any call: how much it holds and how fast it is.

The picker weighs endpoints in seconds (`traffic/picker.py`). It learns how fast engines are, but the first calls after
a start are picked by what is foreseen here, and with engines of unlike speed that decides where they go. The figures
are those of `throughput.py`, brought into the form that the picker learns in: seconds for a prompt token, and a step
that grows by so much with each request.
"""

from __future__ import annotations

from gemstead.plan import kv_vllm
from gemstead.plan.memory import LLAMACPP, budget
from gemstead.plan.setup import Setup
from gemstead.plan.step import work
from gemstead.plan.throughput import estimate
from gemstead.plan.values import Foreseen

PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 256  # of a usual request, where nobody says


def foreseen(
    setup: Setup, prompt_tokens: float = PROMPT_TOKENS, output_tokens: float = OUTPUT_TOKENS
) -> Foreseen:
    """What a replica of this setup should hold and do, with requests of this length."""
    running = setup.at_once
    alone = estimate(setup, 1, prompt_tokens, output_tokens, most_running=running).tpot_s.likely
    full = estimate(setup, running, prompt_tokens, output_tokens, most_running=running).tpot_s.likely
    read_s = work(setup).prompt_s(prompt_tokens) / max(prompt_tokens, 1.0)
    held = max(0, budget(setup).kv_tokens_reported)
    return Foreseen(
        kv_tokens=held,
        cache_tokens=_cached(setup, held),
        prefill_tokens_s=1.0 / read_s if read_s > 0.0 else 0.0,
        step_s=alone,
        step_slot_s=max((full - alone) / (running - 1), 0.0) if running > 1 else 0.0,
    )


def _cached(setup: Setup, held: int) -> int:
    """Prompt tokens that can still be found. In vLLM's cache each has a block in the sliding layers too until that is
    taken for something else, so it is fewer than what running requests hold."""
    if setup.engine != "vllm":
        return held if setup.engine not in LLAMACPP else 0
    made = kv_vllm.layout(setup)
    each = made.groups_full / made.block_full
    if made.groups_sliding:
        each += made.groups_sliding / made.block_sliding
    return min(int(kv_vllm.blocks(made, budget(setup).safe_pool_bytes) / each), held) if held else 0
