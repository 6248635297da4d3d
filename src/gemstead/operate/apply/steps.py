"""In which order a bundle is carried out, as a step function: events in, commands out.

    begun ── apply, stage by stage ── wait for the stage ── check ── remove what is not wanted ── applied

What was there before is removed last, after the check, so that until then nothing is lost that going back needs. The
first failure ends the run where it is; what was done stays done, and is said. Carrying the same bundle out again does
all of it again, which changes nothing where it was done already: so a second run finishes what a first one began.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gemstead.operate.apply.piece import Piece, Seen

LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is."""

    pieces: tuple[Piece, ...]
    unwanted: tuple[str, ...]
    patience_s: float  # for each stage to become ready
    done: tuple[str, ...] = ()  # keys, as they were applied
    ready: frozenset[str] = frozenset()
    removed: tuple[str, ...] = ()
    phase: str = "begin"  # begin | apply | wait | check | remove | commit | end
    until: float = 0.0  # of the stage that is waited for
    why: dict[str, str] = field(default_factory=dict)  # what each piece that is not ready waits for

    @property
    def left(self) -> tuple[str, ...]:
        """Keys that were not applied."""
        return tuple(piece.key for piece in self.pieces[len(self.done) :])

    @property
    def unready(self) -> tuple[str, ...]:
        """Keys that were applied and are not ready."""
        return tuple(key for key in self.done if key not in self.ready)


# Events.


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last command was carried out."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last command was refused, or nobody answered."""

    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """How the stage's pieces are doing, by key."""

    seen: dict[str, Seen]


Event = Started | Done | Failed | Looked

# Commands.


@dataclass(frozen=True, slots=True)
class Note:
    """Remember this run: "begun" or "applied"."""

    status: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply one piece."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class Look:
    """Look at these pieces, after a pause."""

    pieces: tuple[Piece, ...]
    pause_s: float


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the service real things."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Take away what is not wanted any more."""

    key: str


@dataclass(frozen=True, slots=True)
class End:
    """The run is over; `why` is empty when all of it was done."""

    why: str = ""


Command = Note | Apply | Look | Check | Remove | End


def step(state: State, event: Event, now: float) -> tuple[State, Command]:
    """The state after the event, and what is to be done next. `now` in seconds of any clock."""
    if isinstance(event, Failed):
        return replace(state, phase="end"), End(_blame(state, event.why))
    match state.phase, event:
        case "begin", Started():
            return replace(state, phase="apply"), Note("begun")
        case "apply", Done():
            return _next(state, now)
        case "wait", Looked():
            return _looked(state, event.seen, now)
        case "check", Done():
            return _remove(replace(state, phase="remove"))
        case "remove", Done():
            return _remove(replace(state, removed=state.unwanted[: len(state.removed) + 1]))
        case "commit", Done():
            return replace(state, phase="end"), End()
    raise ValueError(f"{type(event).__name__} does not belong to phase {state.phase}")


def applied(state: State) -> State:
    """The state once the piece that was next has been applied."""
    return replace(state, done=(*state.done, state.pieces[len(state.done)].key))


def _next(state: State, now: float) -> tuple[State, Command]:
    """The next piece of this stage; when there is none, wait for the stage."""
    at = len(state.done)
    rest = state.pieces[at:]
    if at and (not rest or rest[0].stage != state.pieces[at - 1].stage) and state.unready:
        waiting = replace(state, phase="wait", until=now + state.patience_s)
        return waiting, Look(_unready(waiting), 0.0)
    if rest:
        return state, Apply(rest[0])
    return replace(state, phase="check"), Check()


def _looked(state: State, seen: dict[str, Seen], now: float) -> tuple[State, Command]:
    ready = state.ready | {key for key, one in seen.items() if one.ready}
    why = {key: one.why for key, one in seen.items() if not one.ready}
    state = replace(state, ready=ready, why=why)
    hopeless = [f"{key}: {one.why}" for key, one in seen.items() if one.hopeless and not one.ready]
    if hopeless:
        return replace(state, phase="end"), End("; ".join(hopeless))
    if not state.unready:
        return _next(replace(state, phase="apply"), now)
    if now >= state.until:
        waits = "; ".join(f"{key}: {state.why.get(key) or 'not ready'}" for key in state.unready)
        return replace(state, phase="end"), End(f"not ready after {state.patience_s:g} s: {waits}")
    return state, Look(_unready(state), LOOK_EVERY_S)


def _unready(state: State) -> tuple[Piece, ...]:
    missing = set(state.unready)
    return tuple(piece for piece in state.pieces if piece.key in missing)


def _remove(state: State) -> tuple[State, Command]:
    if len(state.removed) < len(state.unwanted):
        return state, Remove(state.unwanted[len(state.removed)])
    return replace(state, phase="commit"), Note("applied")


def _blame(state: State, why: str) -> str:
    """The failure, with what was being done."""
    if state.phase == "apply" and state.left:
        return f"{state.left[0]}: {why}"
    if state.phase == "remove" and len(state.removed) < len(state.unwanted):
        return f"removing {state.unwanted[len(state.removed)]}: {why}"
    return why
