"""From the one file to the engines on this machine's cards: which engine, which cards, how many replicas.

`deploy.py` plans what runs on the processor; this is what runs on cards. Cards of one kind form a *group* (slices of
one profile too). Each model goes to the first group on which it fits, in the order of the file, and the rules are:

1. *Engine*: as the file says, else the first that is installed of those that suit the cards.
2. *Cards*: every later model is left one card. A model that says how many `replicas` gets what they need; those that do
   not say share what is left over, one replica after the other.
3. *Sides*: the cards of one replica lie on one side of the machine (NUMA) where that can be, wide replicas first, and
   its processors are those beside its cards: memory that a process touches first then lies there too.
4. *Side by side*: when there are more models than cards, those with the least weights share a card, each with a share
   of its memory. Only vLLM and SGLang can be told a share.

Nothing is looked up here: machine and installed versions are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gemstead.catalog.accelerators import Accelerator, with_memory
from gemstead.catalog.catalogue import Catalogue, built_in
from gemstead.catalog.checkpoints import GIB, Checkpoint, checkpoints
from gemstead.catalog.models import ModelFacts
from gemstead.plan.api import model_named, plan
from gemstead.plan.fitted import Choice, Traffic
from gemstead.plan.foreseen import foreseen
from gemstead.plan.layout import Layout, lay_out
from gemstead.plan.placement import Media, Placement
from gemstead.plan.values import Card, LoraAdapter, Machine, ModelFile, Plan, Replica
from gemstead.refused import Reason, Refused
from gemstead.spec.model import ModelSpec

PREFERRED = {  # by vendor, the first that is installed is taken
    "nvidia": ("vllm", "sglang", "llamacpp", "ollama"),
    "amd": ("vllm", "sglang", "llamacpp", "ollama"),
    "intel": ("llamacpp",),
}
CONTEXTS = (32_768, 16_384, 8_192)  # tried in this order when the file does not say
PICTURES = 4  # of one prompt, for models that take them
SHARED = 0.90  # of a card, for all engines on it together
SHARERS = ("vllm", "sglang")
BESIDE_GIB = 6.0  # what an engine needs besides its weights: work, graphs, and a cache that is worth having


@dataclass(slots=True)
class Group:
    """Cards of one kind, and which of them are still free."""

    accelerator: Accelerator
    cards: list[Card]
    free: list[Card] = field(default_factory=list)


def engine_of(model: ModelSpec, machine: Machine, versions: Mapping[str, str]) -> str:
    """The engine that runs a model here; empty: there are cards, and no engine for them is installed.

    Args:
        model: of the file, without `endpoints`.
        versions: of the installed engines, by engine; the version may be empty when it is not known.
    """
    if model.engine != "auto":
        return model.engine
    known = groups(machine)
    if model.file or not known:
        return "embedded"
    preferred = PREFERRED.get(known[0].accelerator.vendor, ())
    return next((engine for engine in preferred if engine in versions), "")


def groups(machine: Machine, catalogue: Catalogue | None = None) -> list[Group]:
    """The machine's cards that the catalogue knows, by kind, the kind with the most memory first."""
    known = catalogue or built_in()
    found: dict[str, Group] = {}
    for card in machine.cards:
        try:
            kind = known.accelerator(card.name)
        except Refused:
            continue
        if card.memory_mib and not kind.is_slice:
            kind = with_memory(kind, card.memory_mib)
        group = found.setdefault(f"{kind.id} {kind.memory_mib // 1024}", Group(kind, []))
        group.cards.append(card)
    for group in found.values():
        group.cards.sort(key=lambda card: (card.index, card.uuid))
        group.free = list(group.cards)
    return sorted(found.values(), key=lambda one: -one.accelerator.memory_mib * len(one.cards))


def on_cards(
    wanted: Sequence[tuple[ModelSpec, str]],
    machine: Machine,
    files: Mapping[str, ModelFile],
    versions: Mapping[str, str],
    *,
    start_s: float = 1800.0,
    drain_s: int = 60,
    catalogue: Catalogue | None = None,
) -> Plan:
    """The engine processes of the models that run on cards, each with its engine.

    Args:
        files: by the name in the file; what has a path is loaded from there.
        versions: of the installed engines.
        start_s, drain_s: allowances of each process.

    Raises:
        Refused: UNSUPPORTED, when a model does not fit, with the nearest that does; BAD_REQUEST for a name.
    """
    known = catalogue or built_in()
    kinds = groups(machine, known) or [_processor(machine, known)]
    asked = [_Asked.of(model, engine, files.get(model.name), versions, known) for model, engine in wanted]
    laid = _shared(asked, kinds) or _apart(asked, kinds)
    replicas, notes = [], []
    for one, layout, count, cards in sorted(laid, key=lambda entry: -entry[1].setup.tp):
        for number in range(count):
            mine = cards if layout.setup.utilisation and one.beside else _take(cards, layout.setup.tp)
            replicas.append(_replica(one, layout, number, tuple(mine), start_s, drain_s))
        notes += list(_notes(one, layout, count))
    order = [one.model.name for one in asked]
    replicas.sort(key=lambda replica: order.index(_named(asked, replica.pool)))
    return Plan(tuple(replicas), tuple(notes))


