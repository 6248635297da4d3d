"""A memory budget as a sum that can be checked by hand: every number with its formula and its source.

Only words are made here; the numbers are those of `memory.py`.
"""

from __future__ import annotations

from gemstead.plan import kv_sglang, kv_vllm
from gemstead.plan.memory import LLAMACPP, Line, MemoryBudget
from gemstead.plan.overhead import CONTEXT_BYTES, sglang_share
from gemstead.plan.setup import GIB


def explained(found: MemoryBudget) -> tuple[Line, ...]:
    """The whole sum of one card, from the driver's total to what is spare. What is taken away is negative."""
    setup = found.setup
    card = setup.accelerator
    return (
        Line("card", card.memory_bytes, f"{card.memory_mib} MiB, as the driver says", card.source or card.id),
        Line("not given", found.card_bytes - card.memory_bytes, "kept by the driver", "plan/setup.py"),
        Line("not taken", found.taken_bytes - found.card_bytes, _share(found), "the engine's settings"),
        *(Line(line.name, -line.bytes, line.formula, line.source) for line in found.lines),
        Line("cache pool", found.kv_pool_bytes, "what is left", "plan/memory.py"),
        Line("kept free", -_kept(found), "by which published logs scatter", "docs/planning.md"),
        Line("longest request", -found.needed_bytes, _request(found), _request_source(setup.engine)),
        Line("spare", found.spare_bytes, "negative: lacking", "plan/memory.py"),
    )


def _kept(found: MemoryBudget) -> int:
    return found.kv_pool_bytes - found.needed_bytes - found.spare_bytes


def _share(found: MemoryBudget) -> str:
    setup = found.setup
    if setup.engine == "sglang":
        return f"a share of {sglang_share(setup):.3f} (--mem-fraction-static)"
    if setup.engine in LLAMACPP:
        return f"{CONTEXT_BYTES / GIB:.1f} GiB for the driver's own part of the process"
    return f"a share of {setup.share} (--gpu-memory-utilization)"


def _request(found: MemoryBudget) -> str:
    setup, length = found.setup, found.setup.length
    if setup.engine == "vllm":
        made, ahead = kv_vllm.layout(setup), kv_vllm.in_flight(setup)
        blocks = made.request_blocks(length, ahead)
        if not made.groups_sliding:
            return f"{blocks} blocks of {made.block_bytes} bytes: every layer keeps all {length} tokens"
        return (
            f"{blocks} blocks of {made.block_bytes} bytes: {made.groups_full} x {length} / {made.block_full}, and "
            f"{made.groups_sliding} x (min({made.window} - 1 + {ahead} in flight, {length}) / {made.block_sliding} + 1)"
        )
    if setup.engine == "sglang":
        full, sliding = kv_sglang.token_bytes(setup)
        return f"{length} tokens x ({full:.0f} + {kv_sglang.ratio(setup)} x {sliding:.0f}) bytes, or its window's share"
    if setup.engine in LLAMACPP:
        return f"{setup.at_once} slots of {length} tokens and a window with its batch, in cells of 256"
    return f"{length} tokens in full layers, a window in the others"


def _request_source(engine: str) -> str:
    files = {"vllm": "kv_vllm", "sglang": "kv_sglang"} | dict.fromkeys(LLAMACPP, "kv_llamacpp")
    return f"plan/{files.get(engine, 'memory')}.py"
