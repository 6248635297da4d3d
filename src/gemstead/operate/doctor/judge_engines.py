"""The judgement of installed engines: new enough for Gemma 4, and free of known faults on these cards.

From which version an engine serves what, and what is known to go wrong, is the catalogue's to say. Entries of the
ledger that depend on how an engine is launched are left to `gemstead plan`, which knows the launch.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.catalogue import Catalogue
from gemstead.catalog.engine_versions import EngineFacts, engine_facts
from gemstead.catalog.known_bad import KnownBad, consult
from gemstead.operate.doctor.finding import Finding
from gemstead.operate.doctor.seen import Engine, Seen
from gemstead.refused import Refused

LEVELS = {"unsafe": "problem", "stops": "problem", "wrong": "warning", "slow": "note", "note": "note"}


def engines(seen: Seen, catalogue: Catalogue) -> Iterator[Finding]:
    """Findings on engines that are installed here; none installed is well, for one comes with us."""
    cards = list(_known(seen, catalogue))
    for engine in seen.engines:
        yield from _engine(engine, engine_facts(engine.name, catalogue.engines), cards, catalogue)


def _engine(
    engine: Engine, facts: EngineFacts, cards: list[Accelerator], catalogue: Catalogue
) -> Iterator[Finding]:
    name = f"{facts.title} {engine.version}"
    if fault := facts.fault_of(engine.version):
        remedy = f"install {facts.title} {facts.latest_seen}"
        yield Finding("engine", "problem", fault, engine.where, remedy)
        return
    if facts.status != "supported":
        why = facts.notes[0] if facts.notes else engine.where
        yield Finding(
            "engine", "warning", f"{name} is {facts.status} for Gemma 4", why, "prefer vLLM or SGLang"
        )
        return
    yield Finding("engine", "ok", name, engine.where)
    if later := facts.fault_of(engine.version, features=("mtp",)):
        remedy = f"install {facts.title} {facts.latest_seen} for drafting"
        yield Finding("engine", "note", later, engine.where, remedy)
    for entry in _ledger(engine, cards, catalogue):
        for_whom = f" (with {', '.join(entry.models)})" if entry.models else ""
        level = LEVELS[entry.severity] if entry.certain and not entry.models else "note"
        yield Finding(
            "engine", level, f"{name}: {entry.symptom}{for_whom}", entry.issue or engine.where, entry.remedy
        )


def _ledger(engine: Engine, cards: list[Accelerator], catalogue: Catalogue) -> Iterator[KnownBad]:
    """Entries about this very version, whatever is launched with it. One that holds for all versions is no news."""
    anywhere: list[Accelerator | None] = [*cards] or [None]
    met = {
        entry.id: entry
        for card in anywhere
        for entry in consult(engine.name, engine.version, None, card, among=catalogue.known_bad)
    }
    for entry in met.values():
        launch = (
            entry.flags,
            entry.any_flags,
            entry.without,
            entry.env,
            entry.without_env,
            entry.checkpoints,
        )
        if entry.versions and not any(launch) and not entry.beside:
            yield entry


def _known(seen: Seen, catalogue: Catalogue) -> Iterator[Accelerator]:
    for name in dict.fromkeys(card.name for card in seen.cards):
        try:
            yield catalogue.accelerator(name)
        except Refused:
            continue