@dataclass(slots=True)
class _Asked:
    """One model of the file, with what is known of it."""

    model: ModelSpec
    engine: str
    facts: ModelFacts
    version: str
    form: Checkpoint | None  # said, and not in the catalogue
    weights: str  # said, and in the catalogue
    path: str
    known: Catalogue
    beside: bool = False  # it shares a card with others

    @classmethod
    def of(
        cls,
        model: ModelSpec,
        engine: str,
        file: ModelFile | None,
        versions: Mapping[str, str],
        known: Catalogue,
    ) -> _Asked:
        facts = model_named(model.name)
        version = model.engine_version or versions.get(engine, "")
        said, path = model.checkpoint or model.quantization or "", file.path if file else ""
        published = {
            word.casefold()
            for one in checkpoints(facts.size, known.checkpoints)
            for word in (one.repo, one.repo.rpartition("/")[2], one.bits, one.format)
        }
        form = None
        if file and path and (file.bytes or said) and said.casefold() not in published:
            form = _own_form(facts, engine, path, file.bytes, known)
        elif said and said.casefold() not in published:
            form = _own_form(facts, engine, said, 0, known)
        return cls(model, engine, facts, version, form, "" if form else said, path, known)

    @property
    def media(self) -> Media:
        """Pictures for models that see, a sound for those that hear: what people expect of them."""
        kinds = self.facts.modalities
        return Media(images=PICTURES * ("image" in kinds), audios=int("audio" in kinds))

    def layout(
        self, kind: Accelerator, count: int, tp: int | None = None, share: float | None = None
    ) -> Layout:
        """The best layout on `count` cards: as long a context as is comfortable where the file says none."""
        contexts = [self.model.context] if self.model.context else CONTEXTS
        tried: list[Layout] = []
        for context in contexts:
            tried.append(self._at(kind, count, context, tp or self.model.tensor_parallel, share))
            if tried[-1].memory.fits and tried[-1].comfortable:
                return tried[-1]
        return next((one for one in tried if one.memory.fits), tried[-1])

    def _at(self, kind: Accelerator, count: int, context: int, tp: int | None, share: float | None) -> Layout:
        context = min(context, self.facts.context_tokens)
        drafting = 0 if self.model.draft == "off" else self.model.draft_tokens
        if self.engine not in ("vllm", "sglang") and drafting is None:
            drafting = 0
        prompt, output = min(1024.0, context / 2), min(256.0, context / 4)
        if self.form is not None or kind.vendor == "cpu":
            form = self.form or checkpoints(self.facts.size, self.known.checkpoints)[0]
            choice = Choice(
                self.facts, form, kind, self.engine, self.version, tp, drafting=drafting, utilisation=share
            )
            return lay_out(choice, Traffic(prompt, output, context, self.media), count)
        return plan(
            self.facts,
            kind,
            count,
            prompt_tokens=prompt,
            output_tokens=output,
            context=context,
            engine=self.engine,
            engine_version=self.version,
            weights=self.weights,
            tp=tp,
            drafting=drafting,
            media=self.media,
            utilisation=share,
            catalogue=self.known,
            compare=False,
        ).chosen


_Laid = tuple[_Asked, Layout, int, list[Card]]


def _apart(asked: Sequence[_Asked], kinds: Sequence[Group]) -> list[_Laid]:
    """Every model on cards of its own."""
    laid: list[tuple[_Asked, Layout, int, Group]] = []
    for number, one in enumerate(asked):
        laid.append((one, *_placed(one, kinds, len(asked) - number - 1)))
    given = {id(one): count for one, _, count, _ in laid}
    for group in kinds:  # what is left over goes to those that did not say how many
        may = group.accelerator.vendor != "cpu"
        growing = [(one, layout) for one, layout, _, at in laid if may and at is group and _may_grow(one)]
        while grown := [(one, layout) for one, layout in growing if layout.setup.tp <= len(group.free)]:
            for one, layout in grown:
                if layout.setup.tp <= len(group.free):
                    del group.free[: layout.setup.tp]
                    given[id(one)] += 1
    pools = {id(group): list(group.cards) for group in kinds}
    return [(one, layout, given[id(one)], pools[id(group)]) for one, layout, _, group in laid]


