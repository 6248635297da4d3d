"""The life of one engine process, as a step function: `step(state, event, now) -> (state, commands)`.

    starting --listening--> warming --answered--> checking --checked--> ready --drain--> draining --exited--> stopped
        \\___________________________\\__ failing ____\\____________\\
                                                   failed --exited--> backing off --due--> starting
    ready --sleep--> draining --idle--> sleeping --wake--> warming (kept its process) or starting

*Starting*: a process runs and nothing listens yet. *Warming*: it listens, the model has not answered, or is
being warmed with real requests. *Checking*: it is asked what is known (`proving.py`), because an engine with a
broken quantisation loads, answers quickly, and answers nonsense. *Ready*: it may have callers. *Failed*: we gave
it up (it hung, never became ready within its allowance, or answered nonsense) and it has been told to end.
*Backing off*: no process; the next one starts when the pause is over. A process that exits by itself goes
straight to backing off. *Draining* takes no new calls and ends when the last one has. *Sleeping*: nothing is
asked of it until it is woken; an engine that can sleep keeps its process, any other has none.

What went wrong has a cause (`diagnosis.py`), so that a slow start, a hang, a crash and a want of memory are told
apart. Three promises hold whatever the order of events: a process is only ever started when none runs; a replica
that is wanted is always started again; the pause doubles from `backoff_s` up to `backoff_most_s` and starts
afresh once a replica stayed ready for as long as the longest pause.

A hang is "calls are in flight, and neither a token nor a completion for `hang_s`". The engine's own
counters are the witness; an engine whose counters were never seen is not judged, since killing a well
engine costs more than the gateway's own deadlines do. An engine that no longer answers its health path for
`hang_s` is given up too, busy or not. Nothing here waits, signals or reads a clock: whoever runs a replica
does, and obeys the commands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gemstead.engines.diagnosis import Cause, Diagnosis

ERRORS_MOST = 5  # 5xx answers in a row; an engine that still loads says so on its health path


class Phase(StrEnum):
    STARTING = "starting"
    WARMING = "warming"
    CHECKING = "checking"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    BACKING_OFF = "backing_off"
    SLEEPING = "sleeping"
    STOPPED = "stopped"


class Command(StrEnum):
    """What the runner has to do, in order."""

    START = "start"  # one process; none runs
    TERMINATE = "terminate"  # ask it to end
    KILL = "kill"  # end it, and all it started
    SLEEP = "sleep"  # have it give back its memory, and keep its process
    WAKE = "wake"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How patient we are with one replica, in seconds."""

    start_s: float = 1800.0  # from start to the first real answer
    hang_s: float = 120.0
    backoff_s: float = 1.0
    backoff_most_s: float = 60.0
    drain_s: float = 60.0
    grace_s: float = 5.0  # between asking a process to end and ending it
    check: bool = False  # whether what it answers is looked at before it is ready


@dataclass(frozen=True, slots=True)
class Listening:
    """Something accepts connections on the engine's port."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The model gave a real answer and is warm, or, once ready, the health path answered."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What it answers was looked at. `why` says what is wrong; empty: nothing."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Missed:
    """A probe got no good answer. `error`: the engine says that it is well, and answered a call with a 5xx."""

    why: str = ""
    error: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of its work: calls in flight, and a figure that grows with every token and completion."""

    in_flight: int
    progress: float | None = None  # None: the engine did not say


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone. `code` is negative for a signal, as in `subprocess`."""

    code: int
    why: str = ""
    cause: Cause = Cause.CRASH


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """The replica is no longer wanted."""


@dataclass(frozen=True, slots=True)
class SleepAsked:
    """It is wanted again later. `keeps_process`: the engine itself can sleep."""

    keeps_process: bool = False


@dataclass(frozen=True, slots=True)
class WakeAsked:
    """It is wanted again now."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Listening | Answered | Checked | Missed | Observed | Exited | DrainAsked | SleepAsked | WakeAsked | Tick
)


