"""The life of a replica: the story as a script, then the promises whatever the order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.engines.diagnosis import Cause
from gemstead.engines.lifecycle import (
    Allowance,
    Answered,
    Checked,
    Command,
    DrainAsked,
    Exited,
    Listening,
    Missed,
    Observed,
    Phase,
    SleepAsked,
    State,
    Tick,
    WakeAsked,
    begin,
    pause_s,
    step,
)

PATIENT = Allowance(start_s=100, hang_s=10, backoff_s=1, backoff_most_s=8, drain_s=20, grace_s=5)


def after(*events, state=None):
    """The state and all commands after (time, event) pairs."""
    commands = []
    if state is None:
        state, first = begin(PATIENT, 0.0)
        commands.extend(first)
    for now, event in events:
        state, more = step(state, event, now)
        commands.extend(more)
    return state, commands


def test_a_replica_takes_calls_once_its_model_answered():
    state, commands = after((1, Listening()))
    assert (state.phase, state.takes_calls) == (Phase.WARMING, False)
    state, commands = after((1, Listening()), (2, Missed("503")), (3, Answered()))
    assert (state.phase, state.takes_calls, commands) == (Phase.READY, True, [Command.START])


def test_a_death_is_followed_by_a_pause_and_one_start():
    state, commands = after((3, Answered()), (4, Exited(-9)), (4.5, Tick()))
    assert (state.phase, state.why, commands) == (Phase.BACKING_OFF, "ended by signal 9", [Command.START])
    state, commands = after((5, Tick()), (5.1, Tick()), state=state)
    assert (state.phase, state.restarts, commands) == (Phase.STARTING, 1, [Command.START])


def test_pauses_double_to_the_cap_and_start_afresh_after_a_stable_time():
    assert [pause_s(PATIENT, n) for n in range(1, 7)] == [1, 2, 4, 8, 8, 8]
    worn = State(PATIENT, Phase.READY, since=0, failures=5)
    assert step(worn, Exited(1), 7.9)[0].due == 7.9 + 8
    assert step(worn, Exited(1), 8.0)[0].due == 8.0 + 1


def test_a_model_that_never_answers_is_ended_and_tried_again():
    state, commands = after((50, Listening()), (99, Missed()), (100, Tick()))
    assert (state.phase, commands[-1]) == (Phase.FAILED, Command.TERMINATE)
    state, commands = after((104, Tick()), (105, Tick()), (105.1, Exited(-9)), state=state)
    assert commands == [Command.KILL]
    assert (state.phase, state.why) == (
        Phase.BACKING_OFF,
        "no answer from the model within 100 s of its start",
    )


def test_a_hang_is_calls_in_flight_and_nothing_moving():
    ready = [(1, Answered()), (2, Observed(1, 5.0)), (3, Observed(1, 6.0))]
    moving = [(t, Observed(2, float(t))) for t in range(4, 30)] + [(29, Answered()), (30, Tick())]
    assert after(*ready, *moving)[0].phase is Phase.READY
    stuck = [(t, e) for t in range(4, 14) for e in (Observed(2, 6.0), Answered(), Tick())]
    state, commands = after(*ready, *stuck)
    assert (state.phase, commands[-1]) == (Phase.FAILED, Command.TERMINATE)
    silent = [(t, e) for t in range(4, 14) for e in (Observed(2, None), Answered(), Tick())]
    assert after(*ready, *silent)[0].phase is Phase.FAILED
    idle = [(t, e) for t in range(4, 40) for e in (Observed(0, 6.0), Answered(), Tick())]
    assert after(*ready, *idle)[0].phase is Phase.READY


def test_an_engine_without_counters_is_not_called_hung():
    quiet = [(t, e) for t in range(2, 60) for e in (Observed(3, None), Answered(), Tick())]
    assert after((1, Answered()), *quiet)[0].phase is Phase.READY


def test_an_idle_engine_that_stops_answering_is_given_up():
    state, _ = after((1, Answered()), *[(t, e) for t in range(2, 12) for e in (Missed(), Tick())])
    assert (state.phase, state.why) == (Phase.FAILED, "no answer to health probes for 10 s")


def test_draining_waits_for_the_last_call_but_not_for_ever():
    state, commands = after((1, Answered()), (2, DrainAsked()), (3, Observed(1, 1.0)))
    assert (state.phase, state.takes_calls, commands) == (Phase.DRAINING, False, [Command.START])
    done, commands = after((4, Observed(0, 2.0)), (5, Exited(0)), (99, Tick()), state=state)
    assert (done.phase, commands) == (Phase.STOPPED, [Command.TERMINATE])
    _, commands = after((22, Tick()), (27, Tick()), (32, Tick()), state=state)
    assert commands == [Command.TERMINATE, Command.KILL, Command.KILL]


def test_draining_while_backing_off_starts_nothing():
    state, commands = after((1, Exited(1)), (1.5, DrainAsked()), (50, Tick()))
    assert (state.phase, commands) == (Phase.STOPPED, [Command.START])


EVENTS = st.one_of(
    st.builds(Listening),
    st.builds(Answered),
    st.builds(Missed),
    st.builds(Observed, st.integers(0, 3), st.none() | st.integers(0, 5).map(float)),
    st.builds(Exited, st.sampled_from([-9, 0, 1])),
    st.builds(Tick),
)
SCRIPTS = st.lists(st.tuples(st.integers(0, 160).map(lambda n: n / 4), EVENTS), max_size=60)


def played(script, events=()):
    """Every (state, commands) of a script of (seconds later, event), its process obeying commands."""
    now, (state, commands) = 0.0, begin(PATIENT, 0.0)
    steps = [(now, state, commands)]
    for wait, event in [*script, *events]:
        now += wait
        state, commands = step(state, event, now)
        steps.append((now, state, commands))
    return steps


@given(SCRIPTS, st.integers(0, 60))
def test_never_two_processes(script, drain_at):
    script.insert(min(drain_at, len(script)), (1.0, DrainAsked()))
    alive = 0
    for (_, state, commands), event in zip(played(script), [None, *[e for _, e in script]], strict=True):
        if isinstance(event, Exited):
            alive = 0
        alive += commands.count(Command.START)
        assert alive <= 1
        assert state.running == bool(alive)


@given(SCRIPTS)
def test_what_is_wanted_is_always_started_again(script):
    *_, (now, state, _) = played(script)
    assert state.phase is not Phase.STOPPED
    if state.running:  # dies now
        state, _ = step(state, Exited(1), now)
    assert state.phase is Phase.BACKING_OFF
    assert state.due - now <= PATIENT.backoff_most_s
    state, commands = step(state, Tick(), max(now, state.due))
    assert (state.phase, commands) == (Phase.STARTING, (Command.START,))


@given(SCRIPTS)
def test_a_process_that_ignores_us_is_killed(script):
    *_, (now, state, _) = played(script)
    state, first = step(state, DrainAsked(), now)
    told = list(first)
    for seconds in (20, 5, 5, 5):
        now += seconds
        state, commands = step(state, Tick(), now)
        told.extend(commands)
    assert state.phase is Phase.STOPPED or told[-1] is Command.KILL


@given(SCRIPTS)
def test_the_pause_is_bounded(script):
    for _now, state, _ in played(script):
        if state.phase is Phase.BACKING_OFF:
            assert PATIENT.backoff_s <= state.due - state.since <= PATIENT.backoff_most_s


CAREFUL = Allowance(start_s=100, hang_s=10, backoff_s=1, backoff_most_s=8, drain_s=20, grace_s=5, check=True)


def careful(*events):
    state, _ = begin(CAREFUL, 0.0)
    return after(*events, state=state)


def test_what_it_answers_is_looked_at_before_it_is_ready():
    state, _ = careful((1, Listening()), (2, Answered()))
    assert (state.phase, state.takes_calls) == (Phase.CHECKING, False)
    assert careful((1, Answered()), (2, Checked()))[0].takes_calls
    state, commands = careful((1, Answered()), (2, Checked("its answers are no language")))
    assert (state.phase, state.cause, commands) == (Phase.FAILED, Cause.NONSENSE, [Command.TERMINATE])
    state, _ = after((3, Exited(0)), state=state)
    assert (state.phase, state.why) == (Phase.BACKING_OFF, "its answers are no language")


def test_a_check_that_never_ends_is_a_slow_start():
    state, commands = careful((1, Answered()), (101, Tick()))
    assert (state.phase, state.cause, commands) == (Phase.FAILED, Cause.SLOW_START, [Command.TERMINATE])


def test_causes_are_told_apart():
    hung = [(t, e) for t in range(2, 14) for e in (Observed(2, 6.0), Answered(), Tick())]
    assert after((1, Answered()), *hung)[0].cause is Cause.HANG
    silent = [(t, e) for t in range(2, 12) for e in (Missed(), Tick())]
    assert after((1, Answered()), *silent)[0].cause is Cause.SILENT
    state, _ = after((1, Exited(-9, "no memory left", Cause.MEMORY)))
    assert (state.cause, state.why) == (Cause.MEMORY, "no memory left")
    assert after((2, Tick()), (3, Answered()), state=state)[0].cause is None


def test_sleep_waits_for_the_last_call_and_waking_starts_it_again():
    state, commands = after((1, Answered()), (2, SleepAsked()), (3, Observed(1, 1.0)), (4, Observed(0, 2.0)))
    assert (state.phase, commands[-1]) == (Phase.DRAINING, Command.TERMINATE)
    state, commands = after((5, Exited(0)), (50, Tick()), state=state)
    assert (state.phase, commands) == (Phase.SLEEPING, [])
    state, commands = after((60, WakeAsked()), (61, Answered()), state=state)
    assert (state.phase, commands) == (Phase.READY, [Command.START])


def test_an_engine_that_can_sleep_keeps_its_process():
    asleep = [(1, Answered()), (2, SleepAsked(keeps_process=True)), (3, Observed(0, 2.0))]
    state, commands = after(*asleep)
    assert (state.phase, state.running, commands[-1]) == (Phase.SLEEPING, True, Command.SLEEP)
    awake, commands = after((500, Tick()), (501, WakeAsked()), (502, Answered()), state=state)
    assert (awake.phase, commands) == (Phase.READY, [Command.WAKE])
    died, commands = after((500, Exited(-9)), (501, WakeAsked()), state=state)
    assert (died.phase, commands) == (Phase.STARTING, [Command.START])
    gone, commands = after((500, DrainAsked()), (501, Exited(0)), state=state)
    assert (gone.phase, commands) == (Phase.STOPPED, [Command.TERMINATE])


def test_woken_before_it_slept_it_goes_on():
    state, commands = after((1, Answered()), (2, SleepAsked()), (3, Observed(1, 1.0)), (4, WakeAsked()))
    assert (state.phase, commands) == (Phase.READY, [Command.START])


ASKED = st.sampled_from(
    [SleepAsked(), SleepAsked(keeps_process=True), WakeAsked(), Checked(), Checked("odd")]
)


@given(st.lists(st.tuples(st.integers(0, 160).map(lambda n: n / 4), EVENTS | ASKED), max_size=60))
def test_whatever_is_asked_one_process_at_most_and_waking_brings_it_back(script):
    alive = 0
    state, commands = begin(CAREFUL, 0.0)
    now, event = 0.0, None
    for wait, event in [(0.0, None), *script]:
        now += wait
        if event is not None:
            state, commands = step(state, event, now)
        alive = 0 if isinstance(event, Exited) else alive
        alive += commands.count(Command.START)
        assert alive <= 1
        assert state.running == bool(alive)
        assert state.phase is not Phase.STOPPED
    state, commands = step(state, WakeAsked(), now)
    for number in range(60):  # its process obeys, comes up, and answers well
        now += 10
        told = Command.TERMINATE in commands or Command.KILL in commands or state.told
        event = Exited(0) if told and state.running else (Answered(), Checked(), Tick())[number % 3]
        state, commands = step(state, event, now)
        if state.phase is Phase.READY:
            break
    assert state.phase is Phase.READY
