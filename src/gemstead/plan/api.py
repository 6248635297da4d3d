"""`plan(...)`: the question as people ask it, answered with a layout and its alternatives.

    from gemstead.plan import plan

    found = plan("31B", "RTX PRO 6000", 8, context=32_768)
    found.chosen.setup.tp            # 2 cards to a replica
    found.chosen.replicas            # 4
    found.chosen.alone.tpot_s.likely # seconds for each token of a lone request

Names are found in the catalogue, alternatives are laid out one by one, and the first that meets everything is chosen:
weights of higher precision before smaller ones, because they answer better, and whole cards before slices. When none
meets everything, the one that comes nearest is shown with what it lacks. No I/O, no clock; some tens of milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gemstead.catalog import names
from gemstead.catalog.accelerators import Accelerator, slices
from gemstead.catalog.catalogue import Catalogue, built_in
from gemstead.catalog.checkpoints import Checkpoint, checkpoints
from gemstead.catalog.engine_versions import engine_facts
from gemstead.catalog.models import ModelFacts, models
from gemstead.catalog.prices import typical
from gemstead.plan.asked import check_choices, check_lengths, check_numbers, refused
from gemstead.plan.capacity import DAYS, HEADROOM, SPARES, Demand
from gemstead.plan.fitted import CACHELESS, Choice, Traffic
from gemstead.plan.from_log import Correction
from gemstead.plan.layout import Layout, lay_out
from gemstead.plan.money import HOURS_A_MONTH, Bill, BreakEven, Cost, break_even, cost, owned, rented
from gemstead.plan.placement import Media
from gemstead.refused import Refused

WIDTH_ORDER = ("bf16", "fp8", "int8", "nvfp4", "int4")  # from the most precise to the smallest
TEXT_ONLY = Media()
DAY_S = 86_400.0
VENDORS = {
    "nvidia": "NVIDIA cards",
    "amd": "AMD cards",
    "google": "TPUs",
    "intel": "Intel cards",
    "cpu": "processors",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One layout with its price. Dollars; None where no price is known."""

    layout: Layout
    bill: Bill | None = None
    cost: Cost | None = None
    over_budget: bool = False

    @property
    def meets(self) -> bool:
        """Whether it fits, meets the aims, and stays within the budget."""
        return self.layout.meets and not self.over_budget


@dataclass(frozen=True, slots=True)
class Proposal:
    """The answer: what to run, what else there is, and what to know."""

    model: ModelFacts
    traffic: Traffic
    count: int | None  # cards at hand; None: as many as are needed
    best: Option
    others: tuple[Option, ...]
    against_api: BreakEven | None = None  # the chosen one against the cheapest provider of the model
    notes: tuple[str, ...] = field(default=())

    @property
    def chosen(self) -> Layout:
        """The layout to run."""
        return self.best.layout

    @property
    def options(self) -> tuple[Option, ...]:
        """The chosen one, then the alternatives."""
        return (self.best, *self.others)