def _placed(one: _Asked, kinds: Sequence[Group], later: int) -> tuple[Layout, int, Group]:
    """The first group on which a model fits, with its layout and replicas; the group's cards are taken."""
    said = one.model.replicas if "replicas" in one.model.model_fields_set else 0
    last: Layout | None = None
    for group in kinds:
        whole = sum(len(other.free) for other in kinds if other is not group)
        able = len(group.free) - max(0, later - whole)
        if able < max(1, said):
            continue
        layout = one.layout(group.accelerator, able)
        if said and layout.memory.fits and layout.setup.tp * said > able:
            narrower = max((tp for tp in (1, 2, 4, 8) if tp * said <= able), default=1)
            layout = one.layout(group.accelerator, able, narrower)
        last = layout
        count = said or 1
        if layout.memory.fits and layout.setup.tp * count <= able:
            del group.free[: layout.setup.tp * count]
            return layout, count, group
    raise Refused(Reason.UNSUPPORTED, _no_room(one, kinds, said, last), param="models")


def _may_grow(one: _Asked) -> bool:
    return "replicas" not in one.model.model_fields_set


def _shared(asked: Sequence[_Asked], kinds: Sequence[Group]) -> list[_Laid]:
    """Models beside each other on cards, when there are more of them than cards; nothing when there is no need.

    Raises:
        Refused: UNSUPPORTED, when that cannot be.
    """
    cards = [(group, card) for group in kinds for card in group.cards]
    if len(asked) <= len(cards) or kinds[0].accelerator.vendor == "cpu":
        return []
    boxes: list[tuple[Group, Card, list[_Asked]]] = [(group, card, []) for group, card in cards]
    for one in sorted(asked, key=_weight, reverse=True):
        min(boxes, key=lambda box: sum(map(_weight, box[2])) / box[0].accelerator.memory_mib)[2].append(one)
    laid: list[_Laid] = []
    for group, card, models in boxes:
        laid += _beside(group.accelerator, card, models)
    return laid


def _beside(kind: Accelerator, card: Card, models: list[_Asked]) -> list[_Laid]:
    if len(models) == 1:
        layout = models[0].layout(kind, 1, 1)
        if not layout.memory.fits:
            raise Refused(Reason.UNSUPPORTED, f"{models[0].model.name}: {layout.memory.verdict()}")
        return [(models[0], layout, 1, [card])]
    names = " and ".join(one.model.name for one in models)
    for one in models:
        if one.engine not in SHARERS:
            message = (
                f"{names} would share one card, and {one.engine} cannot be told its share; use engine vllm"
            )
            raise Refused(Reason.UNSUPPORTED, message)
        if one.model.replicas > 1 or (one.model.tensor_parallel or 1) > 1:
            message = f"{names} would share one card: there are not enough cards for `replicas` or `tensor_parallel`"
            raise Refused(Reason.UNSUPPORTED, message)
        one.beside = True
    for shares in _divisions(models):
        tried = [one.layout(kind, 1, 1, share) for one, share in zip(models, shares, strict=True)]
        if all(layout.memory.fits for layout in tried):
            return [(one, layout, 1, [card]) for one, layout in zip(models, tried, strict=True)]
    message = (
        f"{names} do not fit on one {kind.name} together; use smaller models or weights, or another card"
    )
    raise Refused(Reason.UNSUPPORTED, message)


def _divisions(models: Sequence[_Asked]) -> Iterator[list[float]]:
    """Ways to divide a card, from fair by full weights to fair by the smallest ones, then evenly."""
    for of in (_weight, lambda one: _weight(one, smallest=True), lambda one: 1.0):
        parts = [of(one) for one in models]
        yield [int(SHARED * 100 * part / sum(parts)) / 100 for part in parts]


def _weight(one: _Asked, smallest: bool = False) -> float:
    """GiB that a model wants for itself."""
    forms = [one.form] if one.form else list(checkpoints(one.facts.size, one.known.checkpoints))
    able = [form.weights_gib for form in forms if one.engine in form.engines] or [forms[0].weights_gib]
    return (min(able) if smallest else able[0]) + BESIDE_GIB


def _take(cards: list[Card], count: int) -> list[Card]:
    """Cards for one replica, taken off the list: of the side with the fewest free that has enough, else the first."""
    sides: dict[tuple[int, ...], list[Card]] = {}
    for card in cards:
        sides.setdefault(card.cpus, []).append(card)
    able = [side for side in sides.values() if len(side) >= count]
    chosen = min(able, key=len)[:count] if able else cards[:count]
    for card in chosen:
        cards.remove(card)
    return chosen


