from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_records import BEGAN, record, until

from gemstead.ledger import read
from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.writer import Writer
from gemstead.refused import Reason

FOREVER = (0.0, 1e11)


def written(path, *records):
    connection = open_to_write(path, MIGRATIONS)
    append(connection, [sealed(one) for one in records])
    connection.close()
    return path


def test_nothing_there_is_an_empty_answer(tmp_path):
    path = tmp_path / "audit.db"
    assert read.usage(path, *FOREVER) == []
    assert read.tail(path) == []
    assert read.show(path, "x") is None
    assert read.gaps(path, *FOREVER) == []
    assert read.last_seq(path) == 0
    assert not path.exists()


def test_a_record_comes_back_as_it_was(tmp_path):
    one = record(1, first_token_s=None, stream=False, user='Ünï "quoted"', prompt_hash="hmac-sha256:00")
    two = record(2)
    path = written(tmp_path / "audit.db", one, two)
    assert read.show(path, one.call_id) == one
    assert [entry.record for entry in read.tail(path)] == [one, two]


def test_usage_adds_up_by_group(tmp_path):
    path = written(
        tmp_path / "audit.db",
        record(1, tenant="a", first_token_s=0.1),
        record(2, tenant="a", first_token_s=0.3, output_tokens=1000),
        record(3, tenant="a", outcome=Reason.RATE_LIMITED, pool="", output_tokens=0, first_token_s=None),
        record(4, tenant="b", outcome="cut", model="other", pool=""),
        record(5, tenant="b", outcome=Reason.CLIENT_LEFT, model="other", pool=""),
    )
    rows = {tuple(row.by.values()): row for row in read.usage(path, *FOREVER)}
    assert set(rows) == {("a", "gemma-4-e2b"), ("a", "gemma4:e2b"), ("b", "other")}
    big = rows["a", "gemma-4-e2b"]
    assert (big.requests, big.served, big.prompt_tokens, big.cached_tokens, big.output_tokens) == (
        2,
        2,
        200,
        80,
        1020,
    )
    assert (big.first_token_mean_s, big.first_token_p50_s, big.first_token_p99_s) == (0.2, 0.1, 0.3)
    refused = rows["a", "gemma4:e2b"]
    assert (refused.requests, refused.refused, refused.first_token_p50_s) == (1, 1, None)
    other = rows["b", "other"]
    assert (other.requests, other.served, other.refused, other.failed, other.left) == (2, 0, 0, 1, 1)
    assert next(iter(read.usage(path, *FOREVER))).by["tenant"] == "a", "the most output first"


def test_usage_of_a_period_has_its_start_and_not_its_end(tmp_path):
    path = written(tmp_path / "audit.db", *(record(n) for n in range(10)))
    (total,) = read.usage(path, BEGAN + 2, BEGAN + 5, by=())
    assert (total.by, total.requests) == ({}, 3)


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["served", "cut", "shed", "client_left"]),
            st.none() | st.floats(0, 10),
        )
    )
)
def test_every_grouping_counts_every_call(tmp_path_factory, calls):
    path = written(
        tmp_path_factory.mktemp("r") / "audit.db",
        *(
            record(n, tenant=tenant, outcome=outcome, first_token_s=first)
            for n, (tenant, outcome, first) in enumerate(calls)
        ),
    )
    for name in read.GROUPS:
        rows = read.usage(path, *FOREVER, by=(name,))
        assert sum(row.requests for row in rows) == len(calls)
        assert all(row.served + row.refused + row.failed + row.left == row.requests for row in rows)
    for row_ in read.usage(path, *FOREVER, by=("tenant",)):
        times = sorted(
            first for tenant, _, first in calls if tenant == row_.by["tenant"] and first is not None
        )
        for share, found in ((50, row_.first_token_p50_s), (99, row_.first_token_p99_s)):
            rank = math.ceil(len(times) * share / 100)
            assert found == (times[rank - 1] if times else None)


def test_every_outcome_is_counted_in_one_way_only(tmp_path):
    path = written(
        tmp_path / "audit.db", *(record(n, outcome=one) for n, one in enumerate([*Reason, "served", "cut"]))
    )
    (total,) = read.usage(path, *FOREVER, by=())
    assert total.served + total.refused + total.failed + total.left == total.requests == len(Reason) + 2
    assert (total.served, total.failed, total.left) == (1, len(read.FAILED), len(read.LEFT))


def test_the_tail_can_be_followed_and_filtered(tmp_path):
    path = written(tmp_path / "audit.db", *(record(n, tenant="ab"[n % 2]) for n in range(10)))
    last = read.tail(path, 3)
    assert [entry.record.call_id for entry in last] == ["call-000007", "call-000008", "call-000009"]
    assert read.last_seq(path) == last[-1].seq
    assert read.tail(path, 3, last[-1].seq) == []
    written(path, *(record(n) for n in range(10, 16)))
    assert [e.record.call_id for e in read.tail(path, 2, last[-1].seq)] == ["call-000010", "call-000011"]
    assert [e.record.tenant for e in read.tail(path, 3, where={"tenant": "b"})] == ["b"] * 3
    assert read.tail(path, 0) == []


def test_what_cannot_be_grouped_by_is_said(tmp_path):
    path = written(tmp_path / "audit.db")
    with pytest.raises(LedgerTrouble, match="tenant, app, user"):
        read.usage(path, *FOREVER, by=("tenant; DROP TABLE audit",))
    with pytest.raises(LedgerTrouble, match="tenant, app, user"):
        read.tail(path, where={"1=1 --": ""})


def test_reading_goes_on_while_the_service_writes(tmp_path):
    path = tmp_path / "audit.db"
    writer = Writer(path, flush_s=0.005)
    seen = 0
    for number in range(300):
        writer.put(record(number))
        found = sum(row.requests for row in read.usage(path, *FOREVER))
        assert seen <= found <= number + 1
        seen = found
    until(lambda: writer.written == 300)
    assert read.usage(path, *FOREVER)[0].requests == 300
    writer.close()


def test_a_gap_is_reported_where_it_overlaps(tmp_path):
    path = written(tmp_path / "audit.db")
    connection = open_to_write(path, MIGRATIONS)
    connection.execute("INSERT INTO gaps VALUES (?, ?, 7)", (BEGAN, BEGAN + 60))
    connection.close()
    assert [gap.records for gap in read.gaps(path, BEGAN + 30, BEGAN + 90)] == [7]
    assert read.gaps(path, BEGAN + 61, BEGAN + 90) == []
