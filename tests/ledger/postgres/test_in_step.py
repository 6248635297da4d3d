"""Files and store are kept in step, whatever is killed and whenever: real processes, a real server."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from ledger_records import call_ids, record, until
from servers import postgres_bin, postgres_server

from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import LedgerTrouble, open_to_write
from gemstead.ledger.denials import Denial
from gemstead.ledger.keys import Grant, KeyBook
from gemstead.ledger.postgres.beside import Beside
from gemstead.ledger.postgres.keys import PostgresKeys
from gemstead.ledger.postgres.link import StoreAway, linked
from gemstead.ledger.postgres.log import PostgresLog
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.pull import Puller
from gemstead.ledger.postgres.push import Forked, Pusher, trim, waiting
from gemstead.ledger.postgres.schema import ready
from gemstead.ledger.postgres.settings import StoreSettings
from gemstead.ledger.postgres.vault import Vault, hand_out
from gemstead.ledger.secrets import secret_at
from gemstead.ledger.signing import Signer, known_keys
from gemstead.refused import Refused

SECRET = "s" * 40
STEADY = """
import sys, time
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.writer import Writer
from pathlib import Path

writer = Writer(Path(sys.argv[1]))
number = 0
while True:
    for _ in range(20):
        number += 1
        writer.put(AuditRecord(call_id=f"{sys.argv[2]}-{number:06d}", began=time.time(), outcome="served"))
    print(writer.written, flush=True)
    time.sleep(0.01)
"""


def place(url: str, node: str = "n") -> Place:
    return Place(url=lambda: url, secret=lambda: SECRET, node=node)


def settings(folder: Path, url: str, **more) -> StoreSettings:
    return StoreSettings(folder=str(folder), url=url, secret=SECRET, node=folder.name, **more)


def write(path: Path, *numbers: int) -> None:
    connection = open_to_write(path, MIGRATIONS)
    connection.execute("BEGIN IMMEDIATE")
    append(connection, [sealed(record(number)) for number in numbers])
    connection.execute("COMMIT")
    connection.close()


def push_all(path: Path, url: str) -> int:
    pusher, count = Pusher(path, "n"), 0
    with linked(url) as link:
        while done := pusher.push(link):
            count += done
    pusher.close()
    return count


class Process:
    """The process beside a gateway, and the head's end of its socket."""

    def __init__(self, made: StoreSettings) -> None:
        self.socket, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "gemstead.ledger.postgres", "--control-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        theirs.close()
        self.socket.sendall(msgspec.json.encode(made) + b"\n")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.socket.close()

    def leave(self) -> None:
        """The head has died."""
        self.socket.close()
        self.process.wait(20)


@pytest.fixture(scope="module")
def server():
    if postgres_bin() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server() as made:
        yield made


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_of_writer_process_and_server_loses_and_doubles_nothing(tmp_path, server, rounds):
    """What a killed writer loses before it is in the file is bounded, and another test's (`test_writer.py`). What is in
    the file is in the store in the end, once and in order, though all three are killed in the middle, often."""
    until(lambda: bool(_made_ready(server.url)), 30)
    folder = tmp_path / f"node{rounds}"
    folder.mkdir()
    path, there = folder / "audit.db", []
    for turn in range(rounds):
        beside = Process(settings(folder, server.url))
        argv = [sys.executable, "-c", STEADY, str(path), f"turn{turn}"]
        writer = subprocess.Popen(argv, stdout=subprocess.PIPE)
        written: list[int] = []

        def listen(writer=writer, written=written):
            written.extend(int(line) for line in writer.stdout if line.endswith(b"\n"))

        reader = threading.Thread(target=listen)
        reader.start()
        until(lambda written=written: bool(written) and written[-1] > 100, 30)
        time.sleep(0.2 + turn % 10 * 0.037)
        if turn % 3 == 1:
            server.kill(signal.SIGKILL)
        beside.kill()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        reader.join()
        if turn % 3 == 1:
            server.start()
        kept = call_ids(path)
        new = kept[len(there) :]
        assert kept[: len(there)] == there
        assert new == [f"turn{turn}-{n:06d}" for n in range(1, len(new) + 1)], "no hole before the end"
        assert len(new) >= written[-1] > 0, "what it said to be written is"
        there = kept
    last = Process(settings(folder, server.url))
    until(lambda: _pushed(path, server.url), 60)
    last.leave()
    with linked(server.url) as link:
        rows = link.rows(
            "SELECT call_id FROM gemstead_audit JOIN gemstead_chains ON name = chain WHERE node = $1 ORDER BY seq",
            folder.name,
        )
    assert [call_id for (call_id,) in rows] == there, "all of it, once, in order"
    signer = Signer(folder / "audit.key")
    log = PostgresLog(path, place(server.url, folder.name))
    log.checkpoint(signer, time.time())
    (found,) = [one for one in log.verify(known_keys(folder / "audit.key")) if one.chain == open_chain(path)]
    assert (found.fault, found.records) == (None, len(there) + 1)  # and the checkpoint itself


