"""Receivers get what is in a store, whichever gateway lives: real processes, a real server, real collectors."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from ledger_records import record, until
from receivers import Bulk, Hec

from gemstead.ledger.acts import new_act, remember
from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import open_to_write
from gemstead.ledger.postgres.cursors import Leases, StoreCursors, StoreSource, own_chains
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.log import PostgresLog
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.push import Pusher
from gemstead.ledger.postgres.vault import Vault, hand_out
from gemstead.ledger.retention import Rule
from gemstead.ledger.ship.cursors import Cursors, path_beside
from gemstead.ledger.ship.run import Shipment
from gemstead.ledger.ship.sink import ShipSettings, SinkSettings
from gemstead.ledger.signing import Signer

SECRET = "s" * 40
LEASE_S = 1.5


class Gateway:
    """A gateway's chain, and its way into the store."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.url, self.name, self.audit = url, folder.name, folder / "audit.db"
        self.sources: list[StoreSource] = []
        self.leases: Leases | None = None

    def write(self, *numbers: int, act: str = "") -> None:
        connection = open_to_write(self.audit, MIGRATIONS)
        connection.execute("BEGIN IMMEDIATE")
        append(connection, [sealed(record(number)) for number in numbers])
        connection.execute("COMMIT")
        connection.close()
        if act:
            remember(self.audit, new_act(act))
        pusher = Pusher(self.audit, self.name)
        with linked(self.url) as link:
            while pusher.push(link):
                pass
        pusher.close()

    @property
    def chain(self) -> str:
        return list(own_chains(self.audit))[-1]

    def source(self, sink: str = "siem", lease_s: float = 60.0) -> StoreSource:
        if self.leases is None:
            self.leases = Leases(lambda: self.url, f"{self.name}/1", lease_s)
        return StoreSource(self.leases, self.audit, sink)

    def shipment(self, collector, to: str, lease_s: float = 60.0, **more) -> Shipment:
        sink = SinkSettings(
            name="siem", to=to, url=collector.url, token="right-token", **{"batch": 10, "form": "ecs", **more}
        )
        return Shipment(self.audit, sink, lambda sentence: None, self.source(lease_s=lease_s))


@pytest.fixture
def gateways(tmp_path, store_url):
    made = [Gateway(tmp_path / name, store_url) for name in ("east", "west")]
    yield made
    for one in made:
        if one.leases is not None:
            one.leases.end()


@pytest.fixture
def bulk():
    made = Bulk()
    yield made
    made.close()


def older(url: str) -> None:
    """Chains have been there for a while, and others look after them."""
    with linked(url) as link:
        link.do("UPDATE gemstead_shipping SET since = since - 1000")
        link.do("UPDATE gemstead_chains SET began = began - 100")


def lapse(url: str) -> None:
    """Nothing was heard of any holder for long."""
    with linked(url) as link:
        link.do("UPDATE gemstead_cursors SET lease_until = 1")


def sent(collector: Bulk) -> list[tuple[str, int]]:
    return sorted((uid.rpartition("-")[0], int(uid.rpartition("-")[2])) for uid in collector.documents)


def steps(shipment: Shipment, count: int = 12) -> None:
    for _ in range(count):
        shipment.step()


def test_all_records_of_the_store_arrive_once_whoever_sends(gateways, bulk, store_url):
    east, west = gateways
    east.write(*range(25), act="key.create")
    west.write(*range(100, 107))
    ours, theirs = east.shipment(bulk, "elastic"), west.shipment(bulk, "elastic")
    for _ in range(6):
        ours.step()
        theirs.step()
    assert len(bulk.documents) == 33 and bulk.conflicts == 0
    found = {
        cursor.chain: (cursor.seq, end, node) for cursor, end, node in StoreCursors(lambda: store_url).all()
    }
    assert found == {east.chain: (26, 26, "east"), west.chain: (7, 7, "west")}
    east.write(200)
    older(store_url)
    steps(theirs)
    assert len(bulk.documents) == 33, "east lives and holds its chain"
    steps(ours)
    assert len(bulk.documents) == 34


def test_another_goes_on_where_the_cursor_stands(gateways, bulk, store_url):
    east, west = gateways
    east.write(*range(30))
    older(store_url)
    ours, theirs = east.shipment(bulk, "elastic"), west.shipment(bulk, "elastic")
    ours.step()
    theirs.step()
    assert len(bulk.documents) == 10
    slow = east.source()
    cursor, batch = slow.next(10)
    lapse(store_url)
    steps(theirs)
    assert (len(bulk.documents), bulk.conflicts) == (30, 0)
    assert not slow.moved(cursor, batch, []), "another has it by now: it moves nothing"
    [(cursor, end, _)] = StoreCursors(lambda: store_url).all()
    assert (cursor.seq, end, cursor.shipped) == (30, 30, 30)
    # It let go of what is not its own once all was sent: the next is sent at once by whoever comes.
    east.write(77)
    steps(ours, 2)
    assert len(bulk.documents) == 31


def test_a_new_chain_is_left_to_its_own_gateway_at_first(gateways, bulk, store_url):
    east, west = gateways
    with linked(store_url) as link:
        link.do("UPDATE gemstead_shipping SET since = since - 1000")
    east.write(1, 2)
    theirs = west.shipment(bulk, "elastic")
    steps(theirs, 3)
    assert not bulk.documents


