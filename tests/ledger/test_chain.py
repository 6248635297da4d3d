"""Whatever is done to the file afterwards, verification names the first place that is not as it was written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_records import BEGAN, record

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.audit import Act, AuditRecord
from gemstead.ledger.chain import Link, Walk
from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.proof import export, verify, verify_export
from gemstead.ledger.signing import Signer, folder_beside, known_keys, public_keys, renew
from gemstead.ledger.writer import Writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


@pytest.fixture
def signer(tmp_path):
    return Signer(tmp_path / "audit.key")


@pytest.fixture
def keys(tmp_path, signer):
    return known_keys(tmp_path / "audit.key")


def write(path, numbers, **values):
    writer = Writer(path)
    for number in numbers:
        writer.put(record(number, **values))
    assert writer.close() == 0


@pytest.fixture
def full(path, signer):
    """30 calls, an act, a checkpoint (at 31, its act at 32), 20 calls (33 to 52), a checkpoint (52, act 53), 5 calls
    (54 to 58)."""
    write(path, range(30))
    remember(path, new_act("key.create", "gms_abc", detail={"tenant": "acme"}))
    assert checkpoint(path, signer, BEGAN).seq == 31
    write(path, range(30, 50))
    assert checkpoint(path, signer, BEGAN + 60).seq == 52
    write(path, range(50, 55))
    return path


def change(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_an_untouched_file_holds(full, keys):
    found = verify(full, keys)
    assert found.fault is None
    assert (found.first, found.last, found.records, found.deleted) == (1, 58, 58, 0)
    assert (found.vouched, found.vouched_at, found.unsealed) == (52, BEGAN + 60, 0)


def test_a_checkpoint_is_made_only_of_something_new(full, signer):
    assert checkpoint(full, signer, BEGAN + 90).seq == 58
    assert checkpoint(full, signer, BEGAN + 95) is None


def rewritten_from(path, place):
    """What somebody does who knows how links are made: change a record and redo every link behind it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE audit SET tenant = 'other' WHERE seq = ?", (place,))
    before = connection.execute(
        "SELECT link FROM audit WHERE seq = :p UNION SELECT link FROM acts WHERE seq = :p", {"p": place - 1}
    ).fetchone()[0]
    last = connection.execute("SELECT head_seq FROM chain").fetchone()[0]
    for seq in range(place, last + 1):
        for table, columns, made in (
            ("audit", audittable.COLUMNS, audittable.record),
            ("acts", audittable.ACT_COLUMNS, audittable.act),
        ):
            if row := connection.execute(f"SELECT {columns} FROM {table} WHERE seq = ?", (seq,)).fetchone():
                before = chain.link(before, seq, chain.leaf(audittable.text_of(made(row))))
                connection.execute(f"UPDATE {table} SET link = ? WHERE seq = ?", (before, seq))
    connection.execute("UPDATE chain SET head_link = ?", (before,))
    connection.close()