@dataclass(frozen=True, slots=True)
class State:
    """One replica. Times are the caller's clock, in seconds."""

    allowance: Allowance
    phase: Phase
    since: float  # when this phase began
    running: bool = True  # a process was started and has not exited
    began: float = 0.0  # when this process was started
    due: float = 0.0  # backing off: when to start again; told to end: when to kill
    told: bool = False  # asked to end
    failures: int = 0  # in a row, without a stable time in between
    restarts: int = 0  # since the replica was first started
    well_at: float = 0.0  # last good probe
    busy: bool = False  # calls were in flight when last observed
    moved_at: float = 0.0  # last token or completion, or last moment with nothing in flight
    progress: float | None = None
    why: str = ""  # in plain words: why it last failed
    cause: Cause | None = None  # of that
    errors: int = 0  # answers with a 5xx in a row, before it was ready
    nap: bool = False  # drains to sleep, not to stop
    keeps_process: bool = False  # when it sleeps

    @property
    def takes_calls(self) -> bool:
        return self.phase is Phase.READY


Step = tuple[State, tuple[Command, ...]]


def begin(allowance: Allowance, now: float) -> Step:
    """A replica that is wanted, with the command that starts its first process."""
    return State(allowance, Phase.STARTING, now, began=now, well_at=now, moved_at=now), (Command.START,)


def step(state: State, event: Event, now: float) -> Step:
    """The replica after `event`, and what has to be done. Events that do not fit the phase change nothing."""
    if isinstance(event, Exited):
        return _exited(state, event, now)
    if isinstance(event, DrainAsked):
        return _drain(replace(state, nap=False), now)
    if isinstance(event, SleepAsked):
        return _sleep(state, event, now)
    if isinstance(event, WakeAsked):
        return _wake(state, now)
    if isinstance(event, Checked):
        return _checked(state, event, now)
    if isinstance(event, Tick):
        return _tick(state, now)
    if isinstance(event, Observed):
        return _observed(state, event, now)
    if isinstance(event, Missed) and event.error and state.phase in (Phase.WARMING, Phase.CHECKING):
        state = replace(state, errors=state.errors + 1, why=event.why)
        if state.errors >= ERRORS_MOST:
            return _fail(state, Diagnosis(Cause.ERRORS, event.why), now)
        return state, ()
    return _probed(state, event, now), ()


def pause_s(allowance: Allowance, failures: int) -> float:
    """Seconds to wait after this many failures in a row (1 is the first)."""
    return min(allowance.backoff_s * 2.0 ** min(failures - 1, 30), allowance.backoff_most_s)


def _probed(state: State, event: Listening | Answered | Missed, now: float) -> State:
    if isinstance(event, Missed):
        return state if state.phase is Phase.READY else replace(state, why=event.why or state.why)
    if isinstance(event, Listening):
        return _enter(state, Phase.WARMING, now) if state.phase is Phase.STARTING else state
    state = replace(state, well_at=now)
    if state.phase in (Phase.STARTING, Phase.WARMING):
        return _enter(state, Phase.CHECKING, now) if state.allowance.check else _ready(state, now)
    return state


def _checked(state: State, event: Checked, now: float) -> Step:
    if state.phase is not Phase.CHECKING:
        return state, ()
    if not event.why:
        return _ready(replace(state, well_at=now), now), ()
    return _fail(state, Diagnosis(Cause.NONSENSE, event.why), now)


def _ready(state: State, now: float) -> State:
    return replace(_enter(state, Phase.READY, now), moved_at=now, why="", cause=None)


def _observed(state: State, event: Observed, now: float) -> Step:
    moved = event.progress is not None and event.progress != state.progress
    if event.in_flight <= 0 or moved or state.progress is None:
        state = replace(state, moved_at=now)
    progress = state.progress if event.progress is None else event.progress
    state = replace(state, progress=progress, busy=event.in_flight > 0)
    if state.phase is Phase.DRAINING and event.in_flight <= 0 and not state.told:
        return _idle(state, now)
    return state, ()


def _idle(state: State, now: float) -> Step:
    """The last call has ended."""
    if state.nap and state.keeps_process:
        return _enter(state, Phase.SLEEPING, now), (Command.SLEEP,)
    return _tell(state, now)


def _sleep(state: State, event: SleepAsked, now: float) -> Step:
    if state.phase in (Phase.STOPPED, Phase.DRAINING, Phase.SLEEPING):
        return state, ()
    state = replace(state, nap=True, keeps_process=event.keeps_process and state.phase is Phase.READY)
    if not state.running:
        return _enter(state, Phase.SLEEPING, now), ()
    return _drain(state, now)


