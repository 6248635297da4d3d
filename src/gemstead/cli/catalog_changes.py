"""What a user's own file changes in the built-in catalogue, said before anything is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from gemstead.catalog import prices
from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.catalogue import built_in
from gemstead.catalog.overlay import Overlay


def changes_of(overlay: Overlay) -> Iterator[str]:
    """What an overlay changes, a sentence each."""
    there = built_in()
    for price in overlay.rents:
        usual = prices.typical(there.rents_of(price.accelerator, price.kind))
        was = f" (built in: {usual:g} as the median)" if usual else ""
        yield f"rent {price.accelerator}: {price.usd_hour:g} USD/h {price.kind}, {price.who}{was}"
    for tokens in overlay.api:
        yield f"api {tokens.provider}, {tokens.model}: {tokens.input_usd:g} in, {tokens.output_usd:g} out"
    known = {one.id: one for one in there.accelerators}
    for card in overlay.accelerators:
        if card.id not in known:
            yield f"accelerator {card.id}: new, {card.memory_mib:,} MiB, {card.bandwidth_gbs:g} GB/s"
            continue
        differ = ", ".join(_differ(known[card.id], card))
        yield f"accelerator {card.id}: {differ or 'as it was'}"
    repos = {(one.repo, one.model, one.format) for one in there.checkpoints}
    for checkpoint in overlay.checkpoints:
        how = "changed" if (checkpoint.repo, checkpoint.model, checkpoint.format) in repos else "new"
        yield f"checkpoint {checkpoint.repo}: {how}, {checkpoint.model}, {checkpoint.weights_gib:g} GiB"
    for engine in overlay.engines:
        yield f"engine {engine.engine}: newest seen {engine.latest_seen or 'none'}"
    ids = {one.id for one in there.known_bad}
    for entry in overlay.known_bad:
        yield f"known-bad {entry.id}: {'changed' if entry.id in ids else 'new'}, {entry.severity}, {entry.symptom}"
    for one in overlay.ignore:
        yield f"known-bad {one}: ignored"


def _differ(old: Accelerator, new: Accelerator) -> Iterator[str]:
    """The fields in which two differ: `memory_mib 23034 to 22478`."""
    before, after = ({**asdict(one), "purchase": one.purchase_usd} for one in (old, new))
    for name, value in after.items():
        if before[name] != value:
            yield f"{name.replace('purchase', 'USD to buy')} {_short(before[name])} to {_short(value)}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "/".join(_short(part) for part in value.values())
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
