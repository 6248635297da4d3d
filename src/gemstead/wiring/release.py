"""A release of a model: the seats that run it, what came before it, and what was tried and sent back."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemstead.wiring.wanted import Seat


@dataclass(frozen=True, slots=True)
class Release:
    """What a model's engines run. Labels count up while the service lives."""

    label: str
    seats: tuple[Seat, ...]

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for releases that are the same but for their label."""
        return tuple(seat.same for seat in self.seats)


@dataclass(slots=True)
class Pool:
    """The releases of one model."""

    name: str
    current: Release
    previous: Release | None = None  # to be gone back to
    held: Release | None = None  # wanted by the file, and waiting for somebody
    held_why: str = ""
    rejected: tuple[object, ...] | None = None  # the signature of a release that was sent back
    asleep: bool = False
    waking: bool = False  # calls wait for it: it is on its way
    made: int = 1
    history: list[dict[str, object]] = field(default_factory=list)  # of rollouts, newest last

    def next(self, seats: tuple[Seat, ...]) -> Release:
        """A release with a label of its own."""
        self.made += 1
        return Release(str(self.made), seats)

    def remember(self, entry: dict[str, object]) -> None:
        """Keep a rollout that has ended."""
        self.history = [*self.history[-9:], entry]