TAMPERINGS = {
    "a field altered": ("UPDATE audit SET output_tokens = 1 WHERE seq = 20", 20, "altered"),
    "an act altered": ("UPDATE acts SET actor = 'os:nobody' WHERE seq = 31", 31, "altered"),
    "a link altered": ("UPDATE audit SET link = randomblob(32) WHERE seq = 7", 7, "altered"),
    "the first altered": ("UPDATE audit SET user = 'eve' WHERE seq = 1", 1, "altered"),
    "the last altered": ("UPDATE audit SET user = 'eve' WHERE seq = 58", 58, "altered"),
    "one removed": ("DELETE FROM audit WHERE seq = 12", 12, "removed"),
    "the first removed": ("DELETE FROM audit WHERE seq = 1", 1, "removed"),
    "several removed": ("DELETE FROM audit WHERE seq BETWEEN 33 AND 36", 33, "removed"),
    "the tail cut off": (
        "DELETE FROM audit WHERE seq > 50; DELETE FROM acts WHERE seq > 50",
        51,
        "truncated",
    ),
    "the tail cut off behind the checkpoint": ("DELETE FROM audit WHERE seq > 56", 57, "truncated"),
    "two swapped": (
        "UPDATE audit SET seq = -1 WHERE seq = 9; UPDATE audit SET seq = 9 WHERE seq = 10; "
        "UPDATE audit SET seq = 10 WHERE seq = -1",
        9,
        "altered",
    ),
    "one inserted": (
        "UPDATE audit SET seq = seq + 1000 WHERE seq >= 40; UPDATE audit SET seq = seq - 999 WHERE seq > 1000; "
        "UPDATE acts SET seq = seq + 1 WHERE seq >= 40; "
        f"INSERT INTO audit (seq, link, {audittable.COLUMNS}) "
        f"SELECT 40, link, 'req_forged', {audittable.COLUMNS.removeprefix('call_id, ')} FROM audit WHERE seq = 39",
        40,
        "altered",
    ),
    "one put behind the end": (
        f"INSERT INTO audit (seq, link, {audittable.COLUMNS}) "
        f"SELECT 59, link, 'req_forged', {audittable.COLUMNS.removeprefix('call_id, ')} FROM audit WHERE seq = 58",
        59,
        "altered",
    ),
    "a signature altered": ("UPDATE checkpoints SET at = at + 1 WHERE seq = 31", 31, "signature"),
    "the beginning moved": (
        "DELETE FROM audit WHERE seq <= 31; DELETE FROM acts WHERE seq <= 31; UPDATE chain SET base_seq = 31, "
        "base_link = (SELECT unhex(link) FROM checkpoints WHERE seq = 31)",
        31,
        "removed",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_the_first_broken_record_is_named(full, keys, what):
    statements, seq, kind = TAMPERINGS[what]
    connection = sqlite3.connect(full, isolation_level=None)
    connection.create_function("unhex", 1, bytes.fromhex)
    connection.executescript(statements)
    connection.close()
    fault = verify(full, keys).fault
    assert fault is not None
    assert (fault.seq, fault.kind) == (seq, kind)


def test_a_tail_cut_off_with_the_note_of_the_end_is_found_by_the_checkpoint(full, keys):
    cut = "UPDATE chain SET head_seq = 50, head_link = (SELECT link FROM audit WHERE seq = 50)"
    change(full, "DELETE FROM audit WHERE seq > 50", "DELETE FROM acts WHERE seq > 50", cut)
    fault = verify(full, keys).fault
    assert (fault.seq, fault.kind) == (51, "truncated")
    assert "vouches" in fault.what


def test_links_that_were_redone_are_found_at_the_next_checkpoint(full, keys):
    rewritten_from(full, 40)
    fault = verify(full, keys).fault
    assert (fault.seq, fault.kind) == (32, "rewritten")  # between the checkpoints at 31 and at 52


def test_a_rewriter_who_also_removes_checkpoints_is_found_by_one_that_lies_elsewhere(full, keys, signer):
    outside = checkpoint(full, signer, BEGAN + 120)
    rewritten_from(full, 40)
    change(full, "DELETE FROM checkpoints WHERE seq > 31")
    assert verify(full, keys).fault is None, "the file alone cannot tell"
    assert verify(full, keys, [outside]).fault.kind == "rewritten"


def test_another_ledgers_checkpoint_does_not_vouch_for_this_one(full, keys, tmp_path, signer):
    other = tmp_path / "other.db"
    write(other, range(3))
    fault = verify(full, keys, [checkpoint(other, signer, BEGAN)]).fault
    assert "another" in fault.what or "of chain" in fault.what


def test_checkpoints_of_an_unknown_key_vouch_for_nothing(full, tmp_path):
    stranger = Signer(tmp_path / "elsewhere" / "audit.key")
    found = verify(full, public_keys(folder_beside(tmp_path / "elsewhere" / "audit.key").glob("*.pem")))
    assert found.fault is None
    assert (found.vouched, found.checkpoints, len(found.unknown_keys)) == (0, 0, 1)
    assert found.unknown_keys != [stranger.key_id]


def test_a_renewed_key_goes_on_and_the_old_checkpoints_stay_good(full, tmp_path):
    first = known_keys(tmp_path / "audit.key")
    new = renew(tmp_path / "audit.key")
    both = known_keys(tmp_path / "audit.key")
    assert set(both) == {*first, new.key_id}
    checkpoint(full, new, BEGAN + 200)
    found = verify(full, both)
    assert (found.fault, found.vouched) == (None, 58)
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600


def test_records_from_before_the_chain_are_told_and_vouched_for_by_nobody(path, signer, keys):
    old = open_to_write(path, audittable.MIGRATIONS[:2])
    marks = ", ".join("?" * len(AuditRecord.__struct_fields__))
    old.executemany(
        f"INSERT INTO audit ({audittable.COLUMNS}) VALUES ({marks})",
        [audittable.row(record(number)) for number in range(4)],
    )
    old.close()
    write(path, range(4, 10))
    checkpoint(path, signer, BEGAN)
    found = verify(path, keys)
    assert (found.fault, found.unsealed, found.first, found.records) == (None, 4, 5, 7)


def test_a_missing_file_is_nothing_and_no_fault(path, keys):
    assert verify(path, keys).records == 0


@given(
    st.builds(
        AuditRecord,
        call_id=st.just("call"),
        began=st.floats(),
        tenant=st.text(st.characters(codec=None)),
        user=st.one_of(st.text(), st.none(), st.integers()),
        stream=st.one_of(st.booleans(), st.integers(0, 1)),
        prompt_tokens=st.integers(),
        seconds=st.one_of(st.floats(), st.integers(-9, 9)),
        first_token_s=st.one_of(st.none(), st.floats()),
        reason=st.sampled_from(["", ":null", '":-0.0']),
    )
)
def test_what_is_read_back_has_the_text_that_was_sealed(one):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statements in audittable.MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    values, text = audittable.sealed(one)
    try:
        audittable.append(connection, [(values, text)])
    except audittable.UNFIT:
        values, text = audittable.mended(values)
        audittable.append(connection, [(values, text)])
    [back] = connection.execute(f"SELECT {audittable.COLUMNS} FROM audit").fetchall()
    assert audittable.text_of(audittable.record(back)) == text
    connection.close()


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=2, max_size=12, unique=True), st.data())
def test_any_change_of_any_text_is_found_at_its_place(texts, data):
    before = b"\x07" * 32
    made = chain.links(before, 5, texts)
    places = [
        Link(seq, chain.leaf(text), link) for seq, (text, link) in enumerate(zip(texts, made, strict=True), 6)
    ]
    assert not list(Walk(5, before).over(places))
    broken = data.draw(st.integers(0, len(texts) - 1))
    changed = msgspec.structs.replace(places[broken], leaf=chain.leaf(texts[broken] + b"!"))
    [fault] = Walk(5, before).over([*places[:broken], changed, *places[broken + 1 :]])
    assert fault.seq == broken + 6


