"""What the catalogue knows against what the file asks: does the model exist, is its context that long.

`read` is the whole way from text to a Spec that can be planned; `load` in `spec/` is the part that needs no catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gemstead.catalog import names
from gemstead.catalog.models import ModelFacts
from gemstead.refused import Refused
from gemstead.spec import load
from gemstead.spec.fault import Fault
from gemstead.spec.load import FILE, Loaded
from gemstead.spec.model import ModelSpec, Spec


def read(
    text: str,
    name: str = FILE,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The Spec of a text, `--set` options and environment, with every check made.

    Raises:
        SpecError: with every fault.
    """
    return load.load(text, name, overrides, environ, check)


def check(spec: Spec) -> list[Fault]:
    """What the file asks of models that they are not; no fault, no entry."""
    return [fault for i, model in enumerate(spec.models) for fault in _model(i, model)] + list(_same(spec))


def facts_of(model: ModelSpec) -> ModelFacts | None:
    """The catalogue's facts on a model of the file; None for one that only the file knows."""
    try:
        return names.find(model.name)
    except Refused:
        return None


def _model(i: int, model: ModelSpec) -> Iterator[Fault]:
    if not model.file and not model.endpoints:
        try:
            names.find(model.name)
        except Refused as refused:
            yield Fault(("models", i, "name"), refused.message.rstrip("."))
            return
    facts = facts_of(model)
    if facts and model.context and model.context > facts.context_tokens:
        allows = f"{model.context} is more than {facts.title} allows ({facts.context_tokens})"
        yield Fault(("models", i, "context"), allows)


def _same(spec: Spec) -> Iterator[Fault]:
    """Two entries whose names or aliases are spellings of the same model."""
    own = [facts_of(model) for model in spec.models]
    for i, model in enumerate(spec.models):
        facts = own[i]
        if (
            facts
            and facts in own[:i]
            and model.name.casefold() != spec.models[own.index(facts)].name.casefold()
        ):
            first = own.index(facts)
            message = f"`{model.name}` is {facts.title}, which models[{first}] is already"
            yield Fault(("models", i, "name"), message, "use `replicas` or `endpoints` for more of the same")
        for j, alias in enumerate(model.aliases):
            meant = facts_of(ModelSpec(name=alias))
            if meant and meant is not facts and meant in own:
                message = f"`{alias}` means {meant.title}, which models[{own.index(meant)}] is"
                yield Fault(("models", i, "aliases", j), message, "choose another alias")
