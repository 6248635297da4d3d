"""Does it fit, by how much, how long may a request be, how many at once, and what is the cheapest change that fits.

The theory, per card:

    cache pool = taken - weights / tp - drafter - overhead
    fits       = pool - spread >= what one request of the longest length holds   (and nothing is at fault)

*taken* is the share of the visible memory that the engine may use, *overhead* is told in `overhead.py`, what a request
holds in `kv_vllm.py`, `kv_sglang.py` and `kv_llamacpp.py`. Every line of a budget carries its formula with its numbers
and its source, so that nobody has to believe it.

Concurrency is the worst case that the engine itself prints: every request reserves its windows and the tokens in
flight as if it were reading its prompt. Requests that are only decoding hold less; `decoding` counts those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gemstead.plan import changes, kv_llamacpp, kv_sglang, kv_vllm, overhead
from gemstead.plan.changes import Change
from gemstead.plan.setup import GIB, Setup, visible_bytes

__all__ = ["Change", "Line", "MemoryBudget", "Setup", "budget"]

LLAMACPP = ("llamacpp", "embedded", "ollama")
POOLED = ("vllm", "sglang")  # engines that size a pool and admit into it


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a budget: bytes on one card, how it comes about, and who says so."""

    name: str  # weights, drafter, activations, graphs, links, base, correction, cache
    bytes: int
    formula: str
    source: str