def test_keys_of_a_store_that_is_away_count_as_long_as_the_file_says(tmp_path, server):
    until(lambda: bool(_made_ready(server.url)), 30)
    made = PostgresKeys(place(server.url)).create(Grant(), now=time.time())
    beside = Process(settings(tmp_path, server.url))
    until(lambda: (tmp_path / "keys.db").exists(), 30)
    book, lasting = (KeyBook(tmp_path / "keys.db", secret_at(tmp_path / "pepper")) for _ in range(2))
    book.most_age_s = 3.0

    def found(one: KeyBook) -> str:
        try:
            one.denied(time.time())
            return one.find(made.secret.encode(), time.time()).key_id
        except Refused as refused:
            return refused.reason.value

    until(lambda: found(book) == made.key.key_id, 10)
    held = time.monotonic()
    while time.monotonic() - held < 4.0:  # while the store answers they do not age
        assert found(book) == made.key.key_id
        time.sleep(0.1)
    server.kill(signal.SIGKILL)
    gone = time.monotonic()
    assert found(book) == made.key.key_id
    until(lambda: found(book) == "ledger_unavailable", 10)
    assert 1.0 < time.monotonic() - gone < 8.0
    assert found(lasting) == made.key.key_id, "as the file says that keep theirs"
    server.start()
    until(lambda: found(book) == made.key.key_id, 20)
    for one in (book, lasting):
        one.close()
    beside.leave()


def _made_ready(url: str) -> str:
    try:
        return ready(url)
    except LedgerTrouble:
        return ""


def _pushed(path: Path, url: str) -> bool:
    try:
        with linked(url) as link:
            name = open_chain(path)
            return (
                waiting(path, link.value("SELECT head_seq FROM gemstead_chains WHERE name = $1", name) or 0)
                == 0
            )
    except StoreAway:
        return False


def open_chain(path: Path) -> str:
    connection = open_to_write(path, MIGRATIONS)
    try:
        return connection.execute("SELECT name FROM chain").fetchone()[0]
    finally:
        connection.close()


