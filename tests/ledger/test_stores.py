"""What a ledger promises, whichever store keeps it: one suite, on files and on a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from ledger_records import BEGAN, record

from gemstead.ledger.acts import new_act
from gemstead.ledger.audit import SEEN, AuditRecord
from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.denials import Denial
from gemstead.ledger.examine import Order
from gemstead.ledger.keys import Grant, UnknownKey, open_keys
from gemstead.ledger.log import Seen, SqliteLog
from gemstead.ledger.postgres.keys import PostgresKeys
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.log import PostgresLog
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.push import Pusher
from gemstead.ledger.postgres.vault import Vault, hand_out
from gemstead.ledger.proof import verify_exports
from gemstead.ledger.retention import Rule
from gemstead.ledger.search import Question
from gemstead.ledger.signing import Signer, known_keys
from gemstead.traffic.caller import RateLimit

NOW = BEGAN + 100_000.0
DAY_S = 86_400.0
SECRET = "s" * 40


class Files:
    """The ledger of one gateway."""

    def __init__(self, folder):
        self.folder = folder
        self.keys = open_keys(folder / "keys.db", b"p" * 32)
        self.log = SqliteLog(folder / "audit.db")
        self.signer = Signer(folder / "audit.key")

    def write(self, *records: AuditRecord) -> None:
        connection = open_to_write(self.folder / "audit.db", MIGRATIONS)
        connection.execute("BEGIN IMMEDIATE")
        append(connection, [sealed(one) for one in records])
        connection.execute("COMMIT")
        connection.close()


class Store(Files):
    """The same with PostgreSQL behind it."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        self.place = Place(url=lambda: url, secret=lambda: SECRET, node=folder.name)
        self.keys = PostgresKeys(self.place)
        self.log = PostgresLog(folder / "audit.db", self.place)
        with linked(url) as link:
            hand_out(Vault(link, SECRET), folder)
        self.signer = Signer(folder / "audit.key")

    def write(self, *records: AuditRecord) -> None:
        super().write(*records)
        pusher = Pusher(self.folder / "audit.db", self.folder.name)
        with linked(self.url) as link:
            while pusher.push(link):
                pass
        pusher.close()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request, tmp_path):
    if request.param == "sqlite":
        return Files(tmp_path)
    return Store(tmp_path, request.getfixturevalue("store_url"))


# Keys.


def test_every_right_of_a_key_comes_back(ledger):
    grant = Grant(
        tenant="acme",
        app="chat",
        user="ada",
        roles=("developer", "auditor"),
        priority=-5,
        models=frozenset({"gemma-4-e2b", "gemma-4-31b"}),
        limit=RateLimit(requests_per_minute=60, concurrent=4),
        note="für die Vorführung",
        expires=NOW + 60,
        networks=("10.0.0.0/8",),
    )
    minted = ledger.keys.create(grant, now=NOW)
    assert ledger.keys.get(minted.key.key_id) == minted.key
    assert minted.key.grant() == grant
    assert ledger.keys.list() == [minted.key]


def test_a_key_lives_and_ends_by_the_same_rules(ledger):
    old = ledger.keys.create(Grant(expires=NOW + 10), now=NOW).key
    new = ledger.keys.rotate(old.key_id, now=NOW, overlap_s=3600).key
    assert (ledger.keys.get(old.key_id).expires, ledger.keys.get(old.key_id).replaced_by) == (
        NOW + 10,
        new.key_id,
    )
    assert ledger.keys.revoke(new.key_id, now=NOW + 1).revoked_at == NOW + 1
    assert ledger.keys.revoke(new.key_id, now=NOW + 2).revoked_at == NOW + 1
    with pytest.raises(LedgerTrouble, match=new.key_id):
        ledger.keys.rotate(old.key_id, now=NOW + 1, overlap_s=0)
    for act in (
        lambda: ledger.keys.get("gms_nosuch"),
        lambda: ledger.keys.revoke("gms_nosuch", now=NOW),
        lambda: ledger.keys.rotate("gms_nosuch", now=NOW, overlap_s=0),
    ):
        with pytest.raises(UnknownKey, match="gms_nosuch"):
            act()
    with pytest.raises(LedgerTrouble, match="tenant"):
        ledger.keys.create(Grant(tenant=""), now=NOW)
    assert len(ledger.keys.list()) == 2


