"""The life of a replica: the story as a script, then the promises whatever the order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.engines.lifecycle import (
    Allowance,
    Answered,
    Command,
    DrainAsked,
    Exited,
    Listening,
    Missed,
    Observed,
    Phase,
    State,
    Tick,
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