def _wake(state: State, now: float) -> Step:
    """From sleep, or on the way to it; a replica that drains for good is not called back."""
    if not state.nap:
        return state, ()
    if state.phase is Phase.SLEEPING:
        if state.running:
            awake = replace(_enter(state, Phase.WARMING, now), nap=False, began=now, well_at=now)
            return awake, (Command.WAKE,)
        return _start(replace(state, nap=False), now, restarts=0)
    if state.phase is Phase.DRAINING and not state.told:
        return replace(_enter(state, Phase.READY, now), nap=False, well_at=now, moved_at=now), ()
    return replace(state, nap=False, due=now, phase=Phase.FAILED, why="woken on its way to sleep"), ()


def _drain(state: State, now: float) -> Step:
    if state.phase in (Phase.STOPPED, Phase.DRAINING):
        return state, ()
    if state.phase is Phase.SLEEPING and state.running:
        return _tell(_enter(state, Phase.DRAINING, now), now)
    if not state.running:
        return _enter(state, Phase.STOPPED, now), ()
    if state.phase is Phase.READY:
        return _enter(state, Phase.DRAINING, now), ()
    state = _enter(state, Phase.DRAINING, now)
    return (state, ()) if state.told else _tell(state, now)


def _exited(state: State, event: Exited, now: float) -> Step:
    if not state.running:
        return state, ()
    state = replace(state, running=False, told=False)
    if state.nap:
        return _enter(state, Phase.SLEEPING, now), ()
    if state.phase is Phase.DRAINING:
        return _enter(state, Phase.STOPPED, now), ()
    served_s = now - state.since if state.phase is Phase.READY else 0.0
    failures = 1 if served_s >= state.allowance.backoff_most_s else state.failures + 1
    found = Diagnosis(event.cause, event.why or _in_words(event.code))
    if state.phase is Phase.FAILED:
        found = Diagnosis(state.cause or Cause.CRASH, state.why)
    due = now + pause_s(state.allowance, failures)
    state = replace(_enter(state, Phase.BACKING_OFF, now), failures=failures, due=due)
    return replace(state, why=found.why, cause=found.cause), ()


def _tick(state: State, now: float) -> Step:
    allowance = state.allowance
    if state.phase is Phase.BACKING_OFF and now >= state.due:
        return _start(state, now)
    if state.told:
        if now < state.due:
            return state, ()
        return replace(state, due=now + allowance.grace_s), (Command.KILL,)
    if state.phase is Phase.DRAINING and now - state.since >= allowance.drain_s:
        return _tell(state, now)
    if found := _given_up(state, now):
        return _fail(state, found, now)
    return state, ()


def _start(state: State, now: float, restarts: int = 1) -> Step:
    """Another process, with nothing left of the last one's signs of life."""
    fresh = replace(
        _enter(state, Phase.STARTING, now),
        running=True,
        began=now,
        well_at=now,
        moved_at=now,
        progress=None,
        busy=False,
        errors=0,
        restarts=state.restarts + restarts,
    )
    return fresh, (Command.START,)


def _given_up(state: State, now: float) -> Diagnosis | None:
    """Why the replica is to be restarted, or None."""
    allowance = state.allowance
    coming = state.phase in (Phase.STARTING, Phase.WARMING, Phase.CHECKING)
    if coming and now - state.began >= allowance.start_s:
        why = f"no answer from the model within {allowance.start_s:g} s of its start"
        return Diagnosis(Cause.SLOW_START, why)
    if state.phase is not Phase.READY:
        return None
    if state.busy and now - state.moved_at >= allowance.hang_s:
        why = f"calls wait, and neither a token nor a completion for {allowance.hang_s:g} s"
        return Diagnosis(Cause.HANG, why)
    if now - state.well_at >= allowance.hang_s:
        return Diagnosis(Cause.SILENT, f"no answer to health probes for {allowance.hang_s:g} s")
    return None


def _fail(state: State, found: Diagnosis, now: float) -> Step:
    return _tell(replace(_enter(state, Phase.FAILED, now), why=found.why, cause=found.cause), now)


def _tell(state: State, now: float) -> Step:
    return replace(state, told=True, due=now + state.allowance.grace_s), (Command.TERMINATE,)


def _enter(state: State, phase: Phase, now: float) -> State:
    return replace(state, phase=phase, since=now)


def _in_words(code: int) -> str:
    return f"ended by signal {-code}" if code < 0 else f"exited with code {code}"