def test_of_many_who_make_the_first_key_one_does(ledger):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ledger.keys.first(Grant(), now=NOW), range(4)))
    assert len([one for one in made if one is not None]) == 1
    assert len(ledger.keys.list()) == 1


def test_many_hands_at_once_change_keys(ledger):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ledger.keys.create(Grant(), now=NOW).key.key_id, range(12)))
        list(pool.map(lambda key_id: ledger.keys.revoke(key_id, now=NOW), made[:6]))
    states = {key.key_id: key.state(NOW) for key in ledger.keys.list()}
    assert states == dict.fromkeys(made[:6], "revoked") | dict.fromkeys(made[6:], "active")


def test_last_use_only_moves_forward(ledger):
    key_id = ledger.keys.create(Grant(), now=NOW).key.key_id
    ledger.keys.touch({key_id: NOW + 5})
    ledger.keys.touch({key_id: NOW + 2, "gms_gone": NOW})
    assert ledger.keys.get(key_id).last_used == NOW + 5


def test_what_is_denied_is_kept_until_it_is_lifted(ledger):
    one = Denial(issuer="corp", kind="token", value="jti-1", at=NOW, expires=NOW + 5, note="gone")
    other = Denial(issuer="*", kind="subject", value="eve", at=NOW + 10, forever=True)
    ledger.keys.deny(one)
    assert ledger.keys.denied() == (one,)
    ledger.keys.deny(other)  # and the first has expired by then
    assert ledger.keys.denied() == (other,)
    assert ledger.keys.lift("*", "subject", "eve")
    assert not ledger.keys.lift("*", "subject", "eve")
    assert ledger.keys.denied() == ()


# Records.


def test_a_record_comes_back_as_it_was_whatever_is_in_it(ledger):
    odd = record(1, model="a\0b\uf8ffc\uf8ff0", user="Zoë", first_token_s=None, reason="x" * 500)
    ledger.write(record(0), odd)
    assert ledger.log.show("call-000001") == odd
    assert ledger.log.show("call-999999") is None
    assert [entry.record for entry in ledger.log.tail(10)] == [record(0), odd]
    assert [entry.record.call_id for entry in ledger.log.tail(1)] == ["call-000001"]
    assert [entry.record.call_id for entry in ledger.log.tail(5, {"user": "Zoë"})] == ["call-000001"]
    (verified,) = ledger.log.verify(known_keys(ledger.folder / "audit.key"))
    assert (verified.fault, verified.records) == (None, 2)


def test_use_is_summed_alike(ledger):
    ledger.write(
        *(record(n, tenant="a", first_token_s=n / 10) for n in range(5)),
        record(5, tenant="b", outcome="over_limit", first_token_s=None, output_tokens=0),
        record(6, tenant="b", outcome="cut", began=BEGAN + 7200),
        record(7, tenant="b", outcome="client_left", began=BEGAN + DAY_S),
    )
    rows = {row.by["tenant"]: row for row in ledger.log.usage(BEGAN, BEGAN + DAY_S + 1, ["tenant"])}
    a, b = rows["a"], rows["b"]
    assert (a.requests, a.served, a.prompt_tokens, a.output_tokens) == (5, 5, 500, 100)
    assert (a.first_token_p50_s, a.first_token_p99_s) == (0.2, 0.4)
    assert (b.requests, b.refused, b.failed, b.left) == (3, 1, 1, 1)
    (total,) = ledger.log.usage(BEGAN, BEGAN + 60, [])
    assert (total.by, total.requests, total.mean_s) == ({}, 6, 1.5)
    assert [row.by for row in ledger.log.usage(BEGAN, BEGAN + 60, ["day", "hour", "user"])] == [
        {"day": "2027-01-15", "hour": "2027-01-15 08:00", "user": ""}
    ]
    assert ledger.log.usage(0, 1) == []
    with pytest.raises(LedgerTrouble, match="nothing to group by"):
        ledger.log.usage(0, 1, ["colour"])


