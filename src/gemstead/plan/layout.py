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
from dataclasses import dataclass, field

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.models import ModelFacts
from gemstead.plan.capacity import HEADROOM, SPARES, Capacity, Demand, capacity
from gemstead.plan.drafting import Depth, depth
from gemstead.plan.from_log import Correction, corrected
from gemstead.plan.memory import MemoryBudget, budget
from gemstead.plan.placement import Media, Placement
from gemstead.plan.setup import Setup
from gemstead.plan.throughput import Estimate, Saturation, estimate, saturation

ROOM = 4.0  # longest requests that a comfortable replica holds at once, each at its worst
# Of a card, for vLLM: the lower that fits. Higher ones ran out of memory while graphs were captured (the ledger).
SHARES = (0.90, 0.92)
STEPS = (16384, 8192, 4096, 2048)
VERY_LONG = 131_072  # from here on steps stay at LONG_STEP or above as long as anything fits so
LONG_STEP = 8_192
WIDTHS = (1, 2, 4, 8)
CONTEXTS = (8_192, 16_384, 32_768, 65_536, 131_072, 262_144)
LONGEST_PER_USUAL = 4  # the longest request is taken to be four usual ones when nobody says: our guess
CACHELESS = ("llamacpp", "embedded", "ollama")  # their slots are laid out when they start
DRAFTED = ("vllm", "sglang")  # llama.cpp drafts too, but needs a converted drafter: only when asked
MOST_SLOTS, MOST_CPU_SLOTS = 16, 4  # more at once only make each other slow
QUIET = 4  # requests at once that drafting is chosen for when nobody says how many there are


