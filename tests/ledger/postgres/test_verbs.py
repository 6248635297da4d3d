"""`gemstead db` with a store: its form, forward and back, and taking over what a gateway had by itself."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from contextlib import closing

import msgspec
import pytest

from gemstead.cli.main import main
from gemstead.cli.options import read
from gemstead.ledger import audittable, denials
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.denials import Denial
from gemstead.ledger.keys import KeyBook, open_keys
from gemstead.ledger.keytable import COLUMNS
from gemstead.ledger.postgres.link import linked, told
from gemstead.ledger.postgres.pull import Puller
from gemstead.ledger.retention import HOLD_COLUMNS, Rule, prune
from gemstead.ledger.secrets import secret_at
from gemstead.ledger.signing import Signer, known_keys
from gemstead.ledger.writer import Writer
from gemstead.refused import Refused
from gemstead.wiring.files import state_dir
from gemstead.wiring.ledger import audit_log, password_file, prepare


@pytest.fixture
def said(tmp_path, empty_url, capsys):
    """What a verb prints, with a file that names the store."""
    for name, text in (("url", empty_url), ("secret", "s" * 40)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "gemstead.yaml"
    ports = "{listen: '127.0.0.1:0'}"
    alone = f"state_dir: {tmp_path}/state\ngateway: {ports}\nadmin: {ports}\n"
    store = f"{alone}ledger: {{store: 'file:{tmp_path}/url', secret: 'file:{tmp_path}/secret', node: n1}}\n"

    def run(*words: str, shared: bool = True, code: int = 0) -> str:
        file.write_text(store if shared else alone)
        capsys.readouterr()
        assert main([*words, "--config", str(file)]) == code
        printed = capsys.readouterr()
        return printed.out + (printed.err if code else "")

    return run


def test_a_store_is_made_shown_and_moved(said):
    assert "missing" in said("db", "status")
    assert "(audit): schema 0 to 5" in said("db", "upgrade")
    assert said("db", "upgrade") == "nothing to do: all is as this Gemstead writes it\n"
    assert "audit_5" in said("db", "current")
    assert "--yes" in said("db", "downgrade", "audit_4", code=1)
    assert "audit_5 to audit_4" in said("db", "downgrade", "audit_4", "--yes")
    assert "older" in said("db", "status", code=1)
    assert "schema 4 to 5" in said("db", "upgrade")
    rows = json.loads(said("db", "status", "--json"))
    assert [row["state"] for row in rows[-5:]] == ["current"] * 5
    assert "there is no step" in said("db", "downgrade", "audit_99", code=1)


def test_a_file_is_moved_back_after_a_copy(said, tmp_path):
    said("keys", "create", shared=False)
    assert "--yes" in said("db", "downgrade", "keys_2", shared=False, code=1)
    assert "keys_3 to keys_2; as it was: " in said("db", "downgrade", "keys_2", "--yes", shared=False)
    assert "keys_2" in said("db", "current", shared=False)
    assert len(json.loads(said("keys", "list", "--json", shared=False))) == 1
    assert len(list((tmp_path / "state").glob("keys.db.schema3-*"))) == 1


def test_what_a_gateway_had_is_taken_into_an_empty_store(said, tmp_path):
    made = [json.loads(said("keys", "create", "--json", shared=False)) for _ in range(2)]
    said("keys", "revoke", made[1]["key_id"], shared=False)
    said("audit", "checkpoint", shared=False)
    public = said("audit", "key", shared=False)
    assert "2 keys, 0 denials and 4 audit records" in said("db", "import")
    assert "only an empty store" in said("db", "import", code=1)
    assert said("audit", "key") == public
    verified = json.loads(said("audit", "verify", "--json"))
    assert verified["fault"] is None
    states = {key["key_id"]: key["state"] for key in json.loads(said("keys", "list", "--json"))}
    assert states == {made[0]["key_id"]: "active", made[1]["key_id"]: "revoked"}
    # A gateway that has never been here knows the key by its hash, and refuses the other.
    folder = state_dir(read(tmp_path / "gemstead.yaml", [f"state_dir={tmp_path}/elsewhere"]), {})
    assert prepare(folder) == ""
    book = KeyBook(folder.keys, secret_at(folder.pepper))
    now = time.time()
    assert book.find(made[0]["key"].encode(), now).key_id == made[0]["key_id"]
    with pytest.raises(Refused, match="revoked"):
        book.find(made[1]["key"].encode(), now)
    book.close()


def quoted(columns: str) -> str:
    return columns.replace(" user,", ' "user",')


def rows_of(connection, table: str, columns: str) -> list[tuple]:
    return sorted(map(repr, connection.execute(f"SELECT {columns} FROM {table}").fetchall()))


def test_all_that_a_gateway_had_is_in_the_store(said, tmp_path, empty_url, monkeypatch):
    """Every row of every table, every secret and every key that ever signed; each of them read by another gateway."""
    state = tmp_path / "state"
    made = [json.loads(said("keys", "create", "--json", "--user", f"u{n}", shared=False)) for n in range(3)]
    said("keys", "rotate", made[0]["key_id"], shared=False)
    said("keys", "revoke", made[1]["key_id"], shared=False)
    open_keys(state / "keys.db", secret_at(state / "pepper")).deny(
        Denial(issuer="okta", kind="subject", value="bob", at=1.0, note="left")
    )
    said("audit", "hold", "add", "--tenant", "acme", "--reason", "case 7", shared=False)
    ended = said(
        "audit", "hold", "add", "--user", "eve", "--from", "2026-01-01", "--reason", "x", shared=False
    )
    said("audit", "hold", "release", ended.split()[0], shared=False)
    writer = Writer(state / "audit.db")
    for number in range(50):
        at = 1.0 if number < 20 else time.time()
        writer.put(AuditRecord(call_id=f"c{number}", began=at, tenant="t", model="odd \0 name"))
    writer.close()
    said("audit", "checkpoint", shared=False)
    prune(state / "audit.db", [Rule(keep_days=30, records="calls")], time.time(), Signer(state / "audit.key"))
    said("audit", "rotate-signing-key", shared=False)
    said("audit", "rotate-hash-key", "--tenant", "acme", shared=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery staple\n"))
    said("admin", "set-password", shared=False)
    monkeypatch.chdir(tmp_path)
    said("backup", "a.tar.gz", shared=False)
    said("restore", "a.tar.gz", shared=False)
    said("audit", "export", "--from", "7d", "--out", str(tmp_path / "e"), shared=False)
    assert "2 legal holds too" in said("db", "import")

    with closing(sqlite3.connect(state / "audit.db")) as audit, linked(empty_url) as link:
        for table, columns in (
            ("audit", f"seq, link, {audittable.COLUMNS}"),
            ("acts", f"seq, link, {audittable.ACT_COLUMNS}"),
            ("stubs", "seq, leaf, link"),
            ("gaps", "began, ended, records"),
            ("holds", HOLD_COLUMNS),
            ("checkpoints", "seq, link, at, key_id, kind, signature"),
        ):
            there = link.rows(f"SELECT {quoted(columns)} FROM gemstead_{table}")
            here = rows_of(audit, table, columns)
            assert sorted(repr(tuple(map(told, row))) for row in there) == here, table
            assert here or table == "gaps", f"nothing is compared of {table}"
        chains = audit.execute("SELECT * FROM ended UNION ALL SELECT name, base_seq, base_link, head_seq, head_link "
                               "FROM chain").fetchall()  # fmt: skip
        assert len(chains) == 2
        fields = "name, base_seq, base_link, head_seq, head_link"
        assert sorted(map(repr, link.rows(f"SELECT {fields} FROM gemstead_chains"))) == sorted(
            map(repr, chains)
        )
    with closing(sqlite3.connect(state / "keys.db")) as keys, linked(empty_url) as link:
        for table, columns in (("keys", f"{COLUMNS}, hash"), ("denied", denials.COLUMNS)):
            there = link.rows(f"SELECT {quoted(columns)} FROM gemstead_{table}")
            here = rows_of(keys, table, columns)
            assert sorted(map(repr, there)) == here and here, table

    folder = state_dir(read(tmp_path / "gemstead.yaml", [f"state_dir={tmp_path}/elsewhere"]), {})
    assert prepare(folder) == ""
    for name in ("pepper", "hash-keys.json", "audit.key", "admin.password"):
        assert (folder.ledger / name).read_bytes().strip() == (state / name).read_bytes().strip(), name
    known = {path.name for path in (state / "audit-keys").iterdir()}
    assert {path.name for path in (folder.ledger / "audit-keys").iterdir()} == known and len(known) == 2
    found = audit_log(folder).verify(known_keys(folder.ledger / "audit.key"))
    assert [one.fault for one in found] == [None, None]
    assert found[1].before == found[0].chain and "a backup of" in found[1].gap
    assert all(one.last - one.vouched <= 1 and not one.unknown_keys for one in found)


def test_how_far_receivers_are_is_asked_of_the_store(said, tmp_path, empty_url):
    to = ("--set", "audit.ship=[{name: siem, to: otlp, url: 'http://127.0.0.1:1'}]")
    said("db", "upgrade")
    said("keys", "create")  # and with it an act
    assert "RECEIVER" in said("audit", "ship", "status", *to)
    again = said("audit", "ship", "replay", "siem", "--from", "start", *to)
    assert "siem is sent all records behind 0 of chain" in again
    table = said("audit", "ship", "status", *to)
    assert "GATEWAY" in table and "siem" in table and "n1" in table
    [row] = json.loads(said("audit", "ship", "status", "--json", *to))["receivers"]
    assert (row["sink"], row["gateway"], row["seq"]) == ("siem", "n1", 0)
    assert row["waiting"] == row["end"] > 0
    said("audit", "ship", "replay", "siem", "--from", "now", *to)
    with linked(empty_url) as link:
        link.do("INSERT INTO gemstead_refused VALUES ('siem', 'c0ffee', 7, 'too old', 1.0)")
    assert "c0ffee" in said("audit", "ship", "refused", "siem", *to)
    assert "there is no receiver other" in said(
        "audit", "ship", "replay", "other", "--from", "now", *to, code=2
    )
    with linked(empty_url) as link:
        assert link.value("SELECT count(*) FROM gemstead_acts WHERE action = 'audit.replay'") == 2


def test_a_password_is_one_for_all_gateways_and_opens_each_while_the_store_is_away(said, tmp_path):
    said("db", "upgrade")
    file = tmp_path / "gemstead.yaml"
    one, other = (
        state_dir(read(file, [f"state_dir={tmp_path}/{name}", f"ledger.node={name}"]), {}) for name in "ab"
    )
    prepare(one)
    password_file(one).set("correct horse battery staple", 1000.0)
    prepare(other)
    kept = password_file(other).matches("correct horse battery staple")
    assert kept is not None and kept.used_at is None
    password_file(other).used(kept, 2000.0)
    prepare(one)
    assert password_file(one).matches("correct horse battery staple").used_at == 2000.0
    assert b"argon2" not in (tmp_path / "url").read_bytes()
    with linked((tmp_path / "url").read_text()) as link:
        assert not [
            value for (value,) in link.rows("SELECT value FROM gemstead_sealed") if b"argon2" in value
        ]
    (tmp_path / "url").write_text("postgresql://u:hush@127.0.0.1:1/db")
    with pytest.raises(LedgerTrouble, match="cannot be reached"):
        password_file(one).set("another horse battery staple", 3000.0)
    kept = password_file(one).matches("correct horse battery staple")
    assert kept is not None, "a password that could not be told to the others is none"
    password_file(one).used(
        msgspec.structs.replace(kept, used_at=None), 4000.0
    )  # an emergency, without the store
    assert password_file(one).matches("correct horse battery staple").used_at == 4000.0


def test_a_store_is_sealed_anew_and_a_gateway_with_the_old_secret_still_hears_of_revocations(said, tmp_path):
    said("db", "upgrade")
    (tmp_path / "new").write_text("n" * 40)
    (tmp_path / "new").chmod(0o600)
    file = tmp_path / "gemstead.yaml"
    made = json.loads(said("keys", "create", "--json"))
    old = state_dir(read(file, [f"state_dir={tmp_path}/old"]), {})
    puller = Puller(old.ledger)
    url = (tmp_path / "url").read_text()
    with linked(url) as link:
        puller.pull(link, "s" * 40)
    assert "is the secret that `ledger.secret` leads to already" in said(
        "db", "reseal", f"file:{tmp_path}/secret", code=1
    )
    (tmp_path / "short").write_text("short")
    (tmp_path / "short").chmod(0o600)
    assert "shorter than 32" in said("db", "reseal", f"file:{tmp_path}/short", code=1)
    assert "cannot read" in said("db", "reseal", f"file:{tmp_path}/none", code=1)
    public = said("audit", "key")
    assert "values are sealed under the new secret" in said("db", "reseal", f"file:{tmp_path}/new")
    with linked(url) as link:
        with pytest.raises(LedgerTrouble, match="sealed with another secret"):
            puller.pull(link, "s" * 40)
        assert "sealed under the new secret already" in said("db", "reseal", f"file:{tmp_path}/new", code=1)
        (tmp_path / "secret").write_text("n" * 40)
        said("keys", "revoke", made["key_id"])
        with pytest.raises(LedgerTrouble, match="sealed with another secret"):
            puller.pull(link, "s" * 40)
        with closing(sqlite3.connect(old.keys)) as keys:
            assert keys.execute("SELECT revoked_at FROM keys").fetchone()[0] is not None
        assert puller.pull(link, "n" * 40) and not puller.pull(link, "n" * 40)
    assert said("audit", "key") == public
    (tmp_path / "third").write_text("t" * 40)
    (tmp_path / "third").chmod(0o600)
    (tmp_path / "secret").write_text("w" * 40)
    assert "sealed with another secret" in said("db", "reseal", f"file:{tmp_path}/third", code=1)


def test_a_store_that_is_away_or_refuses_is_told_in_one_sentence(said, tmp_path):
    (tmp_path / "url").write_text("postgresql://u:hush@127.0.0.1:1/db")
    for words in (("keys", "list"), ("audit", "verify"), ("db", "status"), ("usage",), ("serve",)):
        told = said(*words, code=1)
        assert "cannot be reached (Connection refused): see that it runs" in told
        assert "mistake in Gemstead" not in told and "hush" not in told
    told = said("db", "downgrade", "audit_99", code=1)
    assert "there is no step" in told and "mistake" not in told