def test_what_was_sent_before_cursors_were_shared_is_not_sent_again(gateways, bulk, store_url):
    east, west = gateways
    east.write(*range(20))
    cursors = Cursors(path_beside(east.audit))
    cursors.moved(cursors.of("siem"), east.chain, 15, 15, [])
    with linked(store_url) as link:
        link.do("UPDATE gemstead_chains SET began = began - 100000")
    theirs = west.shipment(bulk, "elastic")
    steps(theirs, 3)
    assert not bulk.documents, "only east knows how far its chain was sent"
    steps(east.shipment(bulk, "elastic"))
    assert len(bulk.documents) == 5


def test_records_that_will_never_be_taken_are_listed_and_replayed(gateways, bulk, store_url):
    east, _ = gateways
    east.write(*range(12))
    bulk.item_faults = lambda uid, document: 400 if document["event"]["sequence"] == 3 else 0
    ours = east.shipment(bulk, "elastic")
    steps(ours)
    cursors = StoreCursors(lambda: store_url)
    assert len(bulk.documents) == 11
    assert cursors.refused("siem") == [(east.chain, 3, "400 mapper_parsing_exception")]
    assert [cursor.refused for cursor, _, _ in cursors.all()] == [1]
    bulk.item_faults = lambda uid, document: 0
    assert cursors.replay("siem", 0.0) == {east.chain: (0, 12)}
    steps(ours)
    assert len(bulk.documents) == 12 and bulk.conflicts == 11 and cursors.refused("siem") == []
    assert cursors.replay("siem", None) == {east.chain: (12, 12)}
    steps(ours)
    assert bulk.conflicts == 11


def test_a_receiver_that_is_down_is_told_of_and_loses_nothing(gateways, bulk, store_url):
    east, _ = gateways
    east.write(*range(5))
    bulk.faults = [503, "hang up", 503]
    ours = east.shipment(bulk, "elastic")
    assert ours.step() == 1.0
    [(cursor, _, _)] = StoreCursors(lambda: store_url).all()
    assert cursor.trouble == "answered 503" and cursor.trouble_since
    assert [ours.step(), ours.step()] == [2.0, 4.0]
    assert ours.step() == 1.0  # `every_s`: all is there
    [(cursor, _, _)] = StoreCursors(lambda: store_url).all()
    assert (cursor.trouble, cursor.seq) == ("", 5)


def test_records_that_a_receiver_lacks_are_not_deleted(gateways, bulk, store_url):
    east, _ = gateways
    east.write(*range(20))
    with linked(store_url) as link:
        hand_out(Vault(link, SECRET), east.audit.parent)
    log = PostgresLog(east.audit, Place(url=lambda: store_url, secret=lambda: SECRET, node="east"))
    signer = Signer(east.audit.parent / "audit.key")
    rules = [Rule(keep_days=0.001, records="calls")]
    later = record(1).began + 1e7
    ours = east.shipment(bulk, "elastic")
    ours.step()
    assert log.prune(rules, later, None).calls == 20, "without receivers in the file nothing waits"
    assert log.prune(rules, later, signer, upto=0).calls == 10
    steps(ours)
    assert len(bulk.documents) >= 20
    assert log.prune(rules, later, signer, upto=0).calls == 10


class Process:
    """The shipping process of a gateway, as its head runs it."""

    def __init__(self, gateway: Gateway, sink: SinkSettings, holder: str) -> None:
        self.socket, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "gemstead.ledger.ship", "--control-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        theirs.close()
        told = ShipSettings(
            audit=str(gateway.audit), sinks=(sink,), store=gateway.url, holder=holder, lease_s=LEASE_S
        )
        self.socket.sendall(msgspec.json.encode(told) + b"\n")

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)
        self.socket.close()


def uids(hec: Hec) -> list[str]:
    return [event["event"]["metadata"]["uid"] for event in hec.events]


def test_a_killed_gateway_leaves_nothing_unsent(gateways, store_url):
    """Both gateways send; east is killed in the middle, its disk is gone, the collector goes down and comes back: all
    that is in the store arrives, in the order of each chain."""
    east, west = gateways
    hec = Hec()
    sink = SinkSettings(
        name="siem", to="splunk", url=hec.url, token="right-token", acknowledge=False, batch=20, every_s=0.05
    )
    east.write(*range(400))
    west.write(*range(1000, 1100))
    older(store_url)
    first, second = Process(east, sink, "east/1"), Process(west, sink, "west/1")
    try:
        until(lambda: len(hec.events) > 60, 20)
        first.end()
        hec.faults = [503] * 2  # the collector is down for a moment as well
        until(lambda: len(set(uids(hec))) == 500, 30)
        # East is back, with another holder's name as after a restart; what is new goes out from there again.
        east.write(5000)
        first = Process(east, sink, "east/2")
        until(lambda: len(set(uids(hec))) == 501, 20)
    finally:
        first.end()
        second.end(signal.SIGTERM)
        hec.close()
    for chain in (east.chain, west.chain):
        places = [int(uid.rpartition("-")[2]) for uid in uids(hec) if uid.startswith(chain)]
        firsts = list(dict.fromkeys(places))
        assert firsts == sorted(firsts) and firsts == list(range(1, len(firsts) + 1))
    assert len(uids(hec)) - 501 <= 20, "at most the batch that was on its way came twice"