def test_what_is_new_is_told_once(ledger):
    ledger.write(*(record(n) for n in range(3)))
    mark = ledger.log.mark()
    assert ledger.log.newer(mark, 10) == ([], mark)
    ledger.write(*(record(n, tenant="b" if n % 2 else "a") for n in range(3, 9)))
    first, mark = ledger.log.newer(mark, 2, {"tenant": "b"})
    rest, mark = ledger.log.newer(mark, 2, {"tenant": "b"})
    assert [e.record.call_id for e in first + rest] == ["call-000003", "call-000005", "call-000007"]
    assert ledger.log.newer(mark, 2, {"tenant": "b"})[0] == []


# Proof.


def test_the_chain_holds_is_signed_and_exported(ledger):
    keys = known_keys(ledger.folder / "audit.key")
    ledger.write(*(record(n) for n in range(10)))
    ledger.log.remember(new_act("key.create", "gms_x", detail={"a": 1}))
    made = ledger.log.checkpoint(ledger.signer, NOW)
    assert ledger.log.last_checkpoint() == made
    assert ledger.log.checkpoint(ledger.signer, NOW) is None
    (found,) = ledger.log.verify(keys, [made])
    assert (found.fault, found.records, found.vouched) == (None, 12, 11)
    lines = list(ledger.log.export(BEGAN, BEGAN + 5, None, ledger.signer))
    (exported,) = verify_exports(lines, keys)
    assert (exported.fault, exported.records) == (None, 5)
    forged = [line.replace(b"acme", b"evil") for line in lines]
    assert verify_exports(forged, keys)[0].fault is not None
    with pytest.raises(LedgerTrouble, match="no sealed records"):
        list(ledger.log.export(5, 6, None, ledger.signer))
    facts = ledger.log.facts()
    assert (facts.calls, facts.first, facts.signed is not None) == (10, BEGAN, True)
    assert set(facts.acts) == {"key.create", "audit.checkpoint"}


def test_a_process_of_its_own_verifies_and_exports_the_same(ledger):
    order = Order(audit=str(ledger.folder / "audit.db"), key=str(ledger.folder / "audit.key"))
    if isinstance(ledger, Store):
        order.store, order.node = ledger.url, ledger.folder.name
    ledger.write(*(record(n, tenant="ab"[n % 2]) for n in range(10)))
    kept = ledger.log.checkpoint(ledger.signer, NOW)

    def ran(**more):
        wanted = msgspec.json.encode(msgspec.structs.replace(order, **more))
        argv = [sys.executable, "-m", "gemstead.ledger.examine"]
        return subprocess.run(argv, input=wanted, capture_output=True, timeout=60)

    done = ran(outside=[kept])
    assert done.returncode == 0 and done.stderr == b""
    assert [one["fault"] for one in json.loads(done.stdout)] == [None]
    done = ran(export=True, since=BEGAN, until=BEGAN + 60, tenant="a")
    keys = known_keys(ledger.folder / "audit.key")
    (found,) = verify_exports(done.stdout.splitlines(keepends=True), keys)
    assert (done.returncode, found.fault, found.records) == (0, None, 5)
    done = ran(export=True, since=5.0, until=6.0)
    assert (done.returncode, done.stdout) == (3, b"") and b"no sealed records" in done.stderr