def test_defaults_never_change():
    """A default is left out of what was sealed: another one would make old records look altered."""
    assert audittable.text_of(AuditRecord(call_id="a", began=1.0)) == b'{"call_id":"a","began":1.0}'
    assert audittable.text_of(Act(act_id="a", at=1.0, action="b")) == b'{"act_id":"a","at":1.0,"action":"b"}'
    one = AuditRecord(call_id="a", began=1.0)
    assert {v for v in msgspec.structs.asdict(one).values() if v not in ("a", 1.0)} == {"", 0, None}


SEVERAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ledger_records import record
from gemstead.ledger.acts import new_act, remember
from gemstead.ledger.writer import Writer
writer = Writer(Path(sys.argv[2]), flush_s=0.001)
for number in range(600):
    writer.put(record(number, call_id=f"{sys.argv[3]}-{number}"))
    if number % 200 == 100:
        remember(Path(sys.argv[2]), new_act("key.create", f"{sys.argv[3]}-{number}"))
sys.exit(writer.close(within_s=30))
"""


def test_several_processes_write_one_chain(path, signer, keys, tmp_path):
    from pathlib import Path

    command = [sys.executable, "-c", SEVERAL, str(Path(__file__).parent), str(path)]
    processes = [subprocess.Popen([*command, f"w{number}"]) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    checkpoint(path, signer, BEGAN)
    found = verify(path, keys)
    assert (found.fault, found.records, found.vouched) == (None, 3 * 603 + 1, 3 * 603)


def test_an_export_is_verified_without_the_database(full, signer, keys):
    checkpoint(full, signer, BEGAN + 120)
    lines = list(export(full, BEGAN + 10, BEGAN + 40))
    full.unlink()
    found = verify_export(lines, keys)
    assert found.fault is None
    assert found.vouched >= 40
    told = [line for line in lines if b'"call":' in line]
    assert len(told) == 30


def test_an_export_of_one_tenant_tells_nothing_of_others(path, signer, keys):
    write(path, range(10), tenant="acme", user="alice")
    write(path, range(10, 20), tenant="rival", user="bob-of-rival")
    checkpoint(path, signer, BEGAN)
    lines = list(export(path, BEGAN, BEGAN + 100, "acme"))
    assert verify_export(lines, keys).fault is None
    assert b"rival" not in b"".join(lines)
    assert sum(b"alice" in line for line in lines) == 10


def broken_exports(lines):
    middle = len(lines) // 2
    yield "altered", [line.replace(b"acme", b"evil") if n == 3 else line for n, line in enumerate(lines)]
    yield "removed", lines[:middle] + lines[middle + 1 :]
    yield "reordered", [*lines[:3], lines[4], lines[3], *lines[5:]]
    yield "truncated", lines[:-1]
    yield "truncated", [*lines[:-3], lines[-1]]
    yield "signature", [*lines[:-1], lines[-1].replace(b'"seq":', b'"seq":1')]


def test_a_broken_export_is_found(full, signer, keys):
    checkpoint(full, signer, BEGAN + 120)
    lines = list(export(full, BEGAN, BEGAN + 1e6))
    for kind, broken in broken_exports(lines):
        assert verify_export(broken, keys).fault is not None, kind
    with pytest.raises(LedgerTrouble):
        verify_export([b"{}\n"], keys)
    with pytest.raises(LedgerTrouble):
        verify_export([lines[0], b"no json\n"], keys)


def test_an_export_needs_a_checkpoint_behind_it(path):
    write(path, range(3))
    with pytest.raises(LedgerTrouble, match="audit checkpoint"):
        list(export(path, BEGAN, BEGAN + 10))


def test_a_duplicate_leaves_no_hole(path, signer, keys):
    write(path, range(5))
    write(path, [2, 3, 5, 6, 6])
    checkpoint(path, signer, BEGAN)
    found = verify(path, keys)
    assert (found.fault, found.records) == (None, 8)