def plan(
    model: str | ModelFacts,
    gpu: str | Accelerator,
    count: int | None = 1,
    *,
    users: float = 0,
    requests_per_s: float = 0,
    requests_per_user_day: float = 20,
    prompt_tokens: float = 1024,
    output_tokens: float = 256,
    context: int = 0,
    day: str | Sequence[float] = "office",
    longest_ttft_s: float | None = None,
    longest_tpot_s: float | None = None,
    engine: str = "",
    engine_version: str = "",
    weights: str = "",
    kv_dtype: str = "auto",
    tp: int | None = None,
    drafting: int | None = None,
    media: Media = TEXT_ONLY,
    headroom: float = HEADROOM,
    spares: int = SPARES,
    usd_month: float | None = None,
    utilisation: float | None = None,
    catalogue: Catalogue | None = None,
    corrections: Sequence[Correction] = (),
    compare: bool = True,
) -> Proposal:
    """What to run on these cards for this traffic, with its alternatives.

    Args:
        model: as people write it: "31B", "gemma-4-31b", "google/gemma-4-31B-it".
        gpu: a card as people write it, or a MIG slice such as "h100-sxm/1g.20gb", or one from the catalogue.
        count: cards at hand; None: as many as the traffic needs.
        users: people, of whom each asks `requests_per_user_day`; or give `requests_per_s` of the busiest hour.
            Neither: the load is unknown, and all cards are used.
        prompt_tokens, output_tokens: of a usual request.
        context: tokens of the longest request with its answer; 0: taken from the usual one.
        day: how requests spread over it: a key of `capacity.DAYS`, or 24 weights from midnight.
        longest_ttft_s, longest_tpot_s: aims in seconds, for the first token and for each further one.
        engine, engine_version: empty: what suits the card, and the newest version that is known.
        weights: a repository, a format, or a width (`BF16`, `FP8`, `INT4`, `NVFP4`); empty: the most precise that fits.
        kv_dtype: of the cache; `auto`: as the checkpoint asks.
        tp: cards to a replica; None: the fewest that are comfortable.
        drafting: tokens that a drafter writes ahead; 0: off; None: where it helps.
        media: items that a prompt may hold.
        headroom: share of the busiest hour's capacity that is kept free.
        spares: replicas that may be down without it being felt.
        usd_month: most that it may cost, in US dollars a month.
        utilisation: share of a card that vLLM or SGLang may take; None: the lower of 0.90 and 0.92 that fits.
        corrections: what this machine's start-up logs taught (`plan.from_log`).
        catalogue: cards, checkpoints, engines and prices, with the user's own among them (`operate.catalogue.load`);
            None: the built-in one.
        compare: whether alternatives are laid out as well.

    Raises:
        Refused: BAD_REQUEST for an unknown name, with the nearest there is, or for a number that cannot be.
    """
    facts = model if isinstance(model, ModelFacts) else model_named(model)
    known = catalogue or built_in()
    card = gpu if isinstance(gpu, Accelerator) else known.accelerator(gpu)
    check_numbers(
        users=users,
        requests_per_s=requests_per_s,
        requests_per_user_day=requests_per_user_day,
        longest_ttft_s=longest_ttft_s,
        longest_tpot_s=longest_tpot_s,
        usd_month=usd_month,
    )
    check_lengths(facts, context, prompt_tokens, output_tokens, media)
    check_choices(facts, count, tp, drafting, headroom, spares, day, kv_dtype, engine_version)
    if context == 0 and prompt_tokens + output_tokens > facts.context_tokens:
        context = facts.context_tokens
    demand = None
    if users or requests_per_s:
        demand = Demand(
            prompt_tokens,
            output_tokens,
            users,
            requests_per_user_day,
            requests_per_s,
            DAYS[day] if isinstance(day, str) else tuple(day),
            longest_ttft_s,
            longest_tpot_s,
        )
    traffic = Traffic(
        prompt_tokens,
        output_tokens,
        context,
        media,
        demand,
        longest_ttft_s,
        longest_tpot_s,
        headroom,
        spares,
    )
    counted = count if count is not None or demand is not None else 1
    own = Choice(
        facts,
        checkpoints(facts.size, known.checkpoints)[0],
        card,
        version=engine_version,
        tp=tp,
        kv_dtype=kv_dtype,
        drafting=drafting,
        utilisation=utilisation,
        corrections=tuple(corrections),
    )
    options = [
        _priced(lay_out(choice, traffic, cards), traffic, known, usd_month)
        for choice, cards in _choices(own, engine, weights, counted, compare, known)
    ]
    options.sort(key=_rank)  # a stable sort: among equals the order of preference stands
    if not options:
        raise refused(f"no checkpoint of {facts.title} loads on {card.name}")
    best = options[0]
    against = _against(best, facts, traffic, known)
    return Proposal(facts, traffic, counted, best, tuple(options[1:]), against, tuple(_notes(options)))


def _against(best: Option, facts: ModelFacts, traffic: Traffic, known: Catalogue) -> BreakEven | None:
    """From which volume the option is cheaper than the cheapest provider; None: one of the two has no price."""
    offers = [
        one for one in known.api_of(facts.size) if "batch" not in one.provider
    ]  # those answer within a day
    layout = best.layout
    if best.bill is None or not offers or not layout.memory.fits or not layout.replicas:
        return None
    able = layout.full.tokens_per_s.likely * layout.serving
    return break_even(best.bill, offers[0], traffic.prompt_tokens / traffic.output_tokens, able)


def _rank(option: Option) -> tuple[bool, bool, float, bool, bool]:
    """What meets everything first, then what fits at all, and of what is over the budget the cheapest first; of those
    what has room for the longest requests.

    An engine whose slots are laid out when it starts comes after one that shares a pool, even where the pool is tight:
    the longest requests are few, and for all others the pool holds many times as many.
    """
    layout = option.layout
    fits = layout.memory.fits and layout.replicas > 0
    slots = layout.setup.engine in CACHELESS and layout.setup.accelerator.vendor != "cpu"
    dear = option.bill.usd_hour if option.over_budget and option.bill else 0.0
    return not (fits and option.meets), not fits, dear, slots, not layout.comfortable