def test_a_change_is_known_beside_every_gateway_within_a_second(tmp_path, store_url, record_property):
    """By notice, and by looking where no notice comes through."""
    said: list[object] = []
    both = [Beside(settings(tmp_path / name, store_url), said.append) for name in ("a", "b")]
    keys = PostgresKeys(place(store_url))
    minted = keys.create(Grant(), now=time.time())
    secret = minted.secret.encode()
    books = []
    for name in ("a", "b"):
        until(lambda name=name: (tmp_path / name / "keys.db").exists(), 10)
        books.append(KeyBook(tmp_path / name / "keys.db", secret_at(tmp_path / name / "pepper")))

    def lets_in(book: KeyBook) -> bool:
        try:
            book.find(secret, time.time())
        except Refused:
            return False
        return True

    until(lambda: all(map(lets_in, books)), 10)
    lags = []
    for notice in (True, False):
        keys.revoke(minted.key.key_id, now=time.time()) if notice else _quietly_revoked(store_url, minted)
        began = time.monotonic()
        until(lambda: not any(map(lets_in, books)), 10)
        lags.append(time.monotonic() - began)
        if notice:
            minted = keys.create(Grant(), now=time.time())
            secret = minted.secret.encode()
            until(lambda: all(map(lets_in, books)), 10)
    print(f"\nrefused everywhere after {lags[0]:.3f} s (notice), {lags[1]:.3f} s (no notice)")
    record_property("revocation_s", lags)
    assert max(lags) <= 1.0
    keys.deny(Denial(issuer="corp", kind="subject", value="eve", at=time.time()))
    until(lambda: all(book.denied(time.time()).entries for book in books), 2)
    for one in both:
        one.finish(2.0)


def _quietly_revoked(url: str, minted) -> None:
    """As `revoke` does, but for the notice."""
    with linked(url) as link, link.transaction():
        number = link.value("UPDATE gemstead_changes SET n = n + 1 RETURNING n")
        link.do(
            "UPDATE gemstead_keys SET revoked_at = $1, changed = $2 WHERE key_id = $3",
            time.time(),
            number,
            minted.key.key_id,
        )


def test_a_copy_follows_a_store_that_was_put_back(tmp_path, store_url):
    keys, puller, secret = PostgresKeys(place(store_url)), Puller(tmp_path), SECRET
    first = keys.create(Grant(), now=1.0).key
    with linked(store_url) as link:
        assert puller.pull(link, secret)
        assert not puller.pull(link, secret)
        second = keys.create(Grant(), now=2.0).key
        keys.revoke(first.key_id, now=3.0)
        assert puller.pull(link, secret)
        # An old backup is restored: the second key never was, and the first one lives.
        link.do("DELETE FROM gemstead_keys WHERE key_id = $1", second.key_id)
        link.do("UPDATE gemstead_keys SET revoked_at = NULL, changed = 1")
        link.do("UPDATE gemstead_changes SET n = 1")
        assert Puller(tmp_path).pull(link, secret)
    book = KeyBook(tmp_path / "keys.db", secret_at(tmp_path / "pepper"))
    book.denied(time.time())
    assert len(book) == 1
    book.close()


def test_secrets_are_sealed_shared_and_turned(tmp_path, store_url):
    with linked(store_url) as link:
        vault = Vault(link, SECRET)
        hand_out(vault, tmp_path / "a")
        hand_out(Vault(link, SECRET), tmp_path / "b")
        for name in ("pepper", "hash-keys.json", "audit.key"):
            one, other = ((tmp_path / folder / name).read_bytes() for folder in "ab")
            assert one == other
            dump = str(link.rows("SELECT * FROM gemstead_sealed"))
            assert one.decode().strip() not in dump
        before = Signer(tmp_path / "a" / "audit.key").key_id
        vault.renew_signing()
        hand_out(vault, tmp_path / "b")
        after = Signer(tmp_path / "b" / "audit.key").key_id
        assert before != after
        assert set(known_keys(tmp_path / "b" / "audit.key")) == {before, after}
        with pytest.raises(LedgerTrouble, match="sealed with another secret"):
            Vault(link, "t" * 40).pepper()
        with pytest.raises(LedgerTrouble, match="shorter than 32"):
            Vault(link, "short")


def test_the_spool_is_emptied_of_what_the_store_has_and_the_chain_goes_on(tmp_path, store_url):
    path = tmp_path / "audit.db"
    write(path, *range(5000))
    assert push_all(path, store_url) == 5000
    assert trim(path, 4000) == 4000
    assert waiting(path, 5000) == 0
    write(path, *range(5000, 5010))
    assert push_all(path, store_url) == 10
    assert trim(path, 99_999) == 1010
    log = PostgresLog(path, place(store_url))
    (found,) = log.verify({})
    assert (found.fault, found.records) == (None, 5010)


