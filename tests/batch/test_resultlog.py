"""The result log: whatever is torn off its end, what was synced stands and nothing else is believed."""

from __future__ import annotations

import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.ledger.resultlog import Record, ResultLog, encode

RECORDS = st.lists(
    st.builds(
        Record,
        st.integers(1, 40),
        st.booleans(),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 9),
        st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b" ")),
    ),
    max_size=12,
)


def everything(log: ResultLog) -> dict[int, tuple[bool, bytes]]:
    return {line: (ok, answer) for ok in (True, False) for line, answer in log.answers(ok=ok)}


def firsts(records: list[Record]) -> dict[int, tuple[bool, bytes]]:
    """The first answer of each line."""
    return {record.line: (record.ok, record.answer) for record in reversed(records)}


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.data())
def test_a_torn_end_is_cut_off_and_the_rest_stands(records, data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        whole = b"".join(encode(record)[0] for record in records)
        cut = data.draw(st.integers(0, len(whole)))
        garbage = data.draw(st.binary(max_size=60))
        path.write_bytes(whole[:cut] + garbage)
        kept, size = [], 0
        for record in records:
            size += len(encode(record)[0])
            if size > cut:
                break
            kept.append(record)
        log = ResultLog(path)
        found = everything(log)
        assert {line: found[line] for line in firsts(kept)} == firsts(kept)
        if not (whole[:cut] + garbage).startswith(whole):  # garbage may by chance complete what was cut
            assert len(found) <= len(firsts(records))
        more = Record(99, True, 1, 2, 3, b"after")
        log.append([more])
        log.close()
        again = ResultLog(path)
        assert everything(again) == {**found, 99: (True, b"after")}
        again.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(RECORDS, max_size=4))
def test_each_line_has_its_first_answer_however_they_come(groups):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        log = ResultLog(path)
        for group in groups:
            log.append(group)
        every = [record for group in groups for record in group]
        assert everything(log) == firsts(every)
        sums = (log.completed, log.failed, log.prompt, log.cached, log.output, log.synced)
        log.close()
        again = ResultLog(path)
        assert everything(again) == firsts(every)
        assert sums == (again.completed, again.failed, again.prompt, again.cached, again.output, again.synced)
        assert [line for line, _ in again.answers(ok=True)] == sorted(
            line for line, (ok, _) in firsts(every).items() if ok
        )
        again.close()


def test_one_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "a.log"
    records = [Record(line, True, 0, 0, 1, b"answer %d" % line) for line in range(1, 4)]
    whole = b"".join(encode(record)[0] for record in records)
    start, end = len(encode(records[0])[0]), len(encode(records[0])[0] + encode(records[1])[0])
    for place in range(start, end):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        log = ResultLog(path)
        assert list(log.places) == [1], place
        log.close()


def test_what_a_full_disk_refused_can_be_appended_again(tmp_path):
    import resource

    path = tmp_path / "a.log"
    log = ResultLog(path)
    log.append([Record(1, True, 0, 0, 1, b"first")])
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = [Record(line, True, 0, 0, 1, b"x" * 500) for line in range(2, 12)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, was[1]))
    try:
        with pytest.raises(OSError):
            log.append(big)
        assert list(log.places) == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert path.stat().st_size > log.synced, "a part was written"
    log.append(big)
    log.close()
    again = ResultLog(path)
    assert sorted(again.places) == list(range(1, 12))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again.close()