def _choices(
    own: Choice, engine: str, weights: str, count: int | None, compare: bool, known: Catalogue
) -> Iterator[tuple[Choice, int | None]]:
    """Choices to lay out, in the order of preference, with the number of cards or slices for each."""
    engines = [engine_facts(engine, known.engines).engine] if engine else _engines(own.card)
    against: Refused | None = None
    found = False
    if own.version:
        engines = engines[:1]  # a version is one engine's
    for name in engines:
        there = engine_facts(name, known.engines)
        runs_on = there.vendors
        if runs_on and own.card.vendor not in runs_on:
            where = " and ".join(VENDORS[vendor] for vendor in runs_on)
            against = against or refused(f"{there.title} does not run on {own.card.name}: only on {where}")
            continue
        try:
            forms = _forms(own, name, weights, known)
        except Refused as no:
            against = against or no
            continue
        for form in forms:
            found = True
            yield _with(own, form, name, own.card), count
    if against and not found:
        raise against
    if not compare or own.tp or own.card.is_slice or not own.card.mig:
        return
    name = engines[0]
    if against:
        return
    for piece in slices(own.card):
        if own.card.slice_count(piece.id.rpartition("/")[2]) < 2:
            continue  # a slice that takes a card alone is that card, and less
        for form in _forms(own, name, weights, known):
            if not form.fault_on(piece) and form.weights_bytes < piece.memory_bytes:
                number = count * own.card.slice_count(piece.id.rpartition("/")[2]) if count else None
                yield _with(own, form, name, piece), number
                break


def _with(own: Choice, form: Checkpoint, engine: str, card: Accelerator) -> Choice:
    return replace(own, checkpoint=form, engine=engine, card=card)


def _engines(card: Accelerator) -> list[str]:
    """Engines for a card, the preferred one first."""
    if card.vendor == "cpu":
        return ["embedded"]
    if card.vendor == "google":
        return ["vllm"]
    if card.vendor == "intel":
        return [
            "llamacpp"
        ]  # vLLM reads long prompts very slowly there (catalogue, Arc Pro B60): it has to be asked for
    return ["vllm", "sglang", "llamacpp"]


def _forms(own: Choice, engine: str, weights: str, known: Catalogue) -> list[Checkpoint]:
    """Checkpoints to try with an engine: the named one, or the first of each width from precise to small."""
    if weights:
        return [known.checkpoint(weights, own.model.size, engine, own.card)]
    found: list[Checkpoint] = []
    for bits in WIDTH_ORDER:
        of_width = (
            one
            for one in checkpoints(own.model.size, known.checkpoints)
            if one.bits == bits and not one.quantization
        )
        able = [one for one in of_width if engine in one.engines and not one.fault_on(own.card)]
        found += able[:1]
    return found[-1:] if engine in ("llamacpp", "embedded", "ollama") else found


def _priced(
    layout: Layout,
    traffic: Traffic,
    known: Catalogue,
    usd_month: float | None,
) -> Option:
    """The layout with what it costs: rented where a rent is known, else owned; all cards at hand are paid."""
    card = layout.setup.accelerator
    whole = known.accelerator(card.parent) if card.is_slice else card
    parts = whole.slice_count(card.id.rpartition("/")[2]) or 1
    cards = -(-max(layout.cards, 1) // parts)
    rent = typical(known.rents_of(whole.id))
    if rent is not None:
        bill = rented(cards, rent)
    elif whole.purchase_usd and whole.tdp_w:
        bill = owned(cards, whole.purchase_usd, whole.tdp_w)
    else:
        return Option(layout)
    if not layout.memory.fits or not layout.replicas:
        return Option(layout, bill)
    able = layout.full.tokens_per_s.likely * layout.serving
    wanted = traffic.demand.requests_per_day * traffic.output_tokens / DAY_S if traffic.demand else able
    spent = cost(
        bill,
        min(able, wanted),  # an idle night is paid too
        prompt_tokens=traffic.prompt_tokens,
        output_tokens=traffic.output_tokens,
    )
    over = usd_month is not None and bill.usd_hour * HOURS_A_MONTH > usd_month
    return Option(layout, bill, spent, over)


def _notes(options: Sequence[Option]) -> Iterator[str]:
    best = options[0]
    if not best.layout.memory.fits:
        yield "nothing fits as asked: the line that comes nearest says what to change"
    elif best.over_budget:
        assert best.bill is not None
        yield (
            f"everything that fits costs more than the budget: the least is ${best.bill.usd_month:,.0f} a month. "
            "Smaller weights or a smaller model, fewer spares, less headroom or cheaper cards cost less"
        )
    if best.bill is None:
        yield "no price of this card is known: name yours with `gemstead catalog refresh FILE`"


def model_named(name: str) -> ModelFacts:
    """A model by its size ("31B", "26B") or any of its names.

    Raises:
        Refused: there is no such Gemma 4, with the nearest.
    """
    for facts in models():
        if name.strip().casefold() in (facts.size.casefold(), facts.size.casefold().partition("-")[0]):
            return facts
    size_alone = re.fullmatch(r"\s*[a-z]?\d+b(-a\d+b)?\s*", name, re.IGNORECASE)
    return names.find(f"gemma-4-{name.strip()}" if size_alone else name)
