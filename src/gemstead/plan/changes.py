"""The cheapest change that makes a setup fit, and the smaller steps that admit a longer request.

Changes are tried in the order of what they cost: first those that cost next to nothing (smaller steps, a better split
of SGLang's pools, a connector that knows windows), then a larger share of the card, a cache in 8 bits, no pictures,
smaller weights, and last more cards. Several may be needed together; the cheapest set that fits wins. The costs are
ranks, not money: what a card costs depends on the user's, and `plan.money` knows it.

What this does not do: shorten the context. Whoever asked for it wanted it; `MemoryBudget.shorter` tells what fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from gemstead.catalog.checkpoints import checkpoints
from gemstead.plan.setup import VIDEO_TOKENS, Setup

STEPS = (4096, VIDEO_TOKENS, 2048)
HIGHEST_SHARE = 0.95  # leaves a 24 GB card 1.2 GiB for the driver and for what else uses it
MOST_CARDS = 8
Option = tuple[int, str, dict[str, object]]  # rank, words, what of the setup changes


@dataclass(frozen=True, slots=True)
class Change:
    """What to change, in words and as a setup."""

    text: str  # "smaller steps (4096 batched tokens) and an fp8 cache"
    setup: Setup
    rank: int  # the higher, the dearer


def cheapest(setup: Setup, fits: Callable[[Setup], bool]) -> Change | None:
    """The cheapest set of changes with which it fits; None: there is none."""
    sets = sorted(product(*_dimensions(setup)), key=lambda chosen: sum(option[0] for option in chosen))
    for chosen in sets:
        changed: dict[str, object] = {}
        for _, _, part in chosen:
            changed |= part
        if changed and fits(made := setup.with_(**changed)):
            words = [text for _, text, _ in chosen if text]
            return Change(_listed(words), made, sum(option[0] for option in chosen))
    return None


def smaller_steps(setup: Setup) -> Iterator[tuple[int, Setup]]:
    """Smaller numbers of batched tokens and the setups with them; largest first."""
    if setup.engine not in ("vllm", "sglang"):
        return
    for step in STEPS:
        made = setup.with_(batched_tokens=step)
        if step < setup.in_steps_of and made.in_steps_of == step:
            yield step, made


def _dimensions(setup: Setup) -> list[list[Option]]:
    """For each thing that may change: leave it, or one of its options."""
    leave: Option = (0, "", {})
    options = (_steps(setup), _windows(setup), _shares(setup), _caches(setup), _pictures(setup), _weights(setup),
               _cards(setup), _slots(setup))  # fmt: skip
    return [[leave, *found] for found in options]


def _steps(setup: Setup) -> list[Option]:
    return [
        (1 + nth, f"{step} batched tokens", {"batched_tokens": step})
        for nth, (step, _) in enumerate(smaller_steps(setup))
    ]


def _windows(setup: Setup) -> list[Option]:
    found: list[Option] = []
    if not setup.hybrid:
        found.append((1, "windowed sliding layers switched on", {"hybrid": True}))
    if setup.engine == "vllm" and setup.connector:
        found.append((3, "a KV connector that keeps windows, such as OffloadingConnector",
                      {"connector": "OffloadingConnector"}))  # fmt: skip
    if setup.engine == "sglang" and setup.hybrid and (setup.swa_ratio is None or setup.swa_ratio > 0.2):
        found += [(1, "a sliding pool of 0.2 (--swa-full-tokens-ratio)", {"swa_ratio": 0.2}),
                  (2, "a sliding pool of 0.05 (--swa-full-tokens-ratio)", {"swa_ratio": 0.05})]  # fmt: skip
    return found


def _shares(setup: Setup) -> list[Option]:
    if setup.engine != "vllm" or setup.share >= HIGHEST_SHARE or setup.release < (0, 21):
        return []
    return [(4, f"a share of {HIGHEST_SHARE} (--gpu-memory-utilization)", {"utilisation": HIGHEST_SHARE})]


def _caches(setup: Setup) -> list[Option]:
    if setup.element_bytes <= 34 / 32:
        return [(6, "a 16-bit cache", {"kv_dtype": "bf16"})]
    small = "q8_0" if setup.engine in ("llamacpp", "embedded", "ollama") else "fp8"
    return [(6, f"an 8-bit cache ({small})", {"kv_dtype": small})]


def _pictures(setup: Setup) -> list[Option]:
    return [(10, "pictures and sound switched off", {"vision": False})] if setup.vision else []


def _weights(setup: Setup) -> list[Option]:
    """Smaller checkpoints that load, largest first: each loses a little more."""
    found = [
        one
        for one in checkpoints(setup.model.size)
        if setup.engine in one.engines
        and not one.fault_on(setup.accelerator)
        and one.weights_bytes < (setup.weights_bytes or setup.checkpoint.weights_bytes)
    ]
    found.sort(key=lambda one: -one.weights_bytes)
    return [
        (12 + 2 * nth, f"{one.repo} ({one.format})", {"checkpoint": one, "weights_bytes": None})
        for nth, one in enumerate(found)
    ]


def _cards(setup: Setup) -> list[Option]:
    if setup.accelerator.is_slice or setup.accelerator.vendor == "cpu":
        return []
    counts = [tp for tp in (2, 4, MOST_CARDS) if tp > setup.tp and setup.model.shape.heads % tp == 0]
    return [(50 * tp, f"{tp} cards", {"tp": tp}) for tp in counts]


def _slots(setup: Setup) -> list[Option]:
    if setup.engine not in ("llamacpp", "embedded", "ollama") or setup.at_once < 2:
        return []
    return [(8, "one slot", {"requests": 1})]


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
