"""What may happen to keys, on a real file, against a model that a reader can check."""

from __future__ import annotations

import math
import sqlite3
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import Grant, KeyBook, UnknownKey, open_keys
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import RateLimit

PEPPER = b"p" * 32
NOW = 1_800_000_000.0


@pytest.fixture
def store(tmp_path):
    return open_keys(tmp_path / "state" / "keys.db", PEPPER)


def test_every_right_comes_back(store, tmp_path):
    grant = Grant(
        tenant="acme",
        app="chat",
        user="ada",
        roles=("developer", "auditor"),
        priority=-5,
        models=frozenset({"gemma-4-e2b", "gemma-4-31b"}),
        limit=RateLimit(requests_per_minute=60, concurrent=4),
        note="for the demo",
        expires=NOW + 60,
    )
    minted = store.create(grant, now=NOW)
    key = store.get(minted.key.key_id)
    assert key == minted.key
    assert key.grant() == grant
    assert (key.created, key.last4) == (NOW, minted.secret[-4:])
    caller = KeyBook(tmp_path / "state" / "keys.db", PEPPER).find(minted.secret.encode(), NOW)
    assert caller == key.caller()
    assert (caller.tenant, caller.models, caller.limit) == (grant.tenant, grant.models, grant.limit)


def test_no_limit_differs_from_the_default_limit(store):
    default, free = (store.create(Grant(limit=limit), now=NOW).key for limit in (None, RateLimit()))
    assert store.get(default.key_id).limit is None
    assert store.get(free.key_id).limit == RateLimit()


def test_the_secret_is_nowhere(store, tmp_path):
    minted = store.create(Grant(), now=NOW)
    assert minted.secret not in repr(minted)
    hidden = minted.secret[len(minted.key.key_id) : -4].encode()
    for file in (tmp_path / "state").iterdir():
        assert hidden not in file.read_bytes()


def test_files_are_for_the_owner_alone(store, tmp_path):
    store.create(Grant(), now=NOW)
    book = KeyBook(tmp_path / "state" / "keys.db", PEPPER)
    assert len(book) == 0
    book.find(store.create(Grant(), now=NOW).secret.encode(), NOW)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()}
    assert set(modes) >= {"keys.db", "keys.generation"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_an_unknown_key_is_named(store):
    for act in (
        lambda: store.get("gms_nosuch"),
        lambda: store.revoke("gms_nosuch", now=NOW),
        lambda: store.rotate("gms_nosuch", now=NOW, overlap_s=0),
    ):
        with pytest.raises(UnknownKey, match="gms_nosuch"):
            act()
    assert store.list() == []


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        (Grant(tenant=""), "tenant"),
        (Grant(tenant="a\nb"), "tenant"),
        (Grant(app="x" * 129), "app"),
        (Grant(note="\x1b[2J"), "note"),
        (Grant(roles=("Root!",)), "role"),
        (Grant(models=frozenset({"\0"})), "model"),
        (Grant(expires=NOW), "past"),
        (Grant(priority=2**70), "priority"),
        (Grant(limit=RateLimit(concurrent=0)), "limit"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(store, grant, words):
    with pytest.raises(LedgerTrouble, match=words):
        store.create(grant, now=NOW)
    assert store.list() == []


def test_rotation_keeps_the_sooner_end(store):
    old = store.create(Grant(expires=NOW + 10), now=NOW).key
    new = store.rotate(old.key_id, now=NOW, overlap_s=3600).key
    assert new.grant() == old.grant()
    assert store.get(old.key_id).expires == NOW + 10
    assert store.get(old.key_id).state(NOW) == "retiring"
    with pytest.raises(LedgerTrouble, match=new.key_id):
        store.rotate(old.key_id, now=NOW + 1, overlap_s=0)


def test_many_hands_at_once(store):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create(Grant(), now=NOW).key.key_id, range(64)))
        list(pool.map(lambda key_id: store.revoke(key_id, now=NOW), made[:32]))
    states = {key.key_id: key.state(NOW) for key in store.list()}
    assert states == dict.fromkeys(made[:32], "revoked") | dict.fromkeys(made[32:], "active")


def test_last_use_only_moves_forward(store):
    key_id = store.create(Grant(), now=NOW).key.key_id
    store.touch({key_id: NOW + 5})
    store.touch({key_id: NOW + 2, "gms_gone": NOW})
    assert store.get(key_id).last_used == NOW + 5


def test_a_newer_file_is_refused(store, tmp_path):
    store.create(Grant(), now=NOW)
    with sqlite3.connect(tmp_path / "state" / "keys.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    for act in (store.list, lambda: store.create(Grant(), now=NOW)):
        with pytest.raises(LedgerTrouble, match="newer Gemstead"):
            act()


def test_what_is_not_a_database_is_said_plainly(tmp_path):
    path = tmp_path / "keys.db"
    path.write_text("hello, I am not a database, whatever my name says" * 20)
    with pytest.raises(LedgerTrouble, match="not a database"):
        open_keys(path, PEPPER).create(Grant(), now=NOW)
    with pytest.raises(LedgerTrouble, match="not a database"):
        open_keys(path, PEPPER).list()


@dataclass
class Expected:
    secret: bytes
    key_id: str
    until: float
    revoked: bool = False
    replaced: bool = False

    def opens(self, now: float) -> bool:
        return not self.revoked and now < self.until


class Lives(RuleBasedStateMachine):
    """Keys are made, rotated, revoked and grow old; a book that watches always agrees with the model."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "keys.db"
        self.store = open_keys(path, PEPPER)
        self.book = KeyBook(path, PEPPER)
        self.now = NOW
        self.all: list[Expected] = []

    @rule(target=keys, lasts=st.none() | st.floats(0.001, 500))
    def create(self, lasts):
        until = math.inf if lasts is None else self.now + lasts
        minted = self.store.create(Grant(expires=None if lasts is None else until), now=self.now)
        return self._add(minted, until)

    @rule(target=keys, old=keys, overlap=st.floats(0, 300))
    def rotate(self, old, overlap):
        if old.revoked or old.replaced or self.now >= old.until:
            with pytest.raises(LedgerTrouble):
                self.store.rotate(old.key_id, now=self.now, overlap_s=overlap)
            return old
        minted = self.store.rotate(old.key_id, now=self.now, overlap_s=overlap)
        new = self._add(minted, old.until)
        old.until, old.replaced = min(old.until, self.now + overlap), True
        return new

    @rule(key=keys)
    def revoke(self, key):
        self.store.revoke(key.key_id, now=self.now)
        key.revoked = True

    @rule(key=consumes(keys))
    def touch(self, key):
        self.store.touch({key.key_id: self.now})

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def the_book_agrees(self):
        for key in self.all:
            try:
                found = self.book.find(key.secret, self.now).key_id
            except Refused as refused:
                assert refused.reason is Reason.UNAUTHENTICATED
                found = None
            assert found == (key.key_id if key.opens(self.now) else None)

    def _add(self, minted, until):
        key = Expected(minted.secret.encode(), minted.key.key_id, until)
        self.all.append(key)
        return key

    def teardown(self):
        self.book.close()
        self.folder.cleanup()


Lives.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLives = Lives.TestCase
