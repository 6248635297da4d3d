"""From traffic and machines to replicas: how many cards to a replica, how many replicas, how many requests at once.

The rules, in the order in which they are applied:

1. *Context* is as long as the longest request and no longer: what nobody sends is not reserved.
2. *Steps* (batched tokens) are as large as still lets the cache hold `ROOM` longest requests. Where those are very
   long, reading them is what takes the time, so steps stay large and the group is widened instead.
3. *Width*: the fewest cards on which `ROOM` longest requests fit at once. Wider groups exchange more and answer fewer
   requests for each card, above all over PCIe; they pay only when contexts are very long or the time per token is an
   aim. So eight cards become four replicas of two for usual requests, and two of four for those of 256k tokens.
4. *At once*: up to the point where more requests bring few more tokens; the rest waits in the gateway.
5. *Drafting*: at the depth that helps with as many requests as will run, or off.
6. *Replicas*: what the busiest hour needs with headroom, and a spare; without a demand, as many as there are cards for.

Nothing is looked up here: model, card and checkpoint are handed in. `api.py` finds them and compares alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gemstead.plan.capacity import Capacity
from gemstead.plan.drafting import Depth
from gemstead.plan.fitted import CACHELESS, LONGEST_PER_USUAL, ROOM, Choice, Fitted, Traffic, fit, sized
from gemstead.plan.memory import MemoryBudget
from gemstead.plan.placement import Media, Placement
from gemstead.plan.setup import Setup
from gemstead.plan.throughput import Estimate, Saturation, estimate

WIDTHS = (1, 2, 4, 8)
HOST = 8  # cards that one server holds at most, in every machine type of the catalogue but TPU pods


@dataclass(frozen=True, slots=True)
class Layout:
    """Replicas as they would run, with what speaks for them."""

    setup: Setup  # of one replica
    replicas: int  # that the cards at hand carry, or that are needed when none are at hand
    spares: int  # of those
    short: int  # replicas that the demand needs beyond them
    cards_idle: int
    memory: MemoryBudget
    comfortable: bool  # ROOM longest requests fit at once
    knee: Saturation  # of one replica
    alone: Estimate  # one request, nobody else there
    full: Estimate  # as many as it takes at once
    capacity: Capacity | None  # None: no demand was said
    drafting: Depth
    meets: bool  # fits, and the aims are met
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def cards(self) -> int:
        """Cards in use."""
        return self.replicas * self.setup.tp

    @property
    def hosts(self) -> int:
        """Servers that it takes when each holds eight cards; slices and processors are not counted so."""
        card = self.setup.accelerator
        return 1 if card.is_slice or card.vendor == "cpu" else -(-self.cards // HOST)

    @property
    def on_host(self) -> int:
        """Replicas that one server holds."""
        return max(1, HOST // self.setup.tp) if self.hosts > 1 else max(1, self.replicas)

    @property
    def serving(self) -> int:
        """Replicas that carry load: all but the spares."""
        return max(1, self.replicas - self.spares)

    @property
    def tokens_per_s(self) -> float:
        """Likely output tokens a second of all replicas at full load."""
        return self.full.tokens_per_s.likely * self.replicas

    def placements(
        self, media: Media, first_port: int = 8000, thinking: bool = False, most: int | None = None
    ) -> list[Placement]:
        """Every replica in its place: neighbouring cards, one port after the other, anew on each host of eight.

        `most`: only so many of them, such as those of the first host (`on_host`).
        """
        tp, card = self.setup.tp, self.setup.accelerator
        on_host = self.on_host
        pinned = card.vendor in ("nvidia", "amd") and not card.is_slice
        return [
            Placement(
                self.setup,
                name=self.setup.model.name,
                port=first_port + number % on_host,
                devices=tuple(str(number % on_host * tp + one) for one in range(tp)) if pinned else (),
                media=media,
                thinking=thinking,
            )
            for number in range(self.replicas if most is None else min(most, self.replicas))
        ]


def lay_out(choice: Choice, traffic: Traffic, count: int | None) -> Layout:
    """The best layout of a choice on `count` cards; `count` None: as many as the demand needs.

    It may not fit: `memory.fits` says so, and `memory.verdict()` what to do.

    Raises:
        ValueError: a demand or a headroom that cannot be.
    """
    widths = _widths(choice, count)
    tried = [fit(choice, traffic, tp) for tp in widths]
    chosen = next((one for one in tried if one.memory.fits and one.comfortable and one.quick), None)
    chosen = chosen or next((one for one in reversed(tried) if one.memory.fits and one.quick), None)
    if (
        chosen is None and traffic.longest_tpot_s is not None
    ):  # none is quick enough: the one that comes nearest
        chosen = min((one for one in tried if one.memory.fits), key=lambda one: one.alone_s, default=None)
    chosen = chosen or next((one for one in tried if one.memory.fits and one.comfortable), None)
    chosen = chosen or next((one for one in reversed(tried) if one.memory.fits), tried[-1])
    return _replicated(
        choice, traffic, count, chosen, [one.memory.setup.tp for one in tried if one.memory.fits]
    )


def _widths(choice: Choice, count: int | None) -> list[int]:
    if choice.tp:
        return [choice.tp]
    if choice.card.is_slice or choice.card.vendor == "cpu" or choice.engine in CACHELESS:
        return [1]
    most = count or max(WIDTHS)
    heads = choice.model.shape.heads
    return [tp for tp in WIDTHS if tp <= most and heads % tp == 0] or [1]


def _replicated(
    choice: Choice, traffic: Traffic, count: int | None, one: Fitted, widths: list[int]
) -> Layout:
    memory, setup, drafts = one.memory, one.memory.setup, one.drafting.tokens
    need = sized(memory, traffic, one.held, drafts) if traffic.demand and memory.fits else None
    wanted = need.replicas if need else None
    replicas = _replicas(count // setup.tp if count is not None else None, wanted)
    short = max(0, (wanted or 0) - replicas)
    alone, full = (
        estimate(setup, at, traffic.prompt_tokens, traffic.output_tokens, drafts, most_running=one.held)
        for at in (1, min(one.knee.running, setup.at_once))
    )
    idle = (count - replicas * setup.tp * memory.fits) if count is not None else 0
    late = traffic.longest_ttft_s is not None and alone.ttft_s.likely > traffic.longest_ttft_s
    slow = traffic.longest_tpot_s is not None and alone.tpot_s.likely > traffic.longest_tpot_s
    unmet = traffic.demand is not None and need is None
    return Layout(
        setup=setup,
        replicas=replicas if memory.fits else 0,
        spares=max(0, traffic.spares - short) if need else 0,
        short=short,
        cards_idle=idle,
        memory=memory,
        comfortable=one.comfortable,
        knee=one.knee,
        alone=alone,
        full=full,
        capacity=need,
        drafting=one.drafting,
        meets=memory.fits and not (late or slow or unmet or short),
        reasons=tuple(_reasons(choice, traffic, one, widths)),
        notes=tuple(_notes(traffic, one, need, short, replicas, late, slow, idle)),
    )


def _replicas(able: int | None, wanted: int | None) -> int:
    """As many as are needed where that is known and they fit, else as many as there are cards for."""
    if able is None:
        return wanted or 1
    return able if wanted is None else min(able, wanted)


def _reasons(choice: Choice, traffic: Traffic, one: Fitted, widths: list[int]) -> Iterator[str]:
    setup, memory = one.memory.setup, one.memory
    if not memory.fits:
        yield memory.verdict()
        return
    said = "as asked" if traffic.context else f"{LONGEST_PER_USUAL} usual requests, rounded up"
    if not traffic.context and setup.length == choice.model.context_tokens:
        said = "as long as the model reads"
    held = memory.concurrency(setup.length)
    yield f"context {setup.length}: {said}; the cache admits {held:.1f} such requests at once"
    yield from _width_reason(choice, traffic, one, widths)
    if setup.engine == "vllm":
        yield f"steps of {setup.in_steps_of} tokens: sliding layers reserve them for every request that is admitted"
    if setup.engine not in CACHELESS:
        yield f"{setup.at_once} requests at once: {one.knee.why}; the rest waits in the gateway"
    yield f"drafting {one.drafting.tokens or 'off'}: {one.drafting.why}"
    if not traffic.media.any:
        yield "text only: pictures, video and sound are switched off, and so is their memory"


def _width_reason(choice: Choice, traffic: Traffic, one: Fitted, widths: list[int]) -> Iterator[str]:
    tp, link = one.memory.setup.tp, choice.card.interconnect
    if choice.tp:
        yield f"{tp} card{'s' * (tp > 1)} to a replica: as asked"
    elif tp == 1:
        yield "one card to a replica: several replicas answer more than one that is spread"
    elif one.comfortable and traffic.longest_tpot_s is not None:
        yield f"{tp} cards to a replica: the fewest with room for the longest requests and within the aim"
    elif one.comfortable:
        held = one.memory.concurrency(one.memory.setup.length)
        yield f"{tp} cards to a replica: fewer hold less than {ROOM:g} of the longest requests, {tp} hold {held:.1f}"
    else:
        yield f"{tp} cards to a replica: the most there are, for room"
    wider = [width for width in widths if width > tp]
    if wider and not choice.tp:
        over = "over PCIe " if link == "pcie" else ""
        yield f"not {wider[0]}: wider groups exchange more {over}in every layer; they pay for longer contexts only"


def _notes(
    traffic: Traffic,
    one: Fitted,
    need: Capacity | None,
    short: int,
    replicas: int,
    late: bool,
    slow: bool,
    idle: int,
) -> Iterator[str]:
    if not one.memory.fits:
        return
    if not one.comfortable:
        held = one.memory.concurrency(one.memory.setup.length)
        yield (
            f"tight: only {held:.1f} of the longest requests fit at once; a shorter context, "
            f"{'an 8-bit cache (`--kv fp8`)' if one.memory.setup.element_bytes == 2 else 'smaller weights'} "
            "or another card gives room"
        )
    if short:
        cards = short * one.memory.setup.tp
        yield f"{short} of {short + replicas} replicas are missing for the busiest hour: add {cards} card(s)"
    if late or slow:
        yield f"the aim for the {'first token' if late else 'time per token'} is missed even by a lone request"
    if traffic.demand is not None and need is None:
        yield "no replica of this kind meets the aims under load"
    if replicas * one.memory.setup.tp > HOST and not one.memory.setup.accelerator.is_slice:
        yield f"more than one host: numbers of cards and ports begin again after {HOST} cards"
    if idle:
        yield f"{idle} card{'s' * (idle > 1)} of those at hand are not needed"
    yield from need.notes if need else ()
