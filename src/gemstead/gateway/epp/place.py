"""A desk as those parts see it that it shares with a gateway's worker: talk with other pickers, and ears at engines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic

from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.figures import Figures
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policy import Policy


class DeskPlace:
    """A `gateway.place.PlaceToWait`."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk, self.loop = desk, loop

    @property
    def figures(self) -> Figures:
        return self._desk.figures

    @property
    def picker(self) -> Policy:
        return self._desk.picker

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        return self._desk.named

    @property
    def waitroom(self) -> DeskPlace:
        return self

    @property
    def waiting(self) -> int:
        return len(self._desk.queue)

    def look(self) -> None:
        self._desk.next_ones(monotonic())
