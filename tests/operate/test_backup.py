"""A backup is whole while the service writes, what is restored works, and a drill finds what is wrong."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
import threading
import time
from contextlib import closing

import pytest

from gemstead.cli.main import main
from gemstead.ledger import acts, log
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import Grant, KeyBook, open_keys
from gemstead.ledger.proof import export, verify, verify_all, verify_exports
from gemstead.ledger.retention import Rule, prune
from gemstead.ledger.secrets import secret_at
from gemstead.ledger.ship.spool import Spool
from gemstead.ledger.signing import Signer, known_keys
from gemstead.ledger.writer import Writer
from gemstead.operate.backup import backup, drill, restore
from gemstead.operate.sealed import new_identity
from gemstead.wiring.files import StateDir, hold


class Ledger:
    """A ledger with keys, records and all its secrets."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.pepper = secret_at(path / "pepper")
        secret_at(path / "hash.key")
        self.signer = Signer(path / "audit.key")
        self.secrets = [
            open_keys(path / "keys.db", self.pepper).create(Grant(user=f"u{n}"), now=time.time()).secret
            for n in range(3)
        ]
        self.write(50)
        acts.checkpoint(path / "audit.db", self.signer, time.time())

    def write(self, count, first=0):
        writer = Writer(self.path / "audit.db")
        for number in range(first, first + count):
            writer.put(AuditRecord(call_id=f"c{number}", began=time.time(), tenant="acme"))
        writer.close()


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


def test_a_backup_that_was_made_while_others_write_is_whole(ledger, tmp_path):
    stop = threading.Event()

    def busy():
        number = 1000
        while not stop.is_set():
            ledger.write(20, number)
            number += 20

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        made = [backup(ledger.path, tmp_path / f"{n}.tar.gz", time.time()) for n in range(5)]
    finally:
        stop.set()
        thread.join()
    assert made[-1].last > made[0].last >= 50
    for number, manifest in enumerate(made):
        done = drill(tmp_path / f"{number}.tar.gz", manifest.made + 60)
        assert done.trouble == () and done.records == manifest.last and done.keys == 3
        assert done.age_s == 60


def test_what_is_restored_goes_on(ledger, tmp_path):
    archive = tmp_path / "a.tar.gz"
    manifest = backup(ledger.path, archive, time.time())
    assert archive.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    done, before = restore(archive, elsewhere, time.time())
    assert (done.trouble, before) == ((), None)
    book = KeyBook(elsewhere / "keys.db", secret_at(elsewhere / "pepper"))
    assert [book.find(one.encode(), time.time()).user for one in ledger.secrets] == ["u0", "u1", "u2"]
    book.close()
    moved = Ledger.__new__(Ledger)
    moved.path = elsewhere
    moved.write(5, 500)
    found = verify(elsewhere / "audit.db", known_keys(elsewhere / "audit.key"))
    assert found.fault is None and found.last == manifest.last + 6 and found.vouched
    assert Signer(elsewhere / "audit.key").key_id == ledger.signer.key_id
    assert not [path for path in elsewhere.iterdir() if path.name.startswith(".")]


def test_what_was_there_is_kept(ledger, tmp_path):
    archive = tmp_path / "a.tar.gz"
    backup(ledger.path, archive, time.time())
    ledger.write(10, 100)
    _, before = restore(archive, ledger.path, time.time())
    assert before is not None and verify(before / "audit.db", {}).last == 61
    assert [one.last for one in verify_all(ledger.path / "audit.db", {})] == [51, 52]
    with pytest.raises(LedgerTrouble, match="is there already"):
        backup(ledger.path, archive, time.time())


def rewritten(archive, to, change):
    with tarfile.open(archive, "r:gz") as old, tarfile.open(to, "w:gz") as new:
        for member in old:
            data = old.extractfile(member).read()
            if (changed := change(member, data)) is not None:
                member.size = len(changed)
                new.addfile(member, io.BytesIO(changed))
    return to


def flipped(name):
    return lambda member, data: data[:-1] + bytes([data[-1] ^ 1]) if member.name == name else data


