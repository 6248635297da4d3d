"""Whatever a receiver does, it gets every record, in a form that its schema allows; and no call waits for it."""

from __future__ import annotations

import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ledger_records import BEGAN, record, until
from receivers import Bulk, Hec, OtlpCollector, SyslogReceiver

from gemstead.ledger.acts import new_act, remember
from gemstead.ledger.audit import Act
from gemstead.ledger.retention import Rule, prune
from gemstead.ledger.ship.cursors import Cursors, path_beside, shipped_everywhere
from gemstead.ledger.ship.forms import Shipped, ecs, ocsf
from gemstead.ledger.ship.run import Shipment, Shipping
from gemstead.ledger.ship.sink import SinkSettings
from gemstead.ledger.ship.syslog import Syslog
from gemstead.ledger.signing import Signer
from gemstead.ledger.writer import Writer

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
ECS = json.loads((SCHEMAS / "ecs" / "fields.json").read_text())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


def write(path, numbers, **values):
    writer = Writer(path)
    for number in numbers:
        writer.put(record(number, **values))
    assert writer.close() == 0


def settings(to, url, **values):
    return SinkSettings(name="siem", to=to, url=url, token="right-token", **{"batch": 10, **values})


def sent(path, sink, most=200):
    """Steps until the receiver is up to date; the pauses that were asked for, and what was told."""
    told, pauses = [], []
    shipment = Shipment(path, sink, told.append)
    for _ in range(most):
        pauses.append(shipment.step())
        if cursor(path).seq == last(path) and not cursor(path).trouble:
            break
    else:
        raise AssertionError(f"not up to date: {cursor(path)} {told}")
    shipment.close()
    return pauses, told


def cursor(path):
    return Cursors(path_beside(path)).of("siem")


def last(path):
    from gemstead.ledger.ship.spool import Spool

    spool = Spool(path)
    records = spool.after(0, 100_000)
    spool.close()
    return records[-1].seq if records else 0


# -- the forms --------------------------------------------------------------------------------------------

RECORDS = [
    record(1),
    record(
        2, outcome="rate_limited", status=429, reason="too many", client="10.1.2.3:5000", first_token_s=None
    ),
    record(
        3,
        tenant="",
        key_id="",
        user="Ünï",
        client="[::1]:77",
        route="",
        model="",
        pool="",
        status=0,
        outcome="x",
    ),
    record(4, client="unix:", app="chat", version="r1", prompt_hash="hmac-sha256:1:00"),
    Act(
        act_id="a1",
        at=BEGAN,
        action="key.create",
        actor="os:root",
        target="gms_x",
        detail='{"roles":["service"]}',
    ),
    Act(
        act_id="a2",
        at=BEGAN,
        action="login",
        actor="user:ann",
        client="10.0.0.9",
        role="admin",
        tenant="acme",
    ),
    Act(act_id="a3", at=BEGAN, action="login.failed", actor="user:eve", outcome="refused", client="::1"),
    Act(
        act_id="a6", at=BEGAN, action="admin.login", actor="corp:ann", target="admin port", client="10.0.0.9"
    ),
    Act(act_id="a7", at=BEGAN, action="identity.seen", actor="gemstead", target="corp:ann", tenant="acme"),
    Act(act_id="a4", at=BEGAN, action="config.reload", before="sha256:00", after="sha256:11"),
    Act(act_id="a5", at=BEGAN, action="audit.prune", outcome="failed", client="::ffff:10.0.0.1"),
]


def shipped(one):
    return Shipped(chain="c0ffee", seq=7, link="ab" * 32, record=one)


@pytest.mark.parametrize("one", RECORDS, ids=lambda one: getattr(one, "action", "call"))
def test_the_ocsf_form_is_what_its_schema_says(one):
    event = ocsf(shipped(one))
    names = {
        6003: "api_activity_6003",
        3002: "authentication_3002",
        3004: "entity_management_3004",
    }
    schema = json.loads((SCHEMAS / "ocsf" / f"{names[event['class_uid']]}.json").read_text())
    errors = [f"{list(e.path)}: {e.message}"[:200] for e in Draft202012Validator(schema).iter_errors(event)]
    assert not errors
    assert event["metadata"]["uid"] == "c0ffee-7"
    if event["class_uid"] == 6003:  # the class requires both; its compiled schema does not know
        assert event["api"]["operation"] and event["actor"]


