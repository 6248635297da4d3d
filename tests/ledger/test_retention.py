"""What rules allow is deleted, what a hold names is kept, and the chain stays verifiable."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_records import BEGAN, record

from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.audit import HashKey, PromptHashers
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.hashkeys import forget, hash_keys, path_beside, rotate
from gemstead.ledger.proof import export, verify, verify_export
from gemstead.ledger.retention import DAY_S, Rule, due, hold, holds, prune, release
from gemstead.ledger.signing import Signer, known_keys
from gemstead.ledger.writer import Writer

NOW = BEGAN + 100 * DAY_S


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


@pytest.fixture
def signer(tmp_path):
    return Signer(tmp_path / "audit.key")


@pytest.fixture
def keys(tmp_path, signer):
    return known_keys(tmp_path / "audit.key")


def write(path, days, **values):
    writer = Writer(path)
    for number, day in enumerate(days):
        name = f"{values.get('tenant', 'acme')}-{day}-{number}"
        writer.put(record(number, call_id=name, began=BEGAN + day * DAY_S, **values))
    assert writer.close() == 0


def test_what_is_too_old_goes_and_the_chain_begins_later(path, signer, keys):
    write(path, range(0, 100, 2))
    checkpoint(path, signer, NOW)
    done = prune(path, [Rule(keep_days=30, records="calls")], NOW, signer)
    assert (done.calls, done.acts, done.base) == (35, 0, 35)
    found = verify(path, keys)
    assert (found.fault, found.first, found.records, found.deleted) == (None, 36, 17, 0)
    stubs = sqlite3.connect(path).execute("SELECT count(*) FROM stubs").fetchone()
    assert stubs == (0,)


def test_one_tenants_records_leave_stubs_among_others(path, signer, keys):
    write(path, range(10), tenant="acme")
    write(path, range(10), tenant="other")
    write(path, range(10, 20), tenant="acme")
    checkpoint(path, signer, NOW)
    rules = [Rule(keep_days=5, tenant="other"), Rule(keep_days=1000, tenant="ac*")]
    assert prune(path, rules, NOW, signer).calls == 10
    found = verify(path, keys)
    assert (found.fault, found.first, found.deleted) == (None, 1, 10)
    checkpoint(path, signer, NOW)
    assert verify_export(export(path, BEGAN, NOW), keys).fault is None


def test_after_a_deletion_tampering_is_still_found(path, signer, keys):
    write(path, range(20))
    checkpoint(path, signer, NOW)
    prune(path, [Rule(keep_days=90)], NOW, signer)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM audit WHERE seq = (SELECT min(seq) FROM audit)")
    connection.commit()
    assert verify(path, keys).fault.kind == "removed"


def test_a_stub_that_is_made_up_is_found(path, signer, keys):
    write(path, range(20))
    checkpoint(path, signer, NOW)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO stubs SELECT seq, randomblob(32), link FROM audit WHERE seq = 5")
    connection.execute("DELETE FROM audit WHERE seq = 5")
    connection.commit()
    fault = verify(path, keys).fault
    assert (fault.seq, fault.kind) == (5, "altered")


def test_a_legal_hold_keeps_what_it_names_until_it_is_released(path, signer, keys):
    write(path, range(20), tenant="acme")
    write(path, range(20), tenant="other")
    one = hold(path, "acme", BEGAN + 5 * DAY_S, BEGAN + 10 * DAY_S, "case 7", NOW)
    done = prune(path, [Rule(keep_days=30, records="calls")], NOW, signer)
    assert (done.calls, done.held) == (35, 5)
    assert release(path, one.hold_id, NOW).released == NOW
    with pytest.raises(LedgerTrouble, match="audit holds"):
        release(path, one.hold_id, NOW)
    assert prune(path, [Rule(keep_days=30, records="calls")], NOW, signer).calls == 5
    assert verify(path, keys).fault is None
    assert [hold.reason for hold in holds(path)] == ["case 7"]
    actions = [row[0] for row in sqlite3.connect(path).execute("SELECT action FROM acts ORDER BY seq")]
    assert actions == ["audit.hold", "audit.prune", "audit.release", "audit.prune"]


def test_what_is_deleted_is_nowhere_in_the_files(path, signer):
    write(path, range(50), user="canary-of-deletion", tenant="gone")
    write(path, range(50), tenant="kept")
    assert b"canary-of-deletion" in path.read_bytes()
    prune(path, [Rule(keep_days=1, tenant="gone")], NOW, signer)
    for file in path.parent.glob("audit.db*"):
        assert b"canary-of-deletion" not in file.read_bytes(), file


def test_a_dry_run_deletes_nothing(path, signer):
    write(path, range(20))
    remember(path, new_act("key.create"))
    assert prune(path, [Rule(keep_days=30)], NOW, None).calls == 20
    assert prune(path, [Rule(keep_days=30)], NOW, None).calls == 20
    assert prune(path, [], NOW, signer).calls == 0


def test_the_first_rule_that_fits_counts():
    rules = [Rule(keep_days=10, records="acts"), Rule(keep_days=50, tenant="a*"), Rule(keep_days=20)]
    old = NOW - 30 * DAY_S
    assert due(rules, "acts", "acme", old, NOW)
    assert not due(rules, "calls", "acme", old, NOW)
    assert due(rules, "calls", "zeta", old, NOW)
    assert not due([Rule(keep_days=1, tenant="x")], "calls", "acme", 0.0, NOW)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 99)), min_size=1, max_size=30),
    st.lists(st.tuples(st.sampled_from(["a", "b", "*"]), st.integers(1, 99)), min_size=1, max_size=3),
)
def test_whatever_the_rules_the_chain_holds_and_exactly_what_is_due_is_gone(tmp_path_factory, calls, said):
    folder = tmp_path_factory.mktemp("pruned")
    signer, path = Signer(folder / "audit.key"), folder / "audit.db"
    rules = [Rule(keep_days=days, tenant=tenant) for tenant, days in said]
    writer = Writer(path)
    kept = set()
    for number, (tenant, day) in enumerate(calls):
        began = BEGAN + day * DAY_S
        writer.put(record(number, tenant=tenant, began=began))
        if not due(rules, "calls", tenant, began, NOW):
            kept.add(f"call-{number:06d}")
    writer.close()
    checkpoint(path, signer, NOW)
    prune(path, rules, NOW, signer)
    assert {row[0] for row in sqlite3.connect(path).execute("SELECT call_id FROM audit")} == kept
    assert verify(path, known_keys(folder / "audit.key")).fault is None


def test_prompt_hashes_differ_by_tenant_and_name_their_key(tmp_path):
    first = tmp_path / "hash.key"
    before = hash_keys(first)
    hashers = PromptHashers(before)
    one = hashers.hash(b"hello", "acme")
    assert one.startswith("hmac-sha256:1:") and len(one) == 14 + 64
    assert one == PromptHashers(hash_keys(first)).hash(b"hello", "acme")
    assert one != hashers.hash(b"hello", "other")
    assert rotate(first, "acme").id == "2"
    after = PromptHashers(hash_keys(first))
    assert after.hash(b"hello", "acme").startswith("hmac-sha256:2:")
    assert after.hash(b"hello", "other") == hashers.hash(b"hello", "other")
    assert path_beside(first).stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(HashKey(id="1", secret="ab" * 32))


def test_a_hash_key_is_forgotten_only_when_another_has_its_place(tmp_path):
    first = tmp_path / "hash.key"
    with pytest.raises(LedgerTrouble, match="in use"):
        forget(first, "1")
    rotate(first)
    forget(first, "1")
    assert [key.id for key in hash_keys(first)] == ["2"]
    with pytest.raises(LedgerTrouble, match="no hash key"):
        forget(first, "1")
    path_beside(first).write_text("[]")
    with pytest.raises(LedgerTrouble, match="backup"):
        hash_keys(first)