def named(name):
    def change(member, data):
        member.name = name if member.name == "pepper" else member.name
        return data

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped("audit.db"), "the sum of audit.db"),
        (flipped("pepper"), "the sum of pepper"),
        (lambda member, data: None if member.name == "keys.db" else data, "keys.db is missing"),
        (lambda member, data: None if member.name == "manifest.json" else data, "is no backup"),
        (named("../../pepper"), "not as its manifest says"),
        (named("/etc/pepper"), "not as its manifest says"),
        (lambda member, data: data + b"x" if member.name == "pepper" else data, "not as its manifest says"),
    ],
)
def test_a_drill_finds_what_is_wrong_and_nothing_is_restored(ledger, tmp_path, change, said):
    backup(ledger.path, tmp_path / "a.tar.gz", time.time())
    bad = rewritten(tmp_path / "a.tar.gz", tmp_path / "b.tar.gz", change)
    done = drill(bad, time.time())
    assert said in done.trouble[0]
    with pytest.raises(LedgerTrouble):
        restore(bad, ledger.path, time.time())
    assert verify(ledger.path / "audit.db", {}).last == 51
    assert not [path for path in ledger.path.iterdir() if path.name.startswith((".", "before"))]


def test_half_a_backup_and_no_backup_are_told(ledger, tmp_path):
    backup(ledger.path, tmp_path / "a.tar.gz", time.time())
    half = tmp_path / "half.tar.gz"
    half.write_bytes((tmp_path / "a.tar.gz").read_bytes()[:2000])
    assert "no whole backup" in drill(half, time.time()).trouble[0]
    (tmp_path / "text").write_text("hello")
    assert "no whole backup" in drill(tmp_path / "text", time.time()).trouble[0]
    with pytest.raises(LedgerTrouble):
        drill(tmp_path / "nothing", time.time())
    with pytest.raises(LedgerTrouble, match="nothing to back up"):
        backup(tmp_path, tmp_path / "c.tar.gz", time.time())


def test_a_chain_that_was_altered_before_the_backup_is_found(ledger, tmp_path):
    with closing(sqlite3.connect(ledger.path / "audit.db")) as connection:
        connection.execute("UPDATE audit SET tenant = 'other' WHERE seq = 7")
        connection.commit()
    backup(ledger.path, tmp_path / "a.tar.gz", time.time())
    assert "broken at record 7" in drill(tmp_path / "a.tar.gz", time.time()).trouble[0]


def run(capsys, *words):
    code = main(list(words))
    return code, capsys.readouterr()