def test_a_copied_file_cannot_make_two_chains_of_one(tmp_path, store_url):
    path, copy = tmp_path / "audit.db", tmp_path / "copy.db"
    write(path, 1, 2, 3)
    push_all(path, store_url)
    connection = open_to_write(path, MIGRATIONS)
    connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    write(path, 4)
    push_all(path, store_url)
    write(copy, 5)
    with pytest.raises(Forked, match="move it away"):
        push_all(copy, store_url)
    write(copy, 6, 7)
    with pytest.raises(Forked, match="a new chain begins"):
        push_all(copy, store_url)


def test_what_an_old_backup_of_the_store_lost_is_named_and_the_rest_goes_on(tmp_path, store_url):
    path = tmp_path / "audit.db"
    write(path, *range(10))
    push_all(path, store_url)
    trim(path, 8)
    with linked(store_url) as link:
        link.do("DELETE FROM gemstead_audit WHERE seq > 5")
        at = link.value("SELECT link FROM gemstead_audit WHERE seq = 5")
        link.do("UPDATE gemstead_chains SET head_seq = 5, head_link = $1", at)
    pusher = Pusher(path, "n")
    with linked(store_url) as link:
        while pusher.push(link):
            pass
    pusher.close()
    assert "records 6 to 8" in pusher.lost
    (found,) = PostgresLog(path, place(store_url)).verify({})
    assert (found.fault.kind, found.fault.seq) == ("removed", 6)


def test_a_full_spool_holds_records_back_and_says_so(tmp_path):
    from gemstead.ledger.writer import Writer

    said: list[str] = []
    writer = Writer(tmp_path / "audit.db", most_bytes=200_000, on_trouble=said.append)
    numbers = itertools.count()

    def full() -> bool:
        for _ in range(100):
            writer.put(record(next(numbers)))
        return not writer.healthy

    until(full)
    assert "ledger.spool_mib" in said[0]
    assert writer.held > 0
    write_count = writer.written
    trim(tmp_path / "audit.db", write_count)  # the store has come back
    until(lambda: writer.written > write_count)
    writer.close(within_s=0.1)


def test_a_trimmed_spool_is_signed_on_and_the_store_verifies(tmp_path, store_url):
    with linked(store_url) as link:
        hand_out(Vault(link, SECRET), tmp_path)
    path, signer, log = (
        tmp_path / "audit.db",
        Signer(tmp_path / "audit.key"),
        PostgresLog(tmp_path / "audit.db", place(store_url)),
    )
    write(path, *range(20))
    log.checkpoint(signer, time.time())
    said: list[object] = []
    beside = Beside(settings(tmp_path, store_url, kept_s=0.0), said.append)
    until(lambda: beside.pusher.sent == 21)
    beside._trim()
    assert waiting(path, 0) == 0
    write(path, *range(20, 30))
    log.checkpoint(signer, time.time())
    until(lambda: beside.pusher.sent == 32)
    assert beside.finish(5.0)
    assert beside.state().up
    kept = signer.sign(log.last_checkpoint())
    (found,) = log.verify(known_keys(tmp_path / "audit.key"), [kept])
    assert (found.fault, found.records, found.vouched) == (None, 32, 31)
    # A whole chain that was taken away is named by a checkpoint that lay elsewhere.
    with linked(store_url) as link:
        for table in ("audit", "acts", "checkpoints"):
            link.do(f"DELETE FROM gemstead_{table}")
        link.do("DELETE FROM gemstead_chains")
    (gone,) = log.verify(known_keys(tmp_path / "audit.key"), [kept])
    assert (gone.fault.kind, gone.chain) == ("removed", kept.chain)
