"""One replica of a given width, fitted: its share of the card, its steps, its requests at once, its drafter.

The rules are told in `layout.py`, which decides how wide a replica is and how many there are. Here stand the question
(`Traffic`, `Choice`) and what one replica makes of it (`Fitted`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.models import ModelFacts
from gemstead.plan.capacity import HEADROOM, SPARES, Capacity, Demand, capacity
from gemstead.plan.drafting import Depth, depth
from gemstead.plan.from_log import Correction, corrected
from gemstead.plan.memory import MemoryBudget, budget
from gemstead.plan.placement import Media
from gemstead.plan.setup import Setup
from gemstead.plan.throughput import Saturation, estimate, saturation

ROOM = 4.0  # longest requests that a comfortable replica holds at once, each at its worst
# Of a card, for vLLM: the lower that fits. Higher ones ran out of memory while graphs were captured (the ledger).
SHARES = (0.90, 0.92)
STEPS = (16384, 8192, 4096, 2048)
VERY_LONG = 131_072  # from here on steps stay at LONG_STEP or above as long as anything fits so
LONG_STEP = 8_192
CONTEXTS = (8_192, 16_384, 32_768, 65_536, 131_072, 262_144)
LONGEST_PER_USUAL = 4  # the longest request is taken to be four usual ones when nobody says: our guess
CACHELESS = ("llamacpp", "embedded", "ollama")  # their slots are laid out when they start
SERIAL = ("transformers",)  # Gemma 4 falls back from its continuous batching to one request at a time
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
class Fitted:
    memory: MemoryBudget
    comfortable: bool
    held: int  # usual requests at once that the cache holds while they are written
    knee: Saturation
    drafting: Depth
    alone_s: float  # for each token of a lone request
    quick: bool  # a lone request meets the aim for the time per token


def fit(choice: Choice, traffic: Traffic, tp: int) -> Fitted:
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
        able = [one for one in tried if one.fits]
        if base.length >= VERY_LONG:
            large = min(LONG_STEP, own.in_steps_of)
            able = [one for one in able if one.setup.in_steps_of >= large] or able
        if able:
            return max(
                able, key=lambda one: (min(one.concurrency(one.setup.length), ROOM), one.setup.in_steps_of)
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
    if memory.setup.engine in SERIAL:
        return budget(memory.setup.with_(requests=1))
    return budget(memory.setup.with_(requests=_knee(memory, traffic).running))


def _knee(memory: MemoryBudget, traffic: Traffic) -> Saturation:
    setup = memory.setup.with_(requests=None)
    held = budget(setup).decoding(min(traffic.usual, setup.length)) if memory.fits else 1
    if setup.engine in CACHELESS:
        held = memory.setup.at_once
    if setup.engine in SERIAL:
        held = 1
    found = saturation(
        setup.with_(drafter=False, draft_tokens=0),  # where drafts stop helping is not where requests do
        traffic.prompt_tokens,
        traffic.output_tokens,
        most_running=max(1, held),
        longest_tpot_s=traffic.longest_tpot_s,
    )
    return replace(found, why="it answers one at a time") if setup.engine in SERIAL else found


def _judged(memory: MemoryBudget, traffic: Traffic, drafting: Depth) -> Fitted:
    knee = _knee(memory, traffic)
    setup = memory.setup
    alone = estimate(setup, 1, traffic.prompt_tokens, traffic.output_tokens)
    held = max(1, memory.decoding(min(traffic.usual, setup.length)))
    quick = traffic.longest_tpot_s is None or alone.tpot_s.likely <= traffic.longest_tpot_s
    if setup.engine in CACHELESS:  # slots are laid out whole; a processor serves few in any case
        roomy = setup.at_once >= ROOM or setup.accelerator.vendor == "cpu"
    else:
        roomy = memory.concurrency(setup.length) >= ROOM
    return Fitted(memory, memory.fits and roomy, held, knee, drafting, alone.tpot_s.likely, quick)


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
    busiest = sized(plain, traffic, _held(plain, traffic), 0)
    return max(1, round(busiest.in_air / max(1, busiest.replicas - busiest.spares))) if busiest else QUIET


def _held(memory: MemoryBudget, traffic: Traffic) -> int:
    return max(1, memory.decoding(min(traffic.usual, memory.setup.length)))


def sized(memory: MemoryBudget, traffic: Traffic, held: int, drafts: int) -> Capacity | None:
    assert traffic.demand is not None
    return capacity(
        memory.setup,
        traffic.demand,
        most_running=held,
        draft_tokens=drafts,
        headroom=traffic.headroom,
        spares=traffic.spares,
    )
