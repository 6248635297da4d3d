"""The catalogue as one value: what is built in, with a user's own facts laid over it.

Whoever plans asks this value and not the files, so that a price or a card of the user's own counts everywhere. With no
overlay it is what the other modules of this package return.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache

from gemstead.catalog import data, known_bad, prices
from gemstead.catalog.accelerators import Accelerator, accelerator, accelerators
from gemstead.catalog.checkpoints import Checkpoint, checkpoint, every
from gemstead.catalog.engine_versions import EngineFacts, engines
from gemstead.catalog.known_bad import KnownBad
from gemstead.catalog.overlay import Overlay
from gemstead.catalog.prices import ApiPrice, Price


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is known, in one place. The user's own comes first in each."""

    accelerators: tuple[Accelerator, ...]
    checkpoints: tuple[Checkpoint, ...]
    rents: tuple[Price, ...]
    api: tuple[ApiPrice, ...]
    engines: tuple[EngineFacts, ...]
    known_bad: tuple[KnownBad, ...]
    compiled: datetime.date  # of what is built in
    overlay: Overlay | None = None

    def accelerator(self, name: str) -> Accelerator:
        """As `accelerators.accelerator`, the user's own among them."""
        return accelerator(name, self.accelerators)

    def checkpoint(
        self, name: str, model: str, engine: str = "vllm", card: Accelerator | None = None
    ) -> Checkpoint:
        """As `checkpoints.checkpoint`, the user's own among them."""
        return checkpoint(name, model, engine, card, self.checkpoints)

    def rents_of(self, accelerator: str, kind: str = "") -> tuple[Price, ...]:
        """As `prices.rents`: the user's own first."""
        return prices.rents(accelerator, kind, self.rents)

    def api_of(self, model: str) -> tuple[ApiPrice, ...]:
        """As `prices.api`: the user's own first."""
        return prices.api(model, self.api)


@cache
def built_in() -> Catalogue:
    """What comes with this version."""
    return Catalogue(
        accelerators=accelerators(),
        checkpoints=every(),
        rents=prices.gpu_prices(),
        api=prices.api_prices(),
        engines=engines(),
        known_bad=known_bad.ledger(),
        compiled=prices.day_of(data.read("prices")["compiled"]),
    )


def overlaid(catalogue: Catalogue, overlay: Overlay) -> Catalogue:
    """The catalogue with a user's facts laid over it: an entry of the same name takes the place of the old one."""
    ignored = set(overlay.ignore) | {one.id for one in overlay.known_bad}
    cards = {one.id for one in overlay.accelerators}
    repos = {(one.repo, one.model, one.format) for one in overlay.checkpoints}
    named = {one.engine for one in overlay.engines}
    paid = {(one.provider.casefold(), one.model) for one in overlay.api}
    rented = {(one.accelerator, one.who.casefold(), one.kind) for one in overlay.rents}
    return Catalogue(
        accelerators=(
            *overlay.accelerators,
            *(one for one in catalogue.accelerators if one.id not in cards),
        ),
        checkpoints=(
            *overlay.checkpoints,
            *(one for one in catalogue.checkpoints if (one.repo, one.model, one.format) not in repos),
        ),
        rents=(
            *overlay.rents,
            *(
                one
                for one in catalogue.rents
                if (one.accelerator, one.who.casefold(), one.kind) not in rented
            ),
        ),
        api=(
            *overlay.api,
            *(one for one in catalogue.api if (one.provider.casefold(), one.model) not in paid),
        ),
        engines=tuple(
            next((own for own in overlay.engines if own.engine == one.engine), one)
            if one.engine in named
            else one
            for one in catalogue.engines
        ),
        known_bad=(
            *(one for one in overlay.known_bad if one.id not in overlay.ignore),
            *(one for one in catalogue.known_bad if one.id not in ignored),
        ),
        compiled=catalogue.compiled,
        overlay=overlay,
    )
