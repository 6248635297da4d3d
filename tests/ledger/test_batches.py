"""What keeps files and batches promises the same wherever it is: one suite, on a file and on a real PostgreSQL. And
what only several gateways need: who holds a batch."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from gemstead.ledger.batches import BatchStore, Held, Lost, StoreFull
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.batches import PostgresBatches
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.parts import PART_BYTES
from gemstead.ledger.postgres.vault import Vault
from gemstead.openai.batches import Batch, Counts, Fault, Order, Usage
from gemstead.openai.files import File, Page
from gemstead.traffic.caller import Caller, RateLimit

SECRET = "s" * 40
CALLER = Caller(
    tenant="acme", key_id="gms_x", limit=RateLimit(requests_per_minute=7), models=frozenset({"m"})
)


def file(number: int, tenant: str = "acme", **more) -> File:
    usual = {"purpose": "batch", "filename": "größe\n.jsonl", "size_bytes": 7, "created_at": number}
    return File(file_id=f"file-{number}", tenant=tenant, **{**usual, **more})


def batch(number: int, tenant: str = "acme", **more) -> Batch:
    order = Order(
        input_file_id=f"file-{number}",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        window_s=86_400,
        metadata={"a": "\0b"},
    )
    return Batch(batch_id=f"batch_{number}", tenant=tenant, order=order, created_at=1, expires_at=9, **more)


def store_at(url: str, holder: str, **more) -> PostgresBatches:
    return PostgresBatches(lambda: url, lambda: SECRET, holder, **more)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = BatchStore(tmp_path / "batches.db")
    else:
        made = store_at(request.getfixturevalue("store_url"), "east/1")
    yield made
    made.close()


@pytest.fixture
def east(store_url):
    made = store_at(store_url, "east/1", lease_s=60.0)
    yield made
    made.close()


@pytest.fixture
def west(store_url):
    made = store_at(store_url, "west/1", lease_s=60.0)
    yield made
    made.close()


def test_files_come_back_page_by_page_and_only_to_their_tenant(store):
    kept = [file(number, purpose="batch" if number % 2 else "batch_output") for number in range(1, 8)]
    for one in kept:
        store.add_file(one)
    store.add_file(file(99, "other\0"))
    assert store.file("acme", "file-3") == kept[2]
    for tenant, file_id in (("other", "file-3"), ("acme", "file-99"), ("acme", "no\0such"), ("", "file-3")):
        assert store.file(tenant, file_id) is None
    assert store.files("acme", Page(limit=3)) == (kept[:3:-1], True)
    assert store.files("acme", Page(limit=3, after="file-3")) == (kept[1::-1], False)
    assert store.files("acme", Page(limit=9, ascending=True, after="file-5")) == (kept[5:], False)
    assert store.files("acme", Page(limit=9, purpose="batch")) == (kept[::-2], False)
    assert store.files("acme", Page(after="file-99")) == ([], False)
    assert store.files("other\0", Page()) == ([file(99, "other\0")], False)


def test_a_file_that_a_batch_reads_stays(store):
    store.add_file(file(1, expires_at=5))
    store.add_file(file(2, expires_at=5))
    store.add_file(file(3, expires_at=50))
    held = store.add_batch(batch(1), CALLER)
    assert store.remove_file("acme", "file-1") == "batch_1"
    assert store.expire_files(10) == ["file-2"]
    assert store.remove_file("other", "file-3") == "" and store.file("acme", "file-3")
    store.save(replace(held.batch, status="failed", failed_at=3), turn=held.turn)
    assert store.remove_file("acme", "file-1") == ""
    assert store.files("acme", Page()) == ([file(3, expires_at=50)], False)


def test_a_batch_comes_back_as_it_was_saved(store):
    for number in range(1, 5):
        store.add_file(file(number))
    held = [store.add_batch(batch(number), CALLER) for number in range(1, 5)]
    assert [(one.batch, one.caller, one.cancel) for one in held] == [
        (batch(number), CALLER, False) for number in range(1, 5)
    ]
    assert store.batch("acme", "batch_2") == (batch(2), "")
    assert store.batch("other", "batch_2") is None
    counts, fault = Counts(total=9, completed=7), Fault(code="x", message="ü", line=3)
    done = replace(held[1].batch, status="completed", completed_at=7, counts=counts, faults=(fault,))
    outputs = [file(20, purpose="batch_output"), file(21, purpose="batch_output")]
    store.save(done, outputs, turn=held[1].turn)
    assert store.batch("acme", "batch_2") == (done, "")
    assert store.file("acme", "file-20") == outputs[0]
    assert [one.batch.batch_id for one in store.batches("acme", Page(limit=2))[0]] == ["batch_4", "batch_3"]
    assert store.batches("acme", Page(limit=2, after="batch_3")) == ([(done, ""), (batch(1), "")], False)
    assert store.forget_batches(7) == 0
    assert store.forget_batches(8) == 1
    assert store.batch("acme", "batch_2") is None


def test_of_many_gateways_one_holds_a_batch(store_url, east):
    for number in range(1, 13):
        east.add_file(file(number))
        held = east.add_batch(batch(number), CALLER)
        east.release({held.batch.batch_id: held.turn})
    several = [store_at(store_url, f"g{n}/1", lease_s=60.0) for n in range(4)]

    def twice(one: PostgresBatches) -> list[Held]:
        first = one.claim(2)
        return [*first, *one.claim(2, [held.batch.batch_id for held in first])]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(twice, several))
    taken = [held.batch.batch_id for some in found for held in some]
    assert sorted(taken) == sorted(set(taken))
    for one, some in zip(several, found, strict=True):
        assert one.claim(20, [held.batch.batch_id for held in some]) == []
        assert one.keep_up({held.batch.batch_id: (held.turn, "") for held in some}) == {
            held.batch.batch_id: False for held in some
        }
        one.close()
    assert {held.before for some in found for held in some} == {"east/1"}
    assert {held.turn for some in found for held in some} == {2}


def test_who_has_lost_a_batch_writes_nothing(store_url, west):
    hasty = store_at(store_url, "east/1", lease_s=0.0)
    hasty.add_file(file(1))
    held = hasty.add_batch(batch(1), CALLER)
    running = replace(held.batch, status="in_progress", counts=Counts(total=3))
    hasty.save(running, turn=held.turn)  # the lease has run out, and nobody took it: it is still ours
    hasty.add_answers("batch_1", held.turn, b"one", Counts(completed=1), Usage(output=5))
    assert hasty.keep_up({"batch_1": (held.turn, "the disk is full")}) == {"batch_1": False}
    [taken] = west.claim(4)
    assert (taken.batch, taken.caller, taken.before, taken.turn) == (running, CALLER, "east/1", held.turn + 1)
    assert list(west.answers("batch_1")) == [b"one"]
    for write in (
        lambda: hasty.save(replace(running, status="failed", failed_at=1), [file(9)], turn=held.turn),
        lambda: hasty.add_answers("batch_1", held.turn, b"two", Counts(completed=2), Usage()),
        lambda: west.add_answers("batch_1", held.turn, b"two", Counts(completed=2), Usage()),
    ):
        with pytest.raises(Lost):
            write()
    assert hasty.keep_up({"batch_1": (held.turn, "")}) == {}
    hasty.release({"batch_1": held.turn})
    assert west.claim(4, ["batch_1"]) == [] and hasty.claim(4) == []
    assert hasty.file("acme", "file-9") is None
    seen = hasty.batch("acme", "batch_1")
    assert (seen.batch.counts, seen.batch.usage) == (Counts(total=3, completed=1), Usage(output=5))
    west.add_answers("batch_1", taken.turn, b"two", Counts(completed=2), Usage())
    assert list(west.answers("batch_1")) == [b"one", b"two"]
    west.save(replace(running, status="completed", completed_at=5), turn=taken.turn)
    assert list(west.answers("batch_1")) == []
    hasty.close()


def test_one_that_freezes_in_the_middle_of_a_change_holds_up_nobody_for_long(store_url, west):
    hasty = store_at(store_url, "east/1", lease_s=0.0)
    hasty.add_file(file(1))
    held = hasty.add_batch(batch(1), CALLER)
    frozen = hasty.links.changing(0.2)
    link = frozen.__enter__()  # and nothing more is heard of it
    link.do("UPDATE gemstead_batches SET progress = ''")
    deadline = time.monotonic() + 10.0
    while not (taken := west.claim(1)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert taken[0].turn == held.turn + 1
    with pytest.raises(LedgerTrouble):
        frozen.__exit__(None, None, None)
    hasty.close()


def test_a_batch_is_cancelled_wherever_that_is_asked(east, west):
    east.add_file(file(1))
    held = east.add_batch(batch(1), CALLER)
    west.ask_cancel("other", "batch_1", 5)
    assert east.keep_up({"batch_1": (held.turn, "")}) == {"batch_1": False}
    west.ask_cancel("acme", "batch_1", 5)
    assert west.batch("acme", "batch_1").batch.status == "cancelling"
    assert east.keep_up({"batch_1": (held.turn, "")}) == {"batch_1": True}
    east.release({"batch_1": held.turn}, before="north/1")
    [taken] = west.claim(1)
    assert (taken.cancel, taken.before, taken.batch.status) == (True, "north/1", "validating")


def test_bytes_are_sealed_and_come_back_in_parts(east, west, store_url):
    content = bytes(range(256)) * 10_000  # 2.4 parts
    assert east.parts.put("file-1", [content[:5], content[5:70_000], content[70_000:]]) == len(content)
    east.add_file(file(1, size_bytes=len(content)))
    parts = list(west.read_file(file(1, size_bytes=len(content))))
    assert b"".join(parts) == content
    assert [len(part) for part in parts] == [PART_BYTES, PART_BYTES, len(content) - 2 * PART_BYTES]
    with linked(store_url) as link:
        for (data,) in link.rows("SELECT data FROM gemstead_file_parts"):
            assert bytes(range(256)) not in bytes(data)
        link.do(
            "UPDATE gemstead_file_parts SET n = 9 - n WHERE n < 2"
        )  # somebody puts parts in others' places
        link.do("UPDATE gemstead_file_parts SET n = 9 - n WHERE n > 2")
        link.do("UPDATE gemstead_file_parts SET n = CASE n WHEN 0 THEN 5 ELSE n END")
        link.do("UPDATE gemstead_file_parts SET n = 0 WHERE n = 1")
    with pytest.raises(OSError, match="damaged"):
        list(west.read_file(file(1, size_bytes=len(content))))
    with pytest.raises(FileNotFoundError):
        list(west.read_file(file(2, size_bytes=1)))
    # Another secret of the store later is no other key of files.
    with linked(store_url) as link:
        Vault(link, SECRET).reseal("t" * 40)
    later = PostgresBatches(lambda: store_url, lambda: "t" * 40, "north/1")
    later.parts.put("file-3", [b"abc"])
    assert list(east.read_file(file(3, size_bytes=3))) == [b"abc"]
    later.close()


def test_all_files_together_have_a_bound_and_cut_uploads_go(store_url):
    store = store_at(store_url, "east/1", most_bytes=20)
    for number in (1, 2):
        store.add_file(file(number))
    with pytest.raises(StoreFull, match=r"batch\.store_mib"):
        store.add_file(file(3))
    store.remove_file("acme", "file-1")
    store.add_file(file(3))
    store.parts.put("file-2", [b"x"])
    store.parts.put("file-cut", [b"x"])
    with linked(store_url) as link:
        link.do("UPDATE gemstead_file_parts SET at = at - 100000")
    store.parts.put("file-coming", [b"x"])
    assert store.expire_files(0) == []
    with linked(store_url) as link:
        left = link.rows("SELECT file_id FROM gemstead_file_parts ORDER BY 1")
    assert left == [("file-2",), ("file-coming",)]
    store.close()