def test_the_drill_is_where_compliance_looks_for_it(ledger, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--set", f"state_dir={ledger.path}")

    def last_drill():
        said = json.loads(run(capsys, "comply", "report", "--framework", "soc2", "--json", *options)[1].out)
        [found] = [
            one for one in _every(said) if isinstance(one, dict) and one.get("check") == "restore_drilled"
        ]
        return found["met"], found["seen"]

    assert last_drill() == (False, "no restore drill is recorded (`gemstead restore --drill FILE`)")
    code, said = run(capsys, "backup", "a.tar.gz", *options)
    assert code == 0 and "3 keys" in said.out
    bad = rewritten(tmp_path / "a.tar.gz", tmp_path / "b.tar.gz", flipped("pepper"))
    assert run(capsys, "restore", "--drill", str(bad), *options)[0] == 1
    assert last_drill()[0] is False, "a drill that failed is none"
    code, said = run(capsys, "restore", "--drill", "a.tar.gz", *options)
    assert code == 0 and "drill in" in said.out
    assert last_drill() == (True, "last restore drill 0 days ago")


def _every(value):
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _every(inner)


def test_nothing_is_restored_below_a_running_service(ledger, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--set", f"state_dir={ledger.path}")
    run(capsys, "backup", "a.tar.gz", *options)
    held = hold(StateDir(ledger.path, ledger.path))
    try:
        code, said = run(capsys, "restore", "a.tar.gz", *options)
        assert code == 1 and "gemstead stop" in said.err
    finally:
        held.release()
    code, said = run(capsys, "restore", "a.tar.gz", *options)
    assert code == 0 and "what was there lies in" in said.out


def test_a_sealed_backup_is_opened_by_whoever_it_is_for(ledger, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--set", f"state_dir={ledger.path}")
    code, said = run(capsys, "backup", "--new-key", "backup.key", *options)
    public = said.out.strip()
    assert code == 0 and public.startswith("age1") and "elsewhere" in said.err
    assert (tmp_path / "backup.key").stat().st_mode & 0o777 == 0o600
    assert run(capsys, "backup", "--new-key", "backup.key", *options)[0] == 1
    code, said = run(capsys, "backup", "--recipient", public, *options)
    [sealed] = tmp_path.glob("gemstead-*.tar.gz.age")
    assert code == 0 and f"restore --drill {sealed.name} --identity FILE" in said.out
    content = sealed.read_bytes()
    assert content.startswith(b"age-encryption.org/v1\n") and sealed.stat().st_mode & 0o777 == 0o600
    run(capsys, "backup", "--new-key", "other.key", *options)
    for words, sentence in (
        ((), "it was sealed for a key: say --identity FILE"),
        (("--identity", "other.key"), "it was sealed for other keys than this"),
        (("--identity", "nothing.key"), "nothing.key cannot be read"),
        (("--identity", "gemstead.yaml"), "cannot be read"),
        (("--passphrase", "env:NOT_SET"), "NOT_SET"),
    ):
        for way in ((), ("--drill",)):
            code, said = run(capsys, "restore", str(sealed), *way, *words, *options)
            assert code in (1, 2) and sentence in said.err, (words, said)
            assert "Traceback" not in said.err
    acts_there = said_acts(ledger)
    assert "restore.drill.failed" not in acts_there, "a forgotten key tells nothing of the backup"
    before = len(open_keys(ledger.path / "keys.db", ledger.pepper).list())
    damaged = tmp_path / "damaged.age"
    damaged.write_bytes(content[:-1000])
    code, said = run(capsys, "restore", "--drill", str(damaged), "--identity", "backup.key", *options)
    assert code == 1 and "damaged, or was cut" in said.out
    for way, word in ((("--drill",), "drill in"), ((), "restored in")):
        code, said = run(capsys, "restore", str(sealed), *way, "--identity", "backup.key", *options)
        assert code == 0 and word in said.out
    assert len(open_keys(ledger.path / "keys.db", ledger.pepper).list()) == before


def said_acts(ledger):
    with closing(sqlite3.connect(ledger.path / "audit.db")) as connection:
        return [row[0] for row in connection.execute("SELECT action FROM acts")]


def test_a_backup_is_sealed_with_a_passphrase(ledger, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--set", f"state_dir={ledger.path}")
    monkeypatch.setenv("BACKUP_PASSPHRASE", "correct-horse-battery")
    monkeypatch.setenv("WRONG", "incorrect-horse")
    sealing = ("--passphrase", "env:BACKUP_PASSPHRASE")
    assert run(capsys, "backup", "a.age", *sealing, *options)[0] == 0
    code, said = run(capsys, "restore", "--drill", "a.age", "--passphrase", "env:WRONG", *options)
    assert code == 1 and "the passphrase is not the one" in said.err
    assert run(capsys, "restore", "--drill", "a.age", *sealing, *options)[0] == 0
    _, public = new_identity()
    code, said = run(capsys, "backup", "b.age", *sealing, "--recipient", public, *options)
    assert code == 2 and "not both" in said.err and not (tmp_path / "b.age").exists()
    code, said = run(capsys, "backup", "b.age", "--recipient", public[:-1], *options)
    assert code == 2 and "not a recipient" in said.err


# What is written after a restore is of another chain.


def restored(ledger, tmp_path, lost=10):
    """A ledger that was put back from a backup, after which `lost` records had been written and signed."""
    archive = tmp_path / "a.tar.gz"
    backup(ledger.path, archive, time.time())
    ledger.write(lost, 100)
    acts.checkpoint(ledger.path / "audit.db", ledger.signer, time.time())
    restore(archive, ledger.path, time.time())
    return ledger.path / "audit.db", known_keys(ledger.path / "audit.key")


def test_both_chains_are_verified_and_what_lies_between_is_told(ledger, tmp_path):
    was = verify(ledger.path / "audit.db", {}).chain
    path, keys = restored(ledger, tmp_path)
    ledger.write(7, 500)
    acts.checkpoint(path, ledger.signer, time.time())
    old, new = verify_all(path, keys)
    assert (old.chain, old.first, old.last, old.fault, old.gap) == (was, 1, 51, None, "")
    assert (new.first, new.last, new.fault, new.before) == (52, 60, None, was) and new.chain != was
    assert old.vouched == 51 and new.vouched == 59
    assert f"chain {was} ends at record 51, where a backup of " in new.gap
    assert f"this log lacks records 52 to 62 of chain {was}" in new.gap
    # A checkpoint of what is lost, kept elsewhere, is a fault still: whoever put the backup back may have wanted that.
    path_before = next(path.parent.glob("before-restore-*")) / "audit.db"
    kept = log.last_of(path_before)
    assert kept is not None and kept.seq == 61
    old, new = verify_all(path, keys, [kept])
    assert (old.fault.kind, old.fault.seq, new.fault) == ("truncated", 52, None)
    # And so is a checkpoint of a chain that is nowhere here.
    assert verify_all(path, keys, [Checkpoint(chain="f" * 16, seq=1, link="", at=1.0, key_id="")])[-1].fault


def test_a_second_restore_makes_a_third_chain_and_an_export_holds_them_all(ledger, tmp_path):
    path, keys = restored(ledger, tmp_path)
    ledger.write(5, 500)
    backup(ledger.path, tmp_path / "b.tar.gz", time.time())
    ledger.write(5, 600)
    restore(tmp_path / "b.tar.gz", ledger.path, time.time())
    ledger.write(5, 700)
    acts.checkpoint(path, ledger.signer, time.time())
    found = verify_all(path, keys)
    assert [(one.first, one.last, one.fault) for one in found] == [
        (1, 51, None), (52, 57, None), (58, 64, None),
    ]  # fmt: skip
    assert [one.before for one in found] == ["", found[0].chain, found[1].chain]
    assert "records 58 to 62" in found[2].gap
    told = verify_exports(export(path, 0.0, time.time() + 1), keys)
    assert [(one.chain, one.last, one.fault) for one in told] == [
        (found[0].chain, 50, None), (found[1].chain, 57, None), (found[2].chain, 63, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE audit SET tenant = 'x' WHERE seq = 7", "altered"),
        ("UPDATE audit SET tenant = 'x' WHERE seq = 55", "altered"),
        ("DELETE FROM acts WHERE seq = 52", "removed"),
        ("DELETE FROM ended", "signature"),
        ("DELETE FROM audit WHERE seq = 50; UPDATE ended SET head_seq = 49", "rewritten"),
    ],
)
def test_what_is_done_to_either_chain_is_named(ledger, tmp_path, statement, kind):
    path, keys = restored(ledger, tmp_path)
    ledger.write(5, 500)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    assert verify(path, keys).fault.kind == kind


def test_a_receiver_never_takes_new_records_for_those_it_has(ledger, tmp_path):
    """By the uid that receivers know records by: what was lost and what is new have none in common."""

    def read(chain="", seq=0):
        spool, got = Spool(path), []
        while batch := spool.after(seq, 20, chain):
            assert len({one.chain for one in batch}) == 1
            got += [(one.uid, getattr(one.record, "call_id", "act")) for one in batch]
            chain, seq = spool.chain, batch[-1].seq
        spool.close()
        return got, (chain, seq)

    path = ledger.path / "audit.db"
    backup(ledger.path, tmp_path / "a.tar.gz", time.time())
    ledger.write(30, 100)
    had, at = read()
    restore(tmp_path / "a.tar.gz", ledger.path, time.time())
    ledger.write(30, 500)
    new, _ = read(*at)  # the receiver's place is beyond what is here, in a chain that has ended here
    assert [name for _, name in new] == ["act", *(f"c{n}" for n in range(500, 530))]
    assert not {uid for uid, _ in new} & {uid for uid, _ in had}
    again, _ = read()  # a receiver that is new gets all that is here, each under the name that others know
    assert again == had[:51] + new
    behind, _ = read(at[0], 40)
    assert behind == had[40:51] + new


def test_what_is_deleted_of_both_chains_leaves_what_can_be_verified(ledger, tmp_path):
    path, keys = restored(ledger, tmp_path)
    ledger.write(5, 500)
    rules = [Rule(keep_days=0, records="calls")]
    prune(path, rules, time.time() + 10, ledger.signer)
    assert [one.fault for one in verify_all(path, keys)] == [None, None]
    prune(path, [Rule(keep_days=0)], time.time() + 20, ledger.signer)
    [left] = verify_all(path, keys)
    assert left.fault is None and left.records == 1


def test_a_backup_of_an_empty_log_is_put_back(tmp_path):
    made = Ledger.__new__(Ledger)
    made.path = tmp_path / "new"
    made.path.mkdir()
    open_keys(made.path / "keys.db", secret_at(made.path / "pepper")).create(Grant(), now=time.time())
    made.write(0)
    backup(made.path, tmp_path / "a.tar.gz", time.time())
    made.write(3)
    restore(tmp_path / "a.tar.gz", made.path, time.time())
    made.write(4, 10)
    [found] = verify_all(made.path / "audit.db", known_keys(made.path / "audit.key"))
    assert (found.fault, found.records) == (None, 5) and "records 1 to 3" in found.gap
