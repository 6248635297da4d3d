from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys

import pytest

from gemstead.ledger import generation, keyform
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import Grant, KeyBook, open_keys
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

PEPPER = b"p" * 32
NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.db"


@pytest.fixture
def store(path):
    return open_keys(path, PEPPER)


@pytest.fixture
def book(path):
    told = []
    book = KeyBook(path, PEPPER, on_trouble=told.append)
    book.told = told
    yield book
    book.close()


def refusal(book, secret, now=NOW):
    with pytest.raises(Refused) as caught:
        book.find(secret, now)
    return caught.value


def test_each_refusal_says_what_is_wrong(store, book):
    minted = store.create(Grant(expires=NOW + 10), now=NOW)
    revoked = store.create(Grant(), now=NOW)
    rotated = store.create(Grant(), now=NOW)
    store.revoke(revoked.key.key_id, now=NOW)
    successor = store.rotate(rotated.key.key_id, now=NOW, overlap_s=5)
    good = minted.secret.encode()
    for secret, now, words in [
        (b"", NOW, "no API key was given"),
        (b"sk-proj-123", NOW, "start with `gms_`"),
        (b"\xff\xfe", NOW, "start with `gms_`"),
        (good[:-1], NOW, "mistyped"),
        (good[:20] + b"!" + good[21:], NOW, "mistyped"),
        (keyform.mint().encode(), NOW, "not known"),
        (good, NOW + 10, "expired on 2027-01-15 08:00:10Z"),
        (revoked.secret.encode(), NOW, "was revoked on 2027-01-15 08:00:00Z"),
        (rotated.secret.encode(), NOW + 5, successor.key.key_id),
    ]:
        refused = refusal(book, secret, now)
        assert refused.reason is Reason.UNAUTHENTICATED
        assert refused.code == "invalid_api_key"
        assert words in refused.message
        assert secret == b"" or secret.decode("latin-1") not in refused.message
    assert book.find(good, NOW + 9.9).key_id == minted.key.key_id


def test_a_guess_that_knows_the_public_id_learns_nothing(store, book):
    """Of a key that exists, one that is revoked and one that never was, a guesser hears the same."""
    live, dead = (store.create(Grant(), now=NOW) for _ in range(2))
    store.revoke(dead.key.key_id, now=NOW)
    heard = set()
    for key_id in (live.key.key_id, dead.key.key_id, "gms_00000000"):
        body = key_id.encode() + b"x" * 22
        heard.add(refusal(book, body + keyform.checksum(body).encode()).message)
    assert len(heard) == 1


def test_another_pepper_opens_nothing_and_is_said(store, path):
    secret = store.create(Grant(), now=NOW).secret.encode()
    told = []
    book = KeyBook(path, b"q" * 32, on_trouble=told.append)
    assert refusal(book, secret).reason is Reason.LEDGER_UNAVAILABLE
    assert len(told) == 1
    assert "another `pepper`" in told[0]
    with pytest.raises(LedgerTrouble, match="another `pepper`"):
        open_keys(path, b"q" * 32).create(Grant(), now=NOW)
    assert KeyBook(path, PEPPER).find(secret, NOW)


def test_before_any_key_exists(book, store, tmp_path):
    assert "keys create" in refusal(book, keyform.mint().encode()).message
    secret = store.create(Grant(), now=NOW).secret.encode()
    assert book.find(secret, NOW)
    assert book.told == []


def test_the_folder_may_come_later(tmp_path):
    path = tmp_path / "later" / "keys.db"
    book = KeyBook(path, PEPPER)
    refusal(book, keyform.mint().encode())
    secret = open_keys(path, PEPPER).create(Grant(), now=NOW).secret.encode()
    assert book.find(secret, NOW + 1)


def test_a_change_holds_at_the_next_lookup_though_the_clock_stands_still(store, book):
    for _ in range(20):
        minted = store.create(Grant(), now=NOW)
        assert book.find(minted.secret.encode(), NOW).key_id == minted.key.key_id
        store.revoke(minted.key.key_id, now=NOW)
        assert "revoked" in refusal(book, minted.secret.encode()).message


def test_expiry_is_asked_each_time(store, book):
    secret = store.create(Grant(expires=NOW + 1), now=NOW).secret.encode()
    assert book.find(secret, NOW) is book.find(secret, NOW + 0.999)
    refusal(book, secret, NOW + 1)
    assert book.find(secret, NOW + 0.5)  # a clock set back is believed


def test_who_was_found_before_is_known_again_only_while_the_key_counts(store, book):
    minted = store.create(Grant(expires=NOW + 10), now=NOW)
    confined = store.create(Grant(networks=("10.0.0.0/8",)), now=NOW)
    caller = book.find(minted.secret.encode(), NOW)
    assert book.again(caller, NOW + 9.9) is caller
    assert book.again(caller, NOW + 10) is None  # expired
    assert (
        book.again(book.find(confined.secret.encode(), NOW, "10.1.1.1"), NOW, "10.1.1.1") is None
    )  # addresses
    assert book.again(Caller(key_id=minted.key.key_id), NOW) is None  # no caller that was found
    assert book.again(Caller(key_id="https://issuer:someone"), NOW) is None
    book.used()
    assert book.again(caller, NOW + 1) and book.used() == {minted.key.key_id: NOW + 1}
    store.revoke(minted.key.key_id, now=NOW)
    assert book.again(caller, NOW + 1) is None


