"""Engines: from which version each serves what, and which was the newest when this was compiled.

Only what is true of an engine as a whole stands here. What goes wrong with one version, card or flag is in the ledger
of known-bad combinations (`known_bad`); which flags a version knows is beside the engine that they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from gemstead.catalog import data, versions
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine that serves Gemma 4."""

    engine: str  # the key used everywhere: "vllm", "llamacpp"
    title: str
    status: str  # supported | experimental | unproven
    latest_seen: str
    least: dict[str, str] = field(
        default_factory=dict
    )  # feature or model size: the first version that has it
    bounds_note: str = ""
    notes: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()  # whose cards it runs on
    source: str = ""

    def least_version(self, model: str = "", features: Sequence[str] = ()) -> str:
        """The first version that serves a model (by size) with these features (`mtp`); empty: not known."""
        wanted = [self.least[name] for name in ("base", model, *features) if self.least.get(name)]
        return max(wanted, key=lambda text: versions.parsed(text) or (), default="")

    def fault_of(self, version: str, model: str = "", features: Sequence[str] = ()) -> str:
        """Why a version is too old for a model and features, as a sentence; empty: it is not."""
        least = self.least_version(model, features)
        if not version or not least or versions.parsed(version) is None:
            return ""
        if versions.within(version, f">={least}"):
            return ""
        what = f"Gemma 4 {model}".strip() + (f" with {' and '.join(features)}" if features else "")
        return f"{self.title} {version} is too old for {what}: {least} is the first that serves it"


@cache
def engines() -> tuple[EngineFacts, ...]:
    """Every engine, the usual ones first."""
    file = data.read("engine_versions")
    sources = file["sources"]
    return tuple(
        EngineFacts(
            **{
                **entry,
                "notes": tuple(entry.get("notes", ())),
                "vendors": tuple(entry.get("vendors", ())),
                "source": "; ".join(sources.get(key, key) for key in entry.get("source", ())),
            }
        )
        for entry in file["engines"]
    )


def engine_facts(engine: str, among: Sequence[EngineFacts] | None = None) -> EngineFacts:
    """What is known of an engine; `among`: what there is to choose from, the built-in catalogue when None.

    Raises:
        Refused: BAD_REQUEST, with the nearest there is.
    """
    there = engines() if among is None else among
    by_name = {one.engine: one for one in there} | {one.title.casefold(): one for one in there}
    said = engine.strip().casefold().replace("-", "_").replace("llama.cpp", "llamacpp")
    if found := by_name.get(said) or by_name.get(engine.strip().casefold()):
        return found
    close = nearest(said[:64], by_name)
    hint = f" Did you mean `{by_name[close].engine}`?" if close else ""
    known = ", ".join(one.engine for one in there)
    message = f"There is no engine `{engine[:64]}`.{hint} Known: {known}."
    raise Refused(Reason.BAD_REQUEST, message, param="engine", code="unknown_engine")