def leaves(value, name=""):
    for key, part in value.items():
        full = f"{name}.{key}" if name else key
        if isinstance(part, dict):
            yield from leaves(part, full)
        else:
            yield full, part


KINDS = {
    "keyword": str,
    "wildcard": str,
    "long": int,
    "date": lambda value: datetime.fromisoformat(value),
    "ip": lambda value: ip_address(value),
}


@pytest.mark.parametrize(
    ("action", "outcome", "activity", "status"),
    [
        ("admin.login", "done", 1, 1),
        ("admin.login.failed", "refused", 1, 2),
        ("identity.seen", "done", 99, 1),
        ("key.create", "done", None, 1),
    ],
)
def test_sign_ins_are_told_as_such(action, outcome, activity, status):
    act = Act(act_id="a", at=BEGAN, action=action, actor="ann", target="ann", outcome=outcome)
    event, other = ocsf(shipped(act)), ecs(shipped(act))["event"]
    assert (event["class_uid"] == 3002) is (activity is not None) and event["status_id"] == status
    if activity:
        assert (event["activity_id"], event["user"]["name"]) == (activity, "ann")
    assert other["category"] == ["authentication" if activity else "configuration"]
    assert other["outcome"] == ("success" if outcome == "done" else "failure")


@pytest.mark.parametrize("one", RECORDS, ids=lambda one: getattr(one, "action", "call"))
def test_the_ecs_form_is_what_its_schema_says(one):
    event = ecs(shipped(one))
    assert event["@timestamp"] and event["ecs"]["version"]
    for name, value in leaves({k: v for k, v in event.items() if k != "gemstead"}):
        field = ECS[name]
        assert isinstance(value, list) == ("array" in field["normalize"]), name
        for each in value if isinstance(value, list) else [value]:
            kind = KINDS[field["type"]]
            assert isinstance(each, kind) if isinstance(kind, type) else kind(each), (name, each)
            assert each in field.get("allowed", [each]), (name, each)
    [category] = event["event"]["category"]
    assert set(event["event"]["type"]) <= set(ECS["event.category"]["types"][category])


# -- each receiver, and what it may do ----------------------------------------------------------------------


@pytest.fixture
def hec():
    receiver = Hec()
    yield receiver
    receiver.close()


def uids(events):
    return [event["event"]["metadata"]["sequence"] for event in events]


def test_splunk_gets_every_record_once_and_acknowledges(path, hec):
    write(path, range(25))
    remember(path, new_act("key.create", "gms_x"))
    hec.slow_acks = 1
    sent(path, settings("splunk", hec.url))
    assert uids(hec.events) == list(range(1, 27))
    assert {event["sourcetype"] for event in hec.events} == {"gemstead:audit:ocsf"}


def test_splunk_that_never_acknowledges_gets_the_batch_again(path, hec):
    write(path, range(5))
    hec.slow_acks = 10_000
    shipment = Shipment(path, settings("splunk", hec.url, timeout_s=0.3), lambda sentence: None)
    assert shipment.step() == 1.0
    assert (cursor(path).seq, "acknowledge" in cursor(path).trouble) == (0, True)
    hec.slow_acks = 0
    sent(path, settings("splunk", hec.url))
    assert set(uids(hec.events)) == set(range(1, 6))


def test_one_bad_record_is_set_aside_and_told_and_the_rest_arrives(path, hec):
    write(path, range(25))
    hec.bad = lambda event: event["event"]["metadata"]["sequence"] == 13
    _, told = sent(path, settings("splunk", hec.url))
    assert uids(hec.events) == [n for n in range(1, 26) if n != 13]
    assert Cursors(path_beside(path)).refused("siem") == [(13, "Invalid data format")]
    assert (cursor(path).refused, cursor(path).shipped) == (1, 24)
    assert len(told) == 1


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 401, 404, 307, "hang up"])
def test_a_receiver_in_trouble_loses_nothing(path, hec, fault):
    write(path, range(25))
    hec.faults = [fault, fault, None, fault]
    pauses, told = sent(path, settings("splunk", hec.url, acknowledge=False))
    assert set(uids(hec.events)) == set(range(1, 26))
    assert pauses[:2] == [1.0, 2.0]
    assert "none is lost" in told[0] and "again" in told[-1]