def _replica(
    one: _Asked, layout: Layout, number: int, cards: tuple[Card, ...], start_s: float, drain_s: int
) -> Replica:
    model, setup = one.model, layout.setup
    if model.slots:
        setup = setup.with_(requests=model.slots)
    name = one.facts.name
    return Replica(
        name=f"{name}-{number}",
        pool=name,
        engine=one.engine,
        model=ModelFile(one.path),
        context_tokens=setup.length,
        slots=setup.at_once,
        threads=0,
        host="127.0.0.1",
        port=0,
        thinking=model.thinking,
        start_s=start_s,
        placement=Placement(setup, name=name, media=one.media, thinking=model.thinking, drain_s=drain_s),
        cards=cards,
        cpus=tuple(sorted({cpu for card in cards for cpu in card.cpus})),
        adapters=tuple(LoraAdapter(each.name, each.path, each.rank) for each in model.adapters),
        adapters_on_demand=model.adapters_load == "on_demand",
        adapters_most=model.adapters_most or 0,
        flags=(*_fixed_pool(one, layout), *model.flags),
        kv_tokens=max(0, layout.memory.kv_tokens_reported) if setup.engine == "vllm" else 0,
        foreseen=foreseen(setup),
    )


def _fixed_pool(one: _Asked, layout: Layout) -> tuple[str, ...]:
    """Beside others a cache of a size that is said: vLLM would measure the card while a neighbour fills it."""
    if not one.beside or one.engine != "vllm":
        return ()
    return (f"--kv-cache-memory-bytes {layout.memory.safe_pool_bytes}",)


def _notes(one: _Asked, layout: Layout, count: int) -> Iterator[str]:
    setup, name = layout.setup, one.facts.name
    cards = "a processor" if setup.accelerator.vendor == "cpu" else _cards(setup.tp, setup.accelerator.name)
    drafts = f", {setup.draft_tokens} tokens drafted ahead" if setup.drafter and setup.draft_tokens else ""
    yield (
        f"{name}: {count} replica{'s' * (count > 1)} of {one.engine} on {cards}, {setup.checkpoint.repo}, context "
        f"{setup.length}, {setup.at_once} at once{drafts}"
    )
    if one.beside:
        yield f"{name} shares its card: it takes {setup.share:.0%} of the memory"
    if one.form is not None and setup.accelerator.vendor != "cpu":
        yield f"{name}: {setup.checkpoint.repo} is not in the catalogue, so it is planned as {setup.checkpoint.bits}"
    for note in layout.notes:
        if "not needed" not in note and "more than one host" not in note:  # both are about a fleet
            yield f"{name}: {note}"


def _cards(count: int, name: str) -> str:
    return f"one {name}" if count == 1 else f"{count} {name} each"


def _no_room(one: _Asked, kinds: Sequence[Group], said: int, last: Layout | None) -> str:
    free = ", ".join(f"{len(group.free)} of {len(group.cards)} {group.accelerator.name}" for group in kinds)
    if last is not None and not last.memory.fits:
        return f"{one.model.name}: {last.memory.verdict()}; free are {free}"
    wants = f"{said} replicas" if said > 1 else "a card"
    if last is not None and last.setup.tp > 1:
        wants += f" of {last.setup.tp} cards each" if said > 1 else f" for each of {last.setup.tp} shards"
    return f"{one.model.name} wants {wants}, and free are {free}: lower `replicas` or `tensor_parallel`"


def _own_form(facts: ModelFacts, engine: str, where: str, size: int, known: Catalogue) -> Checkpoint:
    """A checkpoint that only the file knows: like the catalogue's of the width that its name tells, else 16 bits."""
    published = checkpoints(facts.size, known.checkpoints)
    able = [one for one in published if engine in one.engines] or list(published)
    said = where.casefold()
    like = next((one for one in able if one.bits in said), able[0])
    weights = size / GIB if size else like.weights_gib
    return replace(like, repo=where, file="", weights_gib=weights, quantization="", drafter="")


def _processor(machine: Machine, known: Catalogue) -> Group:
    """The processor as the one card of a machine without any, for engines that were named and run there."""
    kind = with_memory(known.accelerator("cpu"), machine.memory_bytes >> 20)
    return Group(kind, [Card("cpu", "cpu")] * 64, [Card("cpu", "cpu")] * 64)


def _named(asked: Sequence[_Asked], pool: str) -> str:
    return next(one.model.name for one in asked if one.facts.name == pool)
