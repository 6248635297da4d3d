"""Which model a machine without a graphics card can hold, for the file that `gemstead init` writes.

The theory: weights are read once for every token, so on a CPU the active parameters decide the speed and the whole
file decides whether it fits, which `deploy.needed_bytes` works out. A quarter of the machine is left to others, more
than `deploy` leaves: what `init` writes is accepted when it is served.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.catalog.models import ModelFacts, models
from gemstead.plan import deploy
from gemstead.plan.values import ModelFile

SHARE = 0.75  # of the machine's memory that a model may take
# Billions of parameters that one CPU reads often enough for a chat, and the most that any number of CPUs does: rules
# of thumb (4-bit weights, some 8 GB/s a core, 5 tokens a second at least), not measurements.
ACTIVE_B_PER_CPU, MOST_ACTIVE_B = 0.6, 5.0
CONTEXTS = (32_768, 16_384, 8_192, 4_096)  # longest first
MOST_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """A model and how it runs on a machine."""

    facts: ModelFacts
    context: int  # tokens of one request
    slots: int
    threads: int
    tight: bool = False  # even the smallest does not fit in the share


def fit(memory_bytes: int, cpus: int, disk_free_bytes: int | None = None) -> Fit:
    """The largest model that a machine holds and a CPU answers with at a readable pace, with slots and context."""
    slots = max(2, min(MOST_SLOTS, cpus // 2))
    most_active = min(MOST_ACTIVE_B, cpus * ACTIVE_B_PER_CPU)
    quick = [facts for facts in models()[1:] if facts.active_parameters_b <= most_active]
    if disk_free_bytes is not None:
        quick = [facts for facts in quick if facts.gguf.bytes + facts.gguf.projector_bytes < disk_free_bytes]
    for facts in (*sorted(quick, key=lambda facts: -facts.gguf.bytes), models()[0]):
        for context in CONTEXTS:
            if needed_bytes(facts, context, slots) <= memory_bytes * SHARE:
                return Fit(facts, context, slots, cpus)
    return Fit(models()[0], CONTEXTS[-1], 1, cpus, tight=True)


def needed_bytes(facts: ModelFacts, context: int, slots: int) -> int:
    """Memory that the catalogue's file of a model needs with all its slots full, and the system beside it, in bytes."""
    file = ModelFile("", projector="its own", bytes=facts.gguf.bytes)
    return deploy.needed_bytes(facts, file, context, slots) + deploy.SYSTEM_BYTES