def test_a_receiver_that_says_when_is_left_alone_so_long(path, hec):
    write(path, range(3))
    hec.faults = [(429, {"retry-after": "37"}, {})]
    shipment = Shipment(path, settings("splunk", hec.url), lambda sentence: None)
    assert shipment.step() == 37.0


def test_pauses_grow_to_a_minute_and_the_wrong_token_is_told(path, hec):
    write(path, range(3))
    sink = settings("splunk", hec.url)
    wrong = SinkSettings(name="siem", to="splunk", url=sink.url, token="wrong-secret")
    told = []
    shipment = Shipment(path, wrong, told.append)
    assert [shipment.step() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert told == ["audit records wait for siem, which answered 403; none is lost"]
    assert "wrong-secret" not in repr(wrong) + cursor(path).trouble


def test_a_batch_that_is_too_large_is_sent_in_parts(path, hec):
    write(path, range(16))
    hec.faults = [413, 413, 413]
    sent(path, settings("splunk", hec.url, batch=16))
    assert uids(hec.events) == list(range(1, 17))


def test_one_record_that_is_too_large_is_set_aside(path, hec):
    write(path, range(1))
    hec.faults = [413]
    sent(path, settings("splunk", hec.url))
    assert Cursors(path_beside(path)).refused("siem") == [(1, "too large for the receiver")]


@pytest.fixture
def bulk():
    receiver = Bulk()
    yield receiver
    receiver.close()


def test_elastic_that_takes_half_a_batch_gets_the_other_half_again(path, bulk):
    write(path, range(30))
    tries = {}

    def busy(uid, document):
        tries[uid] = tries.get(uid, 0) + 1
        return 429 if tries[uid] == 1 and document["event"]["sequence"] % 2 else 0

    bulk.item_faults = busy
    sent(path, settings("elastic", bulk.url, form="ecs", batch=30))
    assert sorted(one["event"]["sequence"] for one in bulk.documents.values()) == list(range(1, 31))
    assert bulk.conflicts == 0


def test_elastic_knows_a_record_that_comes_twice(path, bulk):
    write(path, range(12))
    sent(path, settings("elastic", bulk.url, form="ecs"))
    Cursors(path_beside(path)).replay("siem", 4)
    sent(path, settings("elastic", bulk.url, form="ecs"))
    assert (len(bulk.documents), bulk.conflicts) == (12, 8)


def test_elastic_refuses_one_document_for_good(path, bulk):
    write(path, range(8))
    bulk.item_faults = lambda uid, document: 400 if document["event"]["sequence"] == 3 else 0
    sent(path, settings("elastic", bulk.url, form="ecs"))
    assert len(bulk.documents) == 7
    assert Cursors(path_beside(path)).refused("siem") == [(3, "400 mapper_parsing_exception")]


def test_elastic_that_answers_nonsense_is_asked_again(path, bulk):
    write(path, range(3))
    bulk.faults = [(200, {}, {"items": []}), (200, {}, "what?")]
    sent(path, settings("elastic", bulk.url))
    assert len(bulk.documents) == 3


def test_otlp_gets_log_records(path):
    receiver = OtlpCollector()
    write(path, range(15))
    sent(path, settings("otlp", receiver.url, form="ecs"))
    receiver.close()
    assert len(receiver.logs) == 15
    one = receiver.logs[0]
    assert one["timeUnixNano"] == str(round(BEGAN * 1e9)) and one["eventName"] == "gemstead.audit.call"
    assert json.loads(one["body"]["stringValue"])["event"]["sequence"] == 1


def test_otlp_that_rejects_one_of_a_batch_gets_the_others(path):
    receiver = OtlpCollector(lambda log: '"sequence":5,' in log["body"]["stringValue"])
    write(path, range(8))
    sent(path, settings("otlp", receiver.url))
    receiver.close()
    taken = {json.loads(log["body"]["stringValue"])["metadata"]["sequence"] for log in receiver.logs}
    assert taken == {1, 2, 3, 4, 6, 7, 8}
    assert Cursors(path_beside(path)).refused("siem") == [(5, "too old")]


@pytest.fixture(scope="module")
def authority():
    import trustme

    return trustme.CA()


@pytest.fixture
def syslog(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    receiver = SyslogReceiver(context)
    yield receiver
    receiver.close()


@pytest.fixture
def ca(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def test_syslog_gets_rfc_5424_messages_over_tls(path, syslog, ca):
    write(path, range(12))
    sent(path, settings("syslog", f"tls://localhost:{syslog.port}", ca=ca, form="ecs"))
    until(lambda: len(syslog.messages) == 12)
    head, _, rest = syslog.messages[0].partition(b"\xef\xbb\xbf")
    priority, at, host, app, proc, kind, data = head.decode().strip().split(" ", 6)
    assert (priority, app, proc, kind) == ("<109>1", "gemstead", "-", "call")
    assert datetime.fromisoformat(at).timestamp() == BEGAN and host
    assert data.startswith("[gemstead@32473 uid=") and data.endswith(' form="ecs"]')
    assert json.loads(rest)["event"]["sequence"] == 1
    assert syslog.connections == 1


def test_syslog_whose_connection_breaks_gets_what_was_on_its_way_again(path, syslog, ca):
    write(path, range(40))
    syslog.drops = 15
    url = f"tls://localhost:{syslog.port}"
    deadline = time.monotonic() + 10
    shipment = Shipment(path, settings("syslog", url, ca=ca, timeout_s=2.0), lambda sentence: None)
    while cursor(path).seq < 40 and time.monotonic() < deadline:
        shipment.step()
    shipment.close()
    seen = {json.loads(one.partition(b"\xef\xbb\xbf")[2])["metadata"]["sequence"] for one in syslog.messages}
    until(lambda: syslog.connections >= 2)
    assert cursor(path).seq == 40
    assert seen >= set(range(1, 16))


def test_syslog_with_a_certificate_of_another_ca_gets_nothing(path, syslog):
    write(path, range(3))
    sink = Syslog(settings("syslog", f"tls://localhost:{syslog.port}", timeout_s=2.0))
    shipment = Shipment(path, sink.settings, lambda sentence: None)
    assert shipment.step() == 1.0
    assert "SSLCertVerificationError" in cursor(path).trouble and not syslog.messages


def test_s3_gets_files_of_lines(path):
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    obstore = pytest.importorskip("obstore", reason="pip install obstore")
    from obstore.store import S3Store

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/audit-bucket", method="PUT"))
        write(path, range(25))
        sink = settings("s3", "s3://audit-bucket/logs", endpoint=endpoint, form="ecs")
        sink = SinkSettings(
            **{name: getattr(sink, name) for name in sink.__struct_fields__} | {"token": "id:secret"}
        )
        sent(path, sink)
        config = {
            "endpoint": endpoint,
            "access_key_id": "id",
            "secret_access_key": "secret",
            "region": "us-east-1",
        }
        store = S3Store("audit-bucket", config=config, client_options={"allow_http": True})
        names = sorted(one["path"] for batch in obstore.list(store, "logs") for one in batch)
        lines = [
            line
            for name in names
            for line in gzip.decompress(bytes(obstore.get(store, name).bytes())).splitlines()
        ]
    finally:
        server.stop()
    assert len(names) == 3 and names[0].endswith("/000000000001-000000000010.ecs.jsonl.gz")
    assert [json.loads(line)["event"]["sequence"] for line in lines] == list(range(1, 26))


def test_s3_that_is_not_there_loses_nothing(path):
    pytest.importorskip("obstore", reason="pip install obstore")
    write(path, range(3))
    sink = settings("s3", "s3://bucket/x", endpoint=f"http://127.0.0.1:{free_port()}", timeout_s=2.0)
    shipment = Shipment(path, sink, lambda sentence: None)
    assert shipment.step() == 1.0
    assert cursor(path).seq == 0


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# -- what holds for all -------------------------------------------------------------------------------------


def test_one_receiver_that_is_down_holds_up_no_other_and_no_record(path, hec, tmp_path):
    down = SinkSettings(
        name="down", to="splunk", url=f"http://127.0.0.1:{free_port()}", token="x", every_s=0.01
    )
    up = SinkSettings(name="up", to="splunk", url=hec.url, token="right-token", every_s=0.01)
    told = []
    shipping = Shipping(path, (down, up), told.append)
    writer = Writer(path)
    for number in range(300):
        writer.put(record(number))
    until(lambda: len(hec.events) == 300 and bool(told))
    shipping.stop()
    assert writer.close() == 0
    assert shipped_everywhere(path, ["down", "up"]) == 0
    assert shipped_everywhere(path, ["up"]) == 300
    assert [sentence for sentence in told if "down" in sentence]


def test_what_a_receiver_does_not_have_yet_is_not_deleted(path, hec, tmp_path):
    write(path, range(20))
    signer = Signer(tmp_path / "audit.key")
    rules, now = [Rule(keep_days=1)], BEGAN + 1e7
    Cursors(path_beside(path)).of("siem")
    assert prune(path, rules, now, signer, upto=shipped_everywhere(path, ["siem"])).calls == 0
    sent(path, settings("splunk", hec.url))
    assert prune(path, rules, now, signer, upto=shipped_everywhere(path, ["siem"])).calls == 20


def test_a_replay_that_is_asked_for_while_a_batch_is_away_is_not_undone(path, hec):
    write(path, range(10))
    sent(path, settings("splunk", hec.url))
    hec.faults = [lambda: Cursors(path_beside(path)).replay("siem", 2)]
    write(path, range(10, 20))
    Shipment(path, settings("splunk", hec.url, acknowledge=False), lambda sentence: None).step()
    assert cursor(path).seq == 2
    sent(path, settings("splunk", hec.url))
    assert set(uids(hec.events)) == set(range(1, 21))


def test_a_ledger_that_was_made_anew_is_sent_from_its_beginning(path, hec):
    write(path, range(10))
    sent(path, settings("splunk", hec.url))
    for file in path.parent.glob("audit.db*"):
        file.unlink()
    write(path, range(100, 104))
    shipment = Shipment(path, settings("splunk", hec.url), lambda sentence: None)
    shipment.step()
    assert len(hec.events) == 14


KILLED = """
import sys
from pathlib import Path
from gemstead.ledger.ship.run import Shipping
from gemstead.ledger.ship.sink import SinkSettings
Shipping(Path(sys.argv[1]), (SinkSettings(name="siem", to="splunk", url=sys.argv[2], token="right-token",
    batch=7, every_s=0.01, acknowledge=False),))
import threading; threading.Event().wait()
"""


def test_kill_9_of_the_shipping_process_skips_nothing(path, hec):
    write(path, range(200))
    for turn in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), hec.url])
        have = len(hec.events)
        until(lambda have=have: len(hec.events) > have + 20 or len(set(uids(hec.events))) == 200, within_s=20)
        process.kill()
        process.wait()
        write(path, range(1000 + turn * 10, 1010 + turn * 10))
    sent(path, settings("splunk", hec.url, acknowledge=False))
    assert set(uids(hec.events)) == set(range(1, 251))


def test_the_process_goes_with_the_head_and_says_what_troubles_it(path, hec):
    write(path, range(30))
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "gemstead.ledger.ship", "--control-fd", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env=os.environ)
    theirs.close()
    import msgspec

    from gemstead.ledger.ship.sink import ShipSettings

    down = SinkSettings(name="down", to="otlp", url=f"http://127.0.0.1:{free_port()}")
    told = ShipSettings(audit=str(path), sinks=(down,))
    ours.sendall(msgspec.json.encode(told) + b"\n")
    ours.settimeout(20)
    assert "wait for down" in json.loads(ours.makefile("rb").readline())
    both = ShipSettings(audit=str(path), sinks=(down, settings("splunk", hec.url)))
    ours.sendall(msgspec.json.encode(both) + b"\n")
    until(lambda: len(hec.events) == 30)
    ours.close()
    assert process.wait(10) == 0
    process.stderr.close()


def test_what_the_operator_set_wrong_waits_for_him(path):
    sink = settings("syslog", "tls://localhost:1", certificate="/nowhere.pem", key="/nowhere.pem")
    write(path, range(2))
    shipment = Shipment(path, sink, lambda sentence: None)
    assert shipment.step() == 1.0
    assert cursor(path).trouble
