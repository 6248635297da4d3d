"""What decides about batches: orders, lines, the life of a batch, the pace of background calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.openai import batches, files
from gemstead.openai.batches import (
    ENDED,
    Batch,
    CancelAsked,
    Checked,
    Counts,
    Fault,
    Order,
    Rejected,
    Settled,
    Tick,
    Usage,
    Written,
    read_order,
    resume,
    step,
)
from gemstead.openai.batchline import Line, answered, read, unanswered
from gemstead.refused import Refused
from gemstead.traffic.pace import Pace, room_of

ORDER = Order(
    input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h", window_s=86_400
)
NEW = Batch(batch_id="batch_1", tenant="acme", order=ORDER, created_at=100, expires_at=100 + 86_400)
FAULT = Fault(code="empty_file", message="no lines")
WRITTEN = Written("file-o", "", Counts(total=3, completed=3), Usage(prompt=1, output=2))


def lived(*events: object, batch: Batch = NEW, now: int = 200) -> tuple[Batch, tuple[str, ...]]:
    commands: tuple[str, ...] = ()
    for event in events:
        batch, commands = step(batch, event, now)
    return batch, commands


@pytest.mark.parametrize(
    ("events", "status", "commands"),
    [
        ((Checked(3, "m"),), "in_progress", ("run",)),
        ((Rejected((FAULT,)),), "failed", ("clean",)),
        ((Checked(3, "m"), Settled(2)), "in_progress", ()),
        ((Checked(3, "m"), Settled(3)), "finalizing", ("write",)),
        ((Checked(3, "m"), Settled(3), WRITTEN), "completed", ("clean",)),
        ((Checked(3, "m"), CancelAsked()), "cancelling", ("stop",)),
        ((Checked(3, "m"), CancelAsked(), Settled(1)), "cancelling", ("write",)),
        ((Checked(3, "m"), CancelAsked(), Settled(1), WRITTEN), "cancelled", ("clean",)),
        ((CancelAsked(), Checked(3, "m")), "cancelling", ()),
        ((Checked(3, "m"), Settled(3), CancelAsked()), "finalizing", ()),
        ((Checked(3, "m"), Tick()), "in_progress", ()),
        ((Settled(0),), "validating", ()),
        ((WRITTEN,), "validating", ()),
    ],
)
def test_a_batch_lives_as_openai_says(events, status, commands):
    batch, found = lived(*events)
    assert (batch.status, found) == (status, commands)


def test_a_batch_expires_and_keeps_what_is_answered():
    running, _ = lived(Checked(3, "m"))
    expiring, commands = step(running, Tick(), running.expires_at)
    assert (expiring.status, commands) == ("finalizing", ("stop",))
    over, _ = lived(Settled(1), WRITTEN, batch=expiring, now=running.expires_at + 5)
    assert (over.status, over.expired_at, over.output_file_id) == (
        "expired",
        running.expires_at + 5,
        "file-o",
    )


EVENTS = st.one_of(
    st.builds(Checked, st.just(3), st.just("m")),
    st.just(Rejected((FAULT,))),
    st.just(CancelAsked()),
    st.just(Tick()),
    st.builds(Settled, st.integers(0, 3)),
    st.just(WRITTEN),
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 100_000)), max_size=12))
def test_no_order_of_events_leads_astray(events):
    batch, now = NEW, 100
    for event, later in events:
        now += later
        was = batch
        batch, commands = step(batch, event, now)
        if was.ended:
            assert (batch, commands) == (was, ())
        # Saying it twice changes nothing more.
        assert step(batch, event, now)[0] == batch or batch.status != was.status
        assert batch.ended == (batch.status in ENDED) == bool(batch.ended_at)
        assert bool(batch.ending) <= (batch.status not in ("validating", "in_progress", "failed"))
        assert resume(batch)
        assert json.dumps(batches.form(batch))
        if batch.status == "completed":
            assert was.ending == "completed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"input_file_id": "f", "endpoint": "/v1/messages", "completion_window": "24h"}, "endpoint"),
        (
            {"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "25h"},
            "completion_window",
        ),
        (
            {"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "soon"},
            "completion_window",
        ),
        ({"input_file_id": "f", "endpoint": "/v1/embeddings", "metadata": {"k" * 65: "v"}}, "metadata"),
    ],
)
def test_an_order_that_cannot_be_is_refused_by_name(body, param):
    with pytest.raises(Refused) as refused:
        read_order(json.dumps(body).encode(), 86_400)
    assert refused.value.param == param


BODY = {"model": "m", "messages": []}
GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ("[]", "invalid_request", None),
        ({**GOOD, "custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({**GOOD, "custom_id": 7}, "invalid_request", "custom_id"),
        ({key: GOOD[key] for key in ("method", "url", "body")}, "invalid_request", "custom_id"),
        ({**GOOD, "method": "GET"}, "invalid_method", "method"),
        ({**GOOD, "url": "/v1/embeddings"}, "mismatched_url", "url"),
        ({**GOOD, "body": {}}, "missing_model", "body.model"),
        ({**GOOD, "body": {**BODY, "stream": True}}, "invalid_request", "body.stream"),
    ],
)
def test_a_line_that_cannot_run_is_a_fault_with_its_number(line, code, param):
    raw = line if isinstance(line, str) else json.dumps(line)
    fault = read(raw.encode(), 7, "/v1/chat/completions")
    assert isinstance(fault, Fault)
    assert (fault.code, fault.line, fault.param) == (code, 7, param)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_a_fault(raw):
    assert isinstance(read(raw, 1, "/v1/chat/completions"), Fault | Line)


def test_an_answer_is_one_line_whatever_the_engine_wrote():
    pretty = json.dumps({"choices": [], "text": "a\nb"}, indent=2).encode()
    written = answered("batch_req_1", "a", 200, "req_1", pretty)
    assert b"\n" not in written
    assert json.loads(written)["response"]["body"]["text"] == "a\nb"
    assert (
        json.loads(unanswered("batch_req_1", "a", "batch_expired", "late"))["error"]["code"]
        == "batch_expired"
    )
    with pytest.raises(ValueError):
        answered("batch_req_1", "a", 200, "", b"<html>")


def test_a_file_name_is_only_a_name():
    assert files.clean_name("../../etc/pass\x00wd") == "passwd"
    assert files.clean_name("C:\\a\\b.jsonl") == "b.jsonl"
    assert files.clean_name("/") == "file"


def test_the_pace_grows_slowly_and_halves_at_once():
    pace = Pace(most=8)
    for _ in range(100):
        pace = pace.taken()
    assert pace.allowed == 8
    assert pace.may_begin(7, 0.0) and not pace.may_begin(8, 0.0)
    cut = pace.turned_away(began=1.0, retry_after_s=5.0, now=2.0)
    assert cut.allowed == 4
    assert not cut.may_begin(0, 6.9) and cut.may_begin(3, 7.0)
    assert cut.turned_away(began=1.5, retry_after_s=1.0, now=2.1).allowed == 4, "it began before the cut"
    assert cut.turned_away(began=2.5, retry_after_s=1.0, now=3.0).allowed == 2


def test_background_calls_make_place_for_others():
    assert room_of(8, 8, ours=8) == 8
    assert room_of(8, 11, ours=8) == 5
    assert room_of(8, 20, ours=0) == 0
    assert room_of(0, 20, ours=0) is None
    assert not Pace(most=8, allowed=8.0).with_room(0).may_begin(0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.floats(0, 400)), max_size=60))
def test_the_pace_stays_within_its_bounds(calls):
    pace, now = Pace(most=5), 0.0
    for busy, took, wait in calls:
        began, now = now, now + took
        pace = pace.turned_away(began, wait, now) if busy else pace.taken()
        assert 1.0 <= pace.allowed <= 5.0
        assert pace.not_before <= now + 300.0
        assert not pace.may_begin(5, now + 1000.0)
        assert pace.may_begin(0, now + 1000.0)