@dataclass(frozen=True)
class MemoryBudget:
    """Where the memory of one card goes. All sizes are bytes of one card; negative spare is what is lacking."""

    setup: Setup
    lines: tuple[Line, ...]
    card_bytes: int  # that a program is given of the card
    taken_bytes: int  # that the engine may use of it
    kv_pool_bytes: int  # left for the cache, as we expect it; may be negative
    spread_bytes: int  # by which published logs scatter: kept free when judging
    needed_bytes: int  # the smallest pool that admits the longest request (llama.cpp: all slots)
    faults: tuple[str, ...]  # why it cannot run however much memory there is

    @property
    def fits(self) -> bool:
        """Whether it starts and admits its longest request."""
        return not self.faults and self.spare_bytes >= 0

    @property
    def safe_pool_bytes(self) -> int:
        """The pool that can be counted on."""
        known = self.setup.kv_pool_bytes is not None
        return max(self.kv_pool_bytes - (0 if known else self.spread_bytes), 0)

    @property
    def spare_bytes(self) -> int:
        """What is left when the longest request is in; negative: what is lacking."""
        known = self.setup.kv_pool_bytes is not None
        return self.kv_pool_bytes - (0 if known else self.spread_bytes) - self.needed_bytes

    @property
    def weights_bytes(self) -> int:
        """Weights on one card."""
        return next(line.bytes for line in self.lines if line.name == "weights")

    @property
    def used_bytes(self) -> int:
        """What the engine will show as used: everything it takes (vLLM, SGLang), or what it needs (llama.cpp)."""
        before = sum(line.bytes for line in self.lines)
        cache = self.kv_pool_bytes if self.setup.engine in POOLED else self.needed_bytes
        return before + max(cache, 0)

    @cached_property
    def largest_context(self) -> int:
        """The longest request that is admitted, in tokens; 0: none. Not more than the model can."""
        if self.faults:
            return 0
        return _largest(self.setup, self.safe_pool_bytes)

    @cached_property
    def kv_tokens_reported(self) -> int:
        """What the engine prints as the size of its cache, in tokens, by the meaning of its version."""
        if self.setup.engine == "sglang":
            return kv_sglang.reported_tokens(self.setup, self.kv_pool_bytes)
        if self.setup.engine in LLAMACPP:
            return kv_llamacpp.cells(self.setup.length) * self.setup.at_once
        return kv_vllm.reported_tokens(self.setup, self.kv_pool_bytes)

    def concurrency(self, tokens: int) -> float:
        """Requests of this length that the pool holds, each at its worst: what vLLM prints, with a fraction."""
        if tokens < 1 or self.faults or tokens > self.setup.model.context_tokens:
            return 0.0
        return _concurrency(self.setup, self.safe_pool_bytes, tokens)

    def concurrent(self, tokens: int) -> int:
        """Whole requests of this length at once, each at its worst, up to the most that the engine takes."""
        return min(int(self.concurrency(tokens)), self.setup.at_once)

    def decoding(self, tokens: int) -> int:
        """Whole requests of this length at once when all are decoding, up to the most that the engine takes."""
        if self.setup.engine != "vllm" or tokens < 1 or self.faults:
            return self.concurrent(tokens)
        made = kv_vllm.layout(self.setup)
        there = kv_vllm.blocks(made, self.safe_pool_bytes)
        return min(there // made.request_blocks(tokens, 1 + self.setup.draft_tokens), self.setup.at_once)

    @cached_property
    def cheapest_change(self) -> Change | None:
        """The change that costs least and makes it fit; None: it fits, or nothing that we know does."""
        return None if self.fits else changes.cheapest(self.setup, lambda setup: budget(setup).fits)

    @cached_property
    def shorter(self) -> tuple[tuple[int, int], ...]:
        """Batched tokens, and the longest context that fits with them: as set first, then smaller steps."""
        steps = (self.setup, *(one for _, one in changes.smaller_steps(self.setup)))
        return tuple((one.in_steps_of, budget(one).largest_context) for one in steps)

    def verdict(self) -> str:
        """One sentence for the user: fits or not, by how much, and what to do."""
        name = f"{self.setup.model.title} ({self.setup.checkpoint.format}), {self.setup.length} tokens"
        if self.fits:
            return (
                f"{name}: fits with {_gib(self.spare_bytes)} to spare; longest {self.largest_context} tokens."
            )
        why = "; ".join(self.faults) or f"lacks {_gib(-self.spare_bytes)}"
        change = self.cheapest_change
        advice = f" Fits with {change.text}." if change else " No change to this replica makes it fit."
        return f"{name}: does not fit: {why}.{advice}{self._shorter_text()}"

    def _shorter_text(self) -> str:
        able = [(step, most) for step, most in self.shorter if most >= 1024]
        said = ", ".join(f"{most} at {step} batched tokens" for step, most in able)
        return f" Shorter contexts that fit as it is: {said}." if said else ""


def budget(setup: Setup) -> MemoryBudget:
    """Where the memory of one card goes, and what is left for the cache. Arithmetic only: microseconds."""
    lines = tuple(line for line in _lines(setup) if line.bytes)
    taken = overhead.taken_bytes(setup)
    pool = taken - sum(line.bytes for line in lines) if setup.kv_pool_bytes is None else setup.kv_pool_bytes
    return MemoryBudget(
        setup=setup,
        lines=lines,
        card_bytes=visible_bytes(setup.accelerator),
        taken_bytes=taken,
        kv_pool_bytes=pool,
        spread_bytes=_spread(setup),
        needed_bytes=needed_bytes(setup),
        faults=tuple(_faults(setup)),
    )


def needed_bytes(setup: Setup) -> int:
    """The smallest pool, in bytes of one card, with which the engine starts and takes its longest request."""
    if setup.engine == "sglang":
        return kv_sglang.request_bytes(setup, setup.length)
    if setup.engine in LLAMACPP:
        return kv_llamacpp.request_bytes(setup, setup.length) * setup.at_once // setup.tp
    if setup.engine == "vllm":
        return kv_vllm.layout(setup).request_bytes(setup.length, kv_vllm.in_flight(setup))
    return _plain_bytes(setup, setup.length)


def _lines(setup: Setup) -> Iterator[Line]:
    yield _weights(setup)
    if setup.drafter:
        kind = (
            "its own network, as logs show" if setup.drafter_kind == "eagle3" else setup.model.assistant.repo
        )
        yield Line(
            "drafter", overhead.drafter_bytes(setup), f"{kind}, on {setup.tp} cards", "plan/overhead.py"
        )
    if setup.engine in LLAMACPP:
        yield from _llamacpp_lines(setup)
    elif setup.engine != "sglang":
        yield from _work_lines(setup)
    yield Line(
        "correction", setup.overhead_correction_bytes, "what logs of this machine taught", "calibration"
    )


def _weights(setup: Setup) -> Line:
    whole = setup.weights_bytes if setup.weights_bytes is not None else setup.checkpoint.weights_bytes
    source = (
        "the files"
        if setup.weights_bytes is not None
        else f"{setup.checkpoint.weights_from}: {setup.checkpoint.repo}"
    )
    towers = 0
    if not setup.vision and setup.engine == "vllm" and setup.weights_bytes is None:
        towers = int((setup.model.shape.vision_b + setup.model.shape.audio_b) * 2e9)
    said = f"({_gib(whole)}{f' - towers {_gib(towers)}' if towers else ''}) / {setup.tp}"
    return Line("weights", (whole - towers) // setup.tp, said, source)


def _work_lines(setup: Setup) -> Iterator[Line]:
    if setup.accelerator.vendor == "google":
        return  # vLLM on TPU sizes the cache without trying a step: two logs leave nothing beside the weights
    step = setup.in_steps_of
    yield Line(
        "activations",
        overhead.step_bytes(setup),
        f"{step} tokens x widest layer x 2 bytes",
        "plan/overhead.py",
    )
    yield Line("graphs", overhead.graphs_bytes(setup), "CUDA graphs, counted since 0.21", "plan/overhead.py")
    yield Line("links", overhead.links_bytes(setup), "buffers between ranks", "AIConfigurator 0.12.0")
    yield Line("base", overhead.BASE_BYTES, "set on half of the published logs", "docs/planning.md")


def _llamacpp_lines(setup: Setup) -> Iterator[Line]:
    projector = int(setup.checkpoint.projector_gib * GIB) if setup.vision else 0
    yield Line(
        "projector", projector, "the file for pictures and sound, on the first card", setup.checkpoint.repo
    )
    said = f"{setup.in_steps_of} tokens x 262144 scores x 4 bytes, and the widest layer"
    yield Line("activations", overhead.scores_bytes(setup), said, "llama.cpp build 11549")
    yield Line("base", overhead.LLAMACPP_BASE_BYTES, "allowance", "plan/overhead.py")


def _spread(setup: Setup) -> int:
    return overhead.LLAMACPP_SPREAD_BYTES if setup.engine in LLAMACPP else overhead.SPREAD_BYTES


def _faults(setup: Setup) -> Iterator[str]:
    card, shape = setup.accelerator, setup.model.shape
    if fault := setup.checkpoint.fault_on(card):
        yield f"{setup.checkpoint.repo} {fault}"
    if setup.checkpoint.engines and setup.engine not in setup.checkpoint.engines:
        yield f"{setup.engine} does not load {setup.checkpoint.repo}"
    if setup.context > setup.model.context_tokens:
        yield f"{setup.model.title} reads {setup.model.context_tokens} tokens, not {setup.context}"
    if setup.tp > 1 and card.is_slice:
        yield f"{card.name} cannot be joined with another: slices do not reach each other"
    if setup.engine in POOLED and shape.heads % setup.tp:
        yield f"{shape.heads} attention heads cannot be split over {setup.tp} cards"
    if setup.engine in POOLED and setup.cache_format == "fp8" and card.sm is not None and card.sm < 89:
        yield f"{card.name} has no 8-bit floats, which an fp8 cache needs: use a 16-bit cache"
    outside = visible_bytes(card) - overhead.taken_bytes(setup)
    if (
        setup.engine == "vllm"
        and card.vendor in ("nvidia", "amd")
        and outside < overhead.outside_bytes(setup)
    ):
        yield (
            f"a share of {setup.share} leaves {_gib(outside)} of the card, and {_gib(overhead.outside_bytes(setup))} "
            "are needed there for the driver and what is captured after the cache is sized"
        )


def _largest(setup: Setup, pool: int) -> int:
    if setup.engine == "sglang":
        return kv_sglang.largest_context(setup, pool)
    if setup.engine in LLAMACPP:
        return kv_llamacpp.largest_context(setup, pool * setup.tp)
    if setup.engine == "vllm":
        return kv_vllm.largest_context(setup, pool)
    low, high = 0, setup.model.context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _plain_bytes(setup, middle) <= pool else (low, middle - 1)
    return low


def _concurrency(setup: Setup, pool: int, tokens: int) -> float:
    if setup.engine == "sglang":
        return kv_sglang.concurrency(setup, pool, tokens)
    if setup.engine == "vllm":
        return kv_vllm.concurrency(setup, pool, tokens)
    if setup.engine in LLAMACPP:
        return pool * setup.tp / kv_llamacpp.request_bytes(setup, tokens)
    return pool / _plain_bytes(setup, tokens)


def _plain_bytes(setup: Setup, tokens: int) -> int:
    """One request of an engine without a pool of pages: windows where they count, split like the heads."""
    shape, each = setup.model.shape, setup.element_bytes
    full = shape.kv_layers_full * max(1, shape.kv_heads_full // setup.tp) * 2 * shape.head_dim_full * each
    sliding = (
        shape.kv_layers_sliding
        * max(1, shape.kv_heads_sliding // setup.tp)
        * 2
        * shape.head_dim_sliding
        * each
    )
    return int(full * tokens + sliding * (min(tokens, shape.window) if setup.hybrid else tokens))


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
