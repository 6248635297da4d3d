"""Demand out of a real ledger."""

from __future__ import annotations

import datetime

import pytest

from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import open_to_write
from gemstead.ledger.log import SqliteLog
from gemstead.operate.demand import DAY_S, seen
from gemstead.refused import Reason

MIDNIGHT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC).timestamp()
NOON = MIDNIGHT + DAY_S / 2


def call(began: float, **values: object) -> AuditRecord:
    fields: dict[str, object] = {
        "call_id": f"call-{began:.3f}-{len(values)}",
        "began": began,
        "route": "/v1/chat/completions",
        "tenant": "acme",
        "key_id": "gms_abcdefgh",
        "model": "31b",
        "pool": "gemma-4-31b",
        "endpoint": "a",
        "stream": True,
        "prompt_tokens": 1000,
        "cached_tokens": 250,
        "output_tokens": 100,
        "first_token_s": 0.2,
        "seconds": 2.0,
        "status": 200,
        "outcome": "served",
    }
    return AuditRecord(**{**fields, **values})  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path):
    def write(*records):
        connection = open_to_write(tmp_path / "audit.db", MIGRATIONS)
        append(connection, [sealed(one) for one in records])
        connection.close()
        return tmp_path / "audit.db"

    return write


def test_whole_days_are_counted_from_the_first_call_on(ledger):
    path = ledger(
        call(MIDNIGHT - 3 * DAY_S + 9.5 * 3600),
        call(MIDNIGHT - 3 * DAY_S + 9.7 * 3600),
        call(MIDNIGHT - DAY_S + 14 * 3600, prompt_tokens=2000, cached_tokens=0, output_tokens=400),
        call(MIDNIGHT + 3600),  # today is not over
    )
    found = seen(SqliteLog(path), NOON, 30)
    assert found.daily == (2, 0, 1) and found.first_day == MIDNIGHT - 3 * DAY_S
    assert found.hours[9] == pytest.approx(2 / 3) and found.hours[14] == pytest.approx(1 / 3)
    assert (found.prompt_tokens, found.output_tokens) == (pytest.approx(4000 / 3), pytest.approx(200))
    assert found.cached_share == pytest.approx(500 / 4000)


def test_who_was_turned_away_is_not_demand_and_models_are_told_apart(ledger):
    path = ledger(
        call(MIDNIGHT - 10),
        call(MIDNIGHT - 20, outcome=Reason.RATE_LIMITED, output_tokens=0, prompt_tokens=0, cached_tokens=0),
        call(MIDNIGHT - 30, pool="gemma-4-e2b"),
        call(MIDNIGHT - 40, outcome="cut"),
    )
    assert seen(SqliteLog(path), NOON, 30).requests == 3
    assert seen(SqliteLog(path), NOON, 30, "gemma-4-31b").requests == 2


def test_a_ledger_without_a_whole_day_has_no_demand(ledger, tmp_path):
    assert seen(SqliteLog(tmp_path / "audit.db"), NOON, 30) is None
    assert seen(SqliteLog(ledger(call(MIDNIGHT + 60))), NOON, 30) is None
