"""Where calls are picked, for those parts that learn from outside which calls and prompts an endpoint has.

A gateway's worker is such a place (`app.Gateway`), and so is a picker behind Envoy (`epp/place.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from gemstead.gateway.figures import Figures
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policy import Policy


class Place(Protocol):
    """The endpoints by name are replaced whole when the fleet changes."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def figures(self) -> Figures: ...
    @property
    def picker(self) -> Policy: ...
    @property
    def endpoints(self) -> Mapping[str, Endpoint]: ...


class Room(Protocol):
    """Where calls wait."""

    @property
    def waiting(self) -> int: ...
    def look(self) -> None:
        """Let those go for whom there is room now."""


class PlaceToWait(Place, Protocol):
    """A place at which calls wait while endpoints are full."""

    @property
    def waitroom(self) -> Room: ...
