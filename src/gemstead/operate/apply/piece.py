"""What a bundle comes to at a place: pieces, each of which is applied whole and can be looked at.

A piece's `key` names the same thing in every bundle (kind and name, say), so that what an earlier bundle had and this
one has not is found. Pieces of one stage are applied one after another and waited for together; the next stage begins
when all of them are ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gemstead.render.bundle import Bundle, Change


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to be there; `document` is what is sent."""

    key: str
    document: dict[str, Any]
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """How a piece is doing."""

    ready: bool
    why: str = ""  # what it waits for, or what is wrong
    hopeless: bool = False  # waiting does not help: someone has to do something


@dataclass(frozen=True, slots=True)
class Record:
    """One bundle that was carried out, or begun, at a place."""

    number: int
    status: str  # "begun" | "applied"
    pieces: tuple[Piece, ...]
    at: str = ""  # ISO 8601, UTC


class PlaceError(Exception):
    """A place said no, or could not be reached; the sentence says which and what to do."""


class Place(Protocol):
    """Where a bundle is carried out. Every method raises `PlaceError` when the place refuses or is away."""

    name: str  # for the user: "cluster kind-dev, namespace gemstead"

    def pieces(self, bundle: Bundle) -> tuple[Piece, ...]:
        """What the bundle comes to, in order. Refuses what this place cannot have, before anything is done."""

    def differences(self, pieces: Sequence[Piece]) -> tuple[Change, ...]:
        """What applying them would change. Nothing is changed by asking."""

    def going_back(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """An earlier bundle's pieces, as they are applied when what came after it has to go."""

    def unwanted(self, pieces: Sequence[Piece], history: Sequence[Record]) -> tuple[str, ...]:
        """Keys of what is there of ours and is not wanted any more."""

    def apply(self, piece: Piece) -> None:
        """Make it so. Applying the same piece again changes nothing."""

    def look(self, piece: Piece) -> Seen:
        """How it is doing."""

    def remove(self, key: str) -> None:
        """Take away what is not wanted any more; done as well when it is gone already."""

    def history(self) -> tuple[Record, ...]:
        """What was carried out here, oldest first."""

    def remember(self, record: Record) -> None:
        """Keep the record, over one of the same number."""

    def url(self) -> str:
        """Where callers reach the service; empty when that is not known."""
