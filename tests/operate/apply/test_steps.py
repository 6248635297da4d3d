"""The order of a run: nothing is removed before the check, and a failure says what was done and what was not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.operate.apply import steps
from gemstead.operate.apply.history import packed, unpacked
from gemstead.operate.apply.piece import Piece, Record, Seen
from gemstead.operate.apply.steps import (
    Apply,
    Check,
    Done,
    End,
    Failed,
    Look,
    Looked,
    Note,
    Remove,
    Started,
    State,
)

PIECES = (Piece("Namespace a", {}), Piece("ConfigMap b", {}), Piece("Deployment c", {}, 1))


def walk(state: State, fail_at: int = -1) -> tuple[State, list[object]]:
    """Every command of a run in which all goes well, or in which the nth command fails."""
    state, command = steps.step(state, Started(), 0.0)
    seen: list[object] = [command]
    while not isinstance(command, End):
        if len(seen) - 1 == fail_at:
            state, command = steps.step(state, Failed("refused"), 0.0)
        elif isinstance(command, Look):
            state, command = steps.step(state, Looked({one.key: Seen(True) for one in command.pieces}), 0.0)
        else:
            state = steps.applied(state) if isinstance(command, Apply) else state
            state, command = steps.step(state, Done(), 0.0)
        seen.append(command)
    return state, seen


def test_what_was_there_goes_last() -> None:
    _, commands = walk(State(PIECES, ("Deployment old",), 60))
    assert commands == [
        Note("begun"),
        Apply(PIECES[0]),
        Apply(PIECES[1]),
        Look(PIECES[:2], 0.0),
        Apply(PIECES[2]),
        Look(PIECES[2:], 0.0),
        Check(),
        Remove("Deployment old"),
        Note("applied"),
        End(),
    ]


@given(st.integers(0, 8))
def test_a_failure_ends_the_run_and_says_what_is_left(at: int) -> None:
    state, commands = walk(State(PIECES, ("Deployment old",), 60), at)
    assert isinstance(commands[-1], End)
    assert "refused" in commands[-1].why
    assert len(commands) == at + 2
    assert [*state.done, *state.left] == [piece.key for piece in PIECES]
    assert Note("applied") not in commands[:at]


def test_patience_ends_with_what_was_waited_for() -> None:
    state, command = steps.step(State((PIECES[2],), (), 60), Started(), 0.0)
    state, command = steps.step(state, Done(), 0.0)
    state, command = steps.step(steps.applied(state), Done(), 0.0)
    for now in (10.0, 59.0):
        state, command = steps.step(state, Looked({"Deployment c": Seen(False, "0 of 2 ready")}), now)
        assert isinstance(command, Look)
    state, command = steps.step(state, Looked({"Deployment c": Seen(False, "0 of 2 ready")}), 60.0)
    assert command == End("not ready after 60 s: Deployment c: 0 of 2 ready")


def test_what_cannot_become_ready_is_not_waited_for() -> None:
    state, _ = steps.step(State((PIECES[2],), (), 60), Started(), 0.0)
    state, _ = steps.step(state, Done(), 0.0)
    state, _ = steps.step(steps.applied(state), Done(), 0.0)
    _, command = steps.step(state, Looked({"Deployment c": Seen(False, "no such image", hopeless=True)}), 1.0)
    assert command == End("Deployment c: no such image")


@given(
    st.text(max_size=40), st.integers(1, 9), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)
)
def test_a_record_is_read_as_it_was_written(key: str, number: int, document: dict[str, int]) -> None:
    record = Record(number, "applied", (Piece(key, document, number),), "2026-11-21T08:00:00+00:00")
    assert unpacked(packed(record)) == record


@given(st.text(max_size=60))
def test_what_is_no_record_is_passed_over(text: str) -> None:
    assert unpacked(text) is None