def test_who_came_without_a_key_is_told_with_when_and_what_they_might_do(ledger):
    assert ledger.log.callers() == []
    who = ("corp:ann", "gms_abcdefgh", "mesh:0A", "corp:ann", "")
    ledger.write(*(record(n, key_id=one, user=one[-3:]) for n, one in enumerate(who)))
    for name, roles in (("ann", ["viewer"]), ("ann", ["developer"]), ("ben", ["admin"])):
        detail = {"user": name, "roles": roles, "groups": ["ml"], "kind": "token"}
        ledger.log.remember(new_act(SEEN, f"corp:{name}", tenant="acme", detail=detail))
    ann, ben, mesh = ledger.log.callers()
    assert (ann.who, ann.last, ann.roles, ann.groups) == ("corp:ann", BEGAN + 3, ("developer",), ("ml",))
    assert (ben.who, ben.last, ben.roles, ben.noted is not None) == ("corp:ben", None, ("admin",), True)
    assert mesh == Seen(who="mesh:0A", tenant="acme", user=":0A", last=BEGAN + 2)


# Looking for records.


def all_of(log, **asked):
    """Every record that is found, a few at a time."""
    found, after = [], ""
    while True:
        page = log.find(Question(**{"since": 0.0, "until": 1e12, "most": 3, **asked}, after=after))
        assert len(page.records) <= 3
        found += page.records
        if not (after := page.next):
            return found


def test_what_is_looked_for_is_found_once_and_the_latest_first(ledger):
    tenants = ("a", "b\0\x1a", "a", "c")
    ledger.write(
        *(
            record(
                n, began=BEGAN + n // 2, tenant=tenants[n % 4], key_id=f"k{n % 3}", pool="m" if n % 2 else ""
            )
            for n in range(20)
        )
    )
    found = all_of(ledger.log)
    assert [one.record.call_id for one in found] == [f"call-{n:06}" for n in reversed(range(20))]
    some = all_of(ledger.log, tenant="b\0\x1a", caller="k2", since=BEGAN + 1.0, until=BEGAN + 9.0)
    assert [one.record.call_id for one in some] == ["call-000017", "call-000005"]
    assert len(all_of(ledger.log, model="m", outcome="served")) == 10
    assert all_of(ledger.log, tenant="nobody") == [] and all_of(ledger.log, until=BEGAN) == []
    with pytest.raises(LedgerTrouble, match="calls have no action"):
        all_of(ledger.log, action="key.create")
    with pytest.raises(LedgerTrouble, match="no mark"):
        ledger.log.find(Question(since=0, until=1, after="x/y/z"))


def test_acts_are_found_by_who_did_them(ledger):
    for n in range(4):
        who = ("user:ann", "key:gms_x", "os:root", "gemstead")[n]
        ledger.log.remember(new_act(f"do.{n % 2}", f"t{n}", actor=who, tenant="acme"))
    assert [one.record.target for one in all_of(ledger.log, records="acts")] == ["t3", "t2", "t1", "t0"]
    for who in ("user:ann", "ann"):
        assert [one.record.target for one in all_of(ledger.log, records="acts", caller=who)] == ["t0"]
    assert [one.record.target for one in all_of(ledger.log, records="acts", action="do.1")] == ["t3", "t1"]


def test_what_is_due_is_deleted_and_the_chain_stays_whole(ledger):
    keys = known_keys(ledger.folder / "audit.key")
    ledger.write(*(record(n, tenant="held" if n == 4 else "acme") for n in range(10)))
    ledger.write(record(99, began=NOW - 5))
    ledger.log.checkpoint(ledger.signer, NOW)
    hold = ledger.log.hold("held", None, None, "a case", NOW)
    rules = [Rule(keep_days=0.5, records="calls")]
    counted = ledger.log.prune(rules, NOW, None)
    assert (counted.calls, counted.held) == (9, 1)
    done = ledger.log.prune(rules, NOW, ledger.signer)
    assert (done.calls, done.held) == (9, 1)
    (found,) = ledger.log.verify(keys)
    assert found.fault is None
    assert [e.record.call_id for e in ledger.log.tail(99)] == ["call-000004", "call-000099"]
    ledger.log.release(hold.hold_id, NOW + 1)
    with pytest.raises(LedgerTrouble, match="no legal hold"):
        ledger.log.release(hold.hold_id, NOW + 1)
    assert [one.released for one in ledger.log.holds()] == [NOW + 1]
    assert ledger.log.prune(rules, NOW + 2, ledger.signer).calls == 1
    ledger.log.checkpoint(ledger.signer, NOW + 3)
    (found,) = ledger.log.verify(keys)
    assert found.fault is None
    assert [e.record.call_id for e in ledger.log.tail(99)] == ["call-000099"]