def test_a_change_whose_maker_died_before_telling_is_seen_within_a_second(store, book, path):
    minted = store.create(Grant(), now=NOW)
    assert book.find(minted.secret.encode(), NOW)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE keys SET revoked_at = 1")
        connection.execute("UPDATE changes SET n = n + 1")
    connection.close()
    assert "revoked" in refusal(book, minted.secret.encode(), NOW + 1).message


def test_a_restored_file_is_seen_within_a_second(store, book, path, tmp_path):
    kept, later = store.create(Grant(), now=NOW), None
    backup = tmp_path / "backup.db"
    with sqlite3.connect(path) as live, sqlite3.connect(backup) as copy:
        live.backup(copy)
    live.close()
    copy.close()
    later = store.create(Grant(), now=NOW)
    assert book.find(later.secret.encode(), NOW)
    shutil.move(backup, path)
    assert "not known" in refusal(book, later.secret.encode(), NOW + 1).message
    assert book.find(kept.secret.encode(), NOW + 1)
    store.revoke(kept.key.key_id, now=NOW)
    assert "revoked" in refusal(book, kept.secret.encode(), NOW + 1).message


def test_a_lost_counter_is_made_anew(store, book, path):
    minted = store.create(Grant(), now=NOW)
    assert book.find(minted.secret.encode(), NOW)
    generation.path_beside(path).unlink()
    assert book.find(minted.secret.encode(), NOW + 1)
    store.revoke(minted.key.key_id, now=NOW)
    assert "revoked" in refusal(book, minted.secret.encode(), NOW + 1).message


def test_a_damaged_or_missing_file_leaves_the_last_good_table(store, book, path):
    minted = store.create(Grant(), now=NOW)
    secret = minted.secret.encode()
    assert book.find(secret, NOW)
    whole = path.read_bytes()
    for spoil in (lambda: path.write_bytes(b"rubbish " * 1000), path.unlink):
        spoil()
        for second in (1, 2, 3):
            assert book.find(secret, NOW + second).key_id == minted.key.key_id
        assert book.trouble
    assert len(book.told) == 1, "an episode of trouble is told once"
    path.write_bytes(whole)
    assert book.find(secret, NOW + 5)
    assert book.trouble == ""


def test_keys_that_cannot_be_read_are_the_services_fault(path):
    path.write_bytes(b"rubbish " * 1000)
    assert refusal(KeyBook(path, PEPPER), keyform.mint().encode()).reason is Reason.LEDGER_UNAVAILABLE


def test_a_counter_that_cannot_be_mapped_costs_a_second_not_the_service(store, path):
    minted = store.create(Grant(), now=NOW)
    counter = generation.path_beside(path)
    counter.unlink()
    counter.mkdir()
    told = []
    book = KeyBook(path, PEPPER, on_trouble=told.append)
    assert book.find(minted.secret.encode(), NOW)
    assert len(told) == 1
    store.revoke(minted.key.key_id, now=NOW)
    assert "revoked" in refusal(book, minted.secret.encode(), NOW + 1).message


def test_last_use_is_gathered_and_survives_a_reload(store, book):
    one, two = (store.create(Grant(), now=NOW) for _ in range(2))
    book.find(one.secret.encode(), NOW)
    book.find(one.secret.encode(), NOW + 3)
    store.create(Grant(), now=NOW)
    book.find(two.secret.encode(), NOW + 4)
    assert book.used() == {one.key.key_id: NOW + 3, two.key.key_id: NOW + 4}
    assert book.used() == {}


WATCHER = """
import sys
from pathlib import Path
from gemstead.ledger.keys import KeyBook
from gemstead.refused import Refused
book = KeyBook(Path(sys.argv[1]), b"p" * 32)
for line in sys.stdin:
    try:
        print(book.find(line.strip().encode(), 1_800_000_000.0).key_id, flush=True)
    except Refused as refused:
        print("refused", flush=True)
"""


def test_two_processes_see_a_revocation_at_their_next_lookup(store, path):
    """The clock that lookups are given stands still, so nothing but the mapped counter can tell."""
    watchers = [
        subprocess.Popen(
            [sys.executable, "-c", WATCHER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def ask(secret):
        for watcher in watchers:
            watcher.stdin.write(secret + "\n")
            watcher.stdin.flush()
        return [watcher.stdout.readline().strip() for watcher in watchers]

    try:
        for _ in range(25):
            minted = store.create(Grant(), now=NOW)
            assert ask(minted.secret) == [minted.key.key_id] * 2
            store.revoke(minted.key.key_id, now=NOW)
            assert ask(minted.secret) == ["refused"] * 2
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.communicate()
