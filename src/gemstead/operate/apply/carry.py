"""Carries commands of `steps.py` out at a place, and tells what happens as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gemstead.operate.apply import steps
from gemstead.operate.apply.piece import Piece, Place, PlaceError, Record, Seen
from gemstead.operate.apply.steps import (
    Apply,
    Check,
    Command,
    Done,
    End,
    Event,
    Failed,
    Look,
    Looked,
    Note,
    Remove,
    Started,
    State,
)

KEPT = 5  # records of earlier bundles, as a place keeps them
Checker = Callable[[], str]  # what is wrong with the running service; empty: nothing


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a run."""

    what: str  # "applied" | "waiting" | "checked" | "removed" | "failed" | "done"
    key: str = ""
    why: str = ""


@dataclass(slots=True)
class Run:
    """One bundle on its way. Iterate it once; afterwards `state` and `failure` say how it went."""

    place: Place
    pieces: Sequence[Piece]
    check: Checker
    patience_s: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    state: State | None = None
    failure: str = ""
    number: int = 0

    def __iter__(self) -> Iterator[Told]:
        history = self.place.history()
        self.number = max((one.number for one in history), default=0) + 1
        unwanted = self.place.unwanted(self.pieces, history)
        state = State(tuple(self.pieces), unwanted, self.patience_s)
        state, command = steps.step(state, Started(), self.clock())
        while not isinstance(command, End):
            self.state = state
            try:
                event: Event
                told, event = self._carry_out(command)
                if isinstance(command, Apply):
                    state = steps.applied(state)
            except PlaceError as error:
                told, event = [], Failed(str(error))
            self.state = state
            yield from told
            state, command = steps.step(state, event, self.clock())
        self.state, self.failure = state, command.why
        yield Told("failed", why=command.why) if command.why else Told("done")

    def _carry_out(self, command: Command) -> tuple[list[Told], Event]:
        match command:
            case Note(status):
                self.place.remember(Record(self.number, status, tuple(self.pieces), _now()))
                return [], Done()
            case Apply(piece):
                self.place.apply(piece)
                return [Told("applied", piece.key)], Done()
            case Look(pieces, pause_s):
                return self._look(pieces, pause_s)
            case Check():
                why = self.check()
                return ([Told("checked")], Done()) if not why else ([], Failed(why))
            case Remove(key):
                self.place.remove(key)
                return [Told("removed", key)], Done()
        raise ValueError(command)

    def _look(self, pieces: Sequence[Piece], pause_s: float) -> tuple[list[Told], Event]:
        if pause_s:
            self.sleep(pause_s)
        seen: dict[str, Seen] = {}
        for piece in pieces:
            try:
                seen[piece.key] = self.place.look(piece)
            except PlaceError as error:  # looking changes nothing, so it is tried again until patience ends
                seen[piece.key] = Seen(False, str(error))
        assert self.state is not None
        before = self.state.why
        news = [
            Told("waiting", key, one.why)
            for key, one in seen.items()
            if not one.ready and one.why and before.get(key) != one.why
        ]
        return news, Looked(seen)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def earlier(history: Sequence[Record]) -> Record | None:
    """The bundle to go back to: the last one that was carried out whole and says other things than what is there."""
    if not history:
        return None
    now = history[-1]
    others = [one for one in history if one.status == "applied" and one.pieces != now.pieces]
    return others[-1] if others else None


def kept(history: Sequence[Record], record: Record) -> tuple[Record, ...]:
    """The records after this one is remembered: the newest, and always the last one that was carried out whole."""
    others = [one for one in history if one.number != record.number]
    all_ = sorted([*others, record], key=lambda one: one.number)
    newest = all_[-KEPT:]
    whole = [one for one in all_ if one.status == "applied"][-2:]
    return tuple(one for one in all_ if one in newest or one in whole)