def test_a_record_that_was_changed_is_named(ledger, request):
    keys = known_keys(ledger.folder / "audit.key")
    ledger.write(*(record(n) for n in range(6)))
    ledger.log.checkpoint(ledger.signer, NOW)
    statement = "UPDATE {} SET output_tokens = 21 WHERE seq = 4"
    if isinstance(ledger, Store):
        with linked(ledger.url) as link:
            link.do(statement.format("gemstead_audit"))
    else:
        connection = open_to_write(ledger.folder / "audit.db", MIGRATIONS)
        connection.execute(statement.format("audit"))
        connection.close()
    (found,) = ledger.log.verify(keys)
    assert (found.fault.kind, found.fault.seq) == ("altered", 4)


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ({"user": "ann"}, {"call-000000", "call-000001"}),
        ({"key": "gms_k1"}, {"call-000001", "call-000003"}),
        ({"user": "ann", "key": "gms_k1"}, {"call-000001"}),
        ({"tenant": "other", "user": "a*"}, set()),
        ({"tenant": "acme", "key": "gms_*", "since": BEGAN + 2}, {"call-000002", "call-000003"}),
    ],
)
def test_a_legal_hold_is_by_tenant_key_user_and_time(ledger, what, kept):
    ledger.write(
        record(0, began=BEGAN, tenant="acme", user="ann", key_id="gms_k0"),
        record(1, began=BEGAN + 1, tenant="acme", user="ann", key_id="gms_k1"),
        record(2, began=BEGAN + 2, tenant="acme", user="ben", key_id="gms_k0"),
        record(3, began=BEGAN + 3, tenant="acme", user="ben", key_id="gms_k1"),
    )
    said = {"tenant": "*", "since": None, "until": None, "reason": "case 8", "now": NOW, **what}
    one = ledger.log.hold(**said)
    assert (one.key, one.user) == (what.get("key", "*"), what.get("user", "*"))
    assert ledger.log.holds() == [one]
    done = ledger.log.prune([Rule(keep_days=0.1, records="calls")], NOW, ledger.signer)
    assert (done.calls, done.held) == (4 - len(kept), len(kept))
    assert {entry.record.call_id for entry in ledger.log.tail(99)} == kept


def test_a_legal_hold_keeps_acts_by_whom_they_were_done_or_to_which_key(ledger):
    ledger.log.remember(new_act("key.create", "gms_k1", actor="user:ann"))
    ledger.log.remember(new_act("admin.post", "/admin/reload", actor="key:gms_k1"))
    ledger.log.remember(new_act("key.create", "gms_k2", actor="user:ben"))
    later = time.time() + 10
    rules = [Rule(keep_days=0.00001, records="acts")]
    ledger.log.hold("*", None, None, "case 9", later, key="gms_k1")
    held = ledger.log.prune(rules, later, None).held
    assert held == 2
    ledger.log.hold("*", None, None, "case 9", later, user="ben")
    assert ledger.log.prune(rules, later, None).held == 3


def test_a_service_on_files_loads_nothing_of_a_store():
    code = (
        "import sys, gemstead.wiring.serve, gemstead.gateway.worker, gemstead.cli.db;"
        "print([name for name in ('asyncpg', 'sqlalchemy', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