@dataclass(frozen=True, slots=True)
class Traffic:
    """What callers send. Tokens of a usual request; `demand` None: unknown how much of it there is."""

    prompt_tokens: float = 1024
    output_tokens: float = 256
    context: int = 0  # tokens of the longest request; 0: taken from the usual one
    media: Media = field(default_factory=Media)
    demand: Demand | None = None
    longest_ttft_s: float | None = None
    longest_tpot_s: float | None = None
    headroom: float = HEADROOM
    spares: int = SPARES

    @property
    def usual(self) -> int:
        """Tokens of a usual request with its answer."""
        return int(self.prompt_tokens + self.output_tokens)

    def longest(self, model: ModelFacts) -> int:
        """Tokens of the longest request: as said, else the next round number above four usual ones."""
        if self.context:
            return self.context
        wanted = LONGEST_PER_USUAL * self.usual
        return min(next((size for size in CONTEXTS if size >= wanted), wanted), model.context_tokens)


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs: weights, cards and engine, before anything is worked out. `drafting` None: where it helps."""

    model: ModelFacts
    checkpoint: Checkpoint
    card: Accelerator
    engine: str = "vllm"
    version: str = ""
    tp: int | None = None  # None: the fewest cards that are comfortable
    kv_dtype: str = "auto"
    drafting: int | None = None
    utilisation: float | None = None
    corrections: tuple[Correction, ...] = ()  # what this machine's logs taught


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
    def serving(self) -> int:
        """Replicas that carry load: all but the spares."""
        return max(1, self.replicas - self.spares)

    @property
    def tokens_per_s(self) -> float:
        """Likely output tokens a second of all replicas at full load."""
        return self.full.tokens_per_s.likely * self.replicas

    def placements(self, media: Media, first_port: int = 8000, thinking: bool = False) -> list[Placement]:
        """Every replica in its place: neighbouring cards, one port after the other."""
        tp, card = self.setup.tp, self.setup.accelerator
        pinned = card.vendor in ("nvidia", "amd") and not card.is_slice
        return [
            Placement(
                self.setup,
                name=self.setup.model.name,
                port=first_port + number,
                devices=tuple(str(number * tp + one) for one in range(tp)) if pinned else (),
                media=media,
                thinking=thinking,
            )
            for number in range(self.replicas)
        ]


def lay_out(choice: Choice, traffic: Traffic, count: int | None) -> Layout:
    """The best layout of a choice on `count` cards; `count` None: as many as the demand needs.

    It may not fit: `memory.fits` says so, and `memory.verdict()` what to do.

    Raises:
        ValueError: a demand or a headroom that cannot be.
    """
    widths = _widths(choice, count)
    tried = [_replica(choice, traffic, tp) for tp in widths]
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


@dataclass(frozen=True, slots=True)
class _Replica:
    memory: MemoryBudget
    comfortable: bool
    held: int  # usual requests at once that the cache holds while they are written
    knee: Saturation
    drafting: Depth
    alone_s: float  # for each token of a lone request
    quick: bool  # a lone request meets the aim for the time per token


def _widths(choice: Choice, count: int | None) -> list[int]:
    if choice.tp:
        return [choice.tp]
    if choice.card.is_slice or choice.card.vendor == "cpu" or choice.engine in CACHELESS:
        return [1]
    most = count or max(WIDTHS)
    heads = choice.model.shape.heads
    return [tp for tp in WIDTHS if tp <= most and heads % tp == 0] or [1]


def _replica(choice: Choice, traffic: Traffic, tp: int) -> _Replica:
    """One replica of a width: its share of the card, its steps, its requests at once, its drafter."""
    base = Setup(
        model=choice.model,
        checkpoint=choice.checkpoint,
        accelerator=choice.card,
        tp=tp,
        engine=choice.engine,
        version=choice.version,
        context=traffic.longest(choice.model),
        kv_dtype=choice.kv_dtype,
        vision=traffic.media.any,
    )
    base = corrected(base, choice.corrections)
    plain = _finished(_fitted(base, choice, traffic), traffic)
    found = _depth(choice, traffic, plain)
    if not found.tokens:
        return _judged(plain, traffic, found)
    drafted = _finished(
        _fitted(base.with_(drafter=True, draft_tokens=found.tokens), choice, traffic), traffic
    )
    if drafted.fits or choice.drafting:
        return _judged(drafted, traffic, found)
    return _judged(
        plain, traffic, Depth(0, 1.0, 1.0, "", "the drafter does not fit beside the cache", found.gains)
    )


def _fitted(base: Setup, choice: Choice, traffic: Traffic) -> MemoryBudget:
    """Share and steps: the lowest share that fits, and on it the largest steps that hold the most worth running."""
    if base.engine in CACHELESS:
        return _slots(base)
    if base.engine != "vllm":
        return budget(base.with_(utilisation=choice.utilisation))
    shares = (choice.utilisation,) if choice.utilisation else SHARES
    best: MemoryBudget | None = None
    for share in shares:
        own = base.with_(utilisation=share)
        steps = [own.in_steps_of, *(step for step in STEPS if step < own.in_steps_of)]
        tried = [budget(own.with_(batched_tokens=step)) for step in steps]
        fit = [one for one in tried if one.fits]
        if base.length >= VERY_LONG:
            large = min(LONG_STEP, own.in_steps_of)
            fit = [one for one in fit if one.setup.in_steps_of >= large] or fit
        if fit:
            return max(
                fit, key=lambda one: (min(one.concurrency(one.setup.length), ROOM), one.setup.in_steps_of)
            )
        best = best or tried[-1]
    assert best is not None
    return best


def _slots(base: Setup) -> MemoryBudget:
    """llama.cpp: as many slots of the longest request as fit, by halves."""
    slots = MOST_CPU_SLOTS if base.accelerator.vendor == "cpu" else MOST_SLOTS
    while slots > 1 and not budget(base.with_(requests=slots)).fits:
        slots //= 2
    return budget(base.with_(requests=slots))


def _finished(memory: MemoryBudget, traffic: Traffic) -> MemoryBudget:
    """The same with its requests at once: the knee, or what the cache holds."""
    if not memory.fits or memory.setup.engine in CACHELESS:
        return memory
    return budget(memory.setup.with_(requests=_knee(memory, traffic).running))


def _knee(memory: MemoryBudget, traffic: Traffic) -> Saturation:
    setup = memory.setup.with_(requests=None)
    held = budget(setup).decoding(min(traffic.usual, setup.length)) if memory.fits else 1
    if setup.engine in CACHELESS:
        held = memory.setup.at_once
    return saturation(
        setup.with_(drafter=False, draft_tokens=0),  # where drafts stop helping is not where requests do
        traffic.prompt_tokens,
        traffic.output_tokens,
        most_running=max(1, held),
        longest_tpot_s=traffic.longest_tpot_s,
    )


def _judged(memory: MemoryBudget, traffic: Traffic, drafting: Depth) -> _Replica:
    knee = _knee(memory, traffic)
    setup = memory.setup
    alone = estimate(setup, 1, traffic.prompt_tokens, traffic.output_tokens)
    held = max(1, memory.decoding(min(traffic.usual, setup.length)))
    quick = traffic.longest_tpot_s is None or alone.tpot_s.likely <= traffic.longest_tpot_s
    if setup.engine in CACHELESS:  # slots are laid out whole; a processor serves few in any case
        roomy = setup.at_once >= ROOM or setup.accelerator.vendor == "cpu"
    else:
        roomy = memory.concurrency(setup.length) >= ROOM
    return _Replica(memory, memory.fits and roomy, held, knee, drafting, alone.tpot_s.likely, quick)


def _depth(choice: Choice, traffic: Traffic, plain: MemoryBudget) -> Depth:
    """How far to draft with as many requests as will run at once."""
    if choice.drafting == 0:
        return Depth(0, 1.0, 1.0, "", "switched off", {})
    undrafted = choice.engine not in DRAFTED and not (choice.engine == "llamacpp" and choice.drafting)
    if not plain.fits or undrafted:
        return Depth(
            0, 1.0, 1.0, "", f"not with {choice.engine}" if plain.fits else "it does not fit as it is", {}
        )
    running = min(_in_air(plain, traffic), plain.setup.at_once)
    found = depth(plain.setup, running, traffic.prompt_tokens, traffic.output_tokens)
    if not choice.drafting:
        return found
    kept = found.gains.get(choice.drafting, 1.0)
    repo = choice.checkpoint.drafter or choice.model.assistant.repo
    return Depth(choice.drafting, kept, found.kept, repo, "asked for", found.gains)


def _in_air(plain: MemoryBudget, traffic: Traffic) -> int:
    """Requests that one replica has at once in the busiest hour; a few when nobody says."""
    if traffic.demand is None:
        return QUIET
    sized = _sized(plain, traffic, _held(plain, traffic), 0)
    return max(1, round(sized.in_air / max(1, sized.replicas - sized.spares))) if sized else QUIET


def _held(memory: MemoryBudget, traffic: Traffic) -> int:
    return max(1, memory.decoding(min(traffic.usual, memory.setup.length)))


def _sized(memory: MemoryBudget, traffic: Traffic, held: int, drafts: int) -> Capacity | None:
    assert traffic.demand is not None
    return capacity(
        memory.setup,
        traffic.demand,
        most_running=held,
        draft_tokens=drafts,
        headroom=traffic.headroom,
        spares=traffic.spares,
    )


def _replicated(
    choice: Choice, traffic: Traffic, count: int | None, one: _Replica, widths: list[int]
) -> Layout:
    memory, setup = one.memory, one.memory.setup
    drafts = one.drafting.tokens
    sized = _sized(memory, traffic, one.held, drafts) if traffic.demand and memory.fits else None
    fit = count // setup.tp if count is not None else None
    wanted = sized.replicas if sized else None
    replicas = _replicas(fit, wanted)
    if sized and traffic.demand and fit is None and wanted:
        replicas = wanted
    short = max(0, (wanted or 0) - replicas)
    spares = max(0, min(traffic.spares, replicas - (wanted or replicas) + traffic.spares)) if sized else 0
    alone, full = (
        estimate(setup, at, traffic.prompt_tokens, traffic.output_tokens, drafts, most_running=one.held)
        for at in (1, min(one.knee.running, setup.at_once))
    )
    idle = (count - replicas * setup.tp * memory.fits) if count is not None else 0
    late = traffic.longest_ttft_s is not None and alone.ttft_s.likely > traffic.longest_ttft_s
    slow = traffic.longest_tpot_s is not None and alone.tpot_s.likely > traffic.longest_tpot_s
    unmet = traffic.demand is not None and sized is None
    return Layout(
        setup=setup,
        replicas=replicas if memory.fits else 0,
        spares=spares,
        short=short,
        cards_idle=idle,
        memory=memory,
        comfortable=one.comfortable,
        knee=one.knee,
        alone=alone,
        full=full,
        capacity=sized,
        drafting=one.drafting,
        meets=memory.fits and not (late or slow or unmet or short),
        reasons=tuple(_reasons(choice, traffic, count, one, widths)),
        notes=tuple(_notes(traffic, one, sized, short, replicas, late, slow, idle)),
    )


def _replicas(fit: int | None, wanted: int | None) -> int:
    """As many as are needed where that is known and they fit, else as many as fit."""
    if fit is None:
        return wanted or 1
    return fit if wanted is None else min(fit, wanted)


def _reasons(
    choice: Choice, traffic: Traffic, count: int | None, one: _Replica, widths: list[int]
) -> Iterator[str]:
    setup, memory = one.memory.setup, one.memory
    if not memory.fits:
        yield memory.verdict()
        return
    said = "as asked" if traffic.context else f"{LONGEST_PER_USUAL} usual requests, rounded up"
    held = memory.concurrency(setup.length)
    yield f"context {setup.length}: {said}; the cache admits {held:.1f} such requests at once"
    yield from _width_reason(choice, count, one, widths)
    if setup.engine == "vllm":
        yield f"steps of {setup.in_steps_of} tokens: sliding layers reserve them for every request that is admitted"
    if setup.engine not in CACHELESS:
        yield f"{setup.at_once} requests at once: {one.knee.why}; the rest waits in the gateway"
    yield f"drafting {one.drafting.tokens or 'off'}: {one.drafting.why}"
    if not traffic.media.any:
        yield "text only: pictures, video and sound are switched off, and so is their memory"


def _width_reason(choice: Choice, count: int | None, one: _Replica, widths: list[int]) -> Iterator[str]:
    tp, link = one.memory.setup.tp, choice.card.interconnect
    if choice.tp:
        yield f"{tp} card{'s' * (tp > 1)} to a replica: as asked"
    elif tp == 1:
        yield "one card to a replica: several replicas answer more than one that is spread"
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
    one: _Replica,
    sized: Capacity | None,
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
            f"tight: only {held:.1f} of the longest requests fit at once; a shorter context or smaller weights "
            "give room"
        )
    if short:
        cards = short * one.memory.setup.tp
        yield f"{short} of {short + replicas} replicas are missing for the busiest hour: add {cards} card(s)"
    if late or slow:
        yield f"the aim for the {'first token' if late else 'time per token'} is missed even by a lone request"
    if traffic.demand is not None and sized is None:
        yield "no replica of this kind meets the aims under load"
    if idle:
        yield f"{idle} card{'s' * (idle > 1)} of those at hand are not needed"
    yield from sized.notes if sized else ()
