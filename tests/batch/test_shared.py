"""Several gateways on one store: real processes, a real PostgreSQL, and kills."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

import pytest
from batch_house import House, house, line, lines
from msgspec.structs import replace

import openai
from gemstead.testing.script import Script

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger" / "counters"))

from servers import postgres_bin, postgres_server, until

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.schema import upgrade

SECRET = "s" * 40
LEASE_S = 2.0
CONCURRENCY = 16
SLOW = Script(delay_s=0.04)


@pytest.fixture(scope="module")
def server():
    if postgres_bin() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server() as made:
        until(lambda: lets_in(made.url), "PostgreSQL lets nobody in")
        upgrade(made.url)
        yield made


def lets_in(url: str) -> bool:
    with contextlib.suppress(LedgerTrouble), linked(url) as link:
        return bool(link.value("SELECT 1"))
    return False


@contextlib.asynccontextmanager
async def houses(tmp_path: Path, url: str, script: Script = SLOW, **more):
    """Two gateways, `east` and `west`."""
    said = {"store": url, "store_secret": SECRET, "lease_s": LEASE_S, "concurrency": CONCURRENCY, **more}
    async with (
        house(tmp_path / "east", script, holder="east/1", **said) as east,
        house(tmp_path / "west", beside=east, holder="west/1", **said) as west,
    ):
        yield east, west


async def answering(home: House) -> None:
    """Until its gateway has noticed that connections to a process that was killed are gone."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            for _ in range(3):
                await home.client(max_retries=0).files.list()
            return
        except openai.APIError as error:
            assert time.monotonic() < deadline, (error, home.process, home.log)
        await asyncio.sleep(0.05)


async def seen_by_engine(home: House, more: int) -> None:
    seen = len(home.engine.seen) + more
    await home.engine.until(lambda: len(home.engine.seen) >= seen, within_s=20.0)


def check(answers: list[dict], home: House, count: int, kills: int) -> None:
    """Every line is answered once, and none ran more often than kills allow."""
    assert [answer["custom_id"] for answer in answers] == [f"c{n}" for n in range(1, count + 1)]
    assert all(answer["response"]["status_code"] == 200 for answer in answers)
    executed = home.executed()
    assert set(executed) >= {f"question {n}" for n in range(1, count + 1)}
    again = sum(executed.values()) - len(executed)
    # At a kill: at most CONCURRENCY on their way, and as many answers as come in during one gathering and its commit.
    assert again <= kills * CONCURRENCY * 3, f"{again} ran again after {kills} kills"


async def test_two_gateways_are_one_service_and_either_may_die(tmp_path, server):
    """One pair of gateways for all, since their start is most of the time."""
    async with houses(tmp_path, server.url) as (east, west):
        await what_is_at_one_is_at_all(east, west, server.url)
        for part in (
            one_that_leaves_in_order_hands_over_at_once_and_nothing_runs_twice,
            killed_in_turns_every_line_is_answered_once,
        ):
            await begun_anew(east, west)
            await part(east, west)
        assert "Traceback" not in east.log + west.log


@pytest.mark.slow
async def test_what_was_thought_dead_and_a_store_that_dies_lose_and_double_nothing(tmp_path, server):
    async with houses(tmp_path, server.url) as (east, west):
        for turn in range(3):
            await begun_anew(east, west)
            await one_that_was_thought_dead_writes_nothing_any_more(east, west, turn + 1)
            await begun_anew(east, west)
            await a_store_goes_and_comes_back(east, west, server)
        assert "Traceback" not in east.log + west.log


async def begun_anew(east: House, west: House) -> None:
    for home in (east, west):
        await answering(home)
    east.engine.seen.clear()


async def what_is_at_one_is_at_all(east: House, west: House, url: str) -> None:
    file = await east.upload(lines(2000))
    assert (await west.client().files.retrieve(file.id)).bytes == len(lines(2000))
    content = await west.client().files.content(file.id)
    assert content.content == lines(2000)
    assert [one.id for one in (await west.client().files.list()).data] == [file.id]
    for client in (east.client("other"), west.client("other")):
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)
    batch = await west.client().batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"a": "b"},
    )
    with pytest.raises(openai.BadRequestError, match="goes on"):
        await east.client().files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        await east.client("other").batches.retrieve(batch.id)
    # How far it is can be seen where it does not run, and it can be cancelled there.
    there = await east.until(batch.id, lambda one: one.request_counts.completed > 5)
    assert (there.status, there.request_counts.total, there.metadata) == ("in_progress", 2000, {"a": "b"})
    assert [one.id for one in (await east.client().batches.list()).data] == [batch.id]
    assert (await east.client().batches.cancel(batch.id)).status == "cancelling"
    done = await east.ended(batch.id)
    counts = done.request_counts
    assert done.status == "cancelled" and 5 < counts.completed < 2000
    assert len(await east.answers(done.output_file_id)) == counts.completed
    errors = await west.answers(done.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert counts.completed + len(errors) == 2000
    assert await west.client().batches.retrieve(batch.id) == done
    # Nothing of what was asked and answered can be read in the database, nor is it in the folders.
    assert_sealed(url, b"question 7", b"custom_id", b"Lima")
    for home in (east, west):
        assert list((home.folder / "batch" / "files").iterdir()) == []
        assert list((home.folder / "batch" / "results").iterdir()) == []
    assert (await east.client().files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await west.client().files.content(file.id)


def assert_sealed(url: str, *words: bytes) -> None:
    with linked(url) as link:
        parts = [bytes(data) for (data,) in link.rows("SELECT data FROM gemstead_file_parts")]
        rows = link.rows("SELECT row, caller, progress FROM gemstead_batches")
    assert parts
    for word in words:
        assert not any(word in data for data in parts)
        assert not any(word.decode() in text for row in rows for text in row)


async def killed_in_turns_every_line_is_answered_once(east: House, west: House) -> None:
    """East is killed, and west goes on; west is killed, and east, which is back, goes on."""
    batch = await east.order(lines(600))
    await seen_by_engine(east, 100)
    await east.kill()
    began = time.monotonic()
    await seen_by_engine(west, 100 + CONCURRENCY)
    assert time.monotonic() - began < LEASE_S + 6.0
    await east.start(holder="east/3")
    await west.kill()
    done = await east.ended(batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == (
        "completed",
        600,
        0,
    )
    assert done.usage.output_tokens == 600 * 7, "what ran twice is counted once"
    check(await east.answers(done.output_file_id), east, 600, 2)
    await west.start(holder="west/2")


async def one_that_leaves_in_order_hands_over_at_once_and_nothing_runs_twice(
    east: House, west: House
) -> None:
    batch = await east.order(lines(600))
    await seen_by_engine(east, 60)
    await east.kill(signal.SIGTERM)
    done = await west.ended(batch.id, within_s=20.0)
    assert done.status == "completed"
    check(await west.answers(done.output_file_id), west, 600, 0)
    await east.start(holder="east/2")


async def one_that_was_thought_dead_writes_nothing_any_more(east: House, west: House, turn: int) -> None:
    """Stopped for longer than a lease in the middle of a batch, and let go on when another has it."""
    batch = await east.order(lines(600))
    await seen_by_engine(east, 60)
    assert east.process is not None
    east.process.send_signal(signal.SIGSTOP)
    await seen_by_engine(west, 60)
    east.process.send_signal(signal.SIGCONT)
    done = await west.ended(batch.id)
    assert done.status == "completed"
    check(await east.answers(done.output_file_id), west, 600, 1)
    deadline = time.monotonic() + 10.0
    while east.log.count("is held by another gateway by now") < turn:
        assert time.monotonic() < deadline, east.log
        await asyncio.sleep(0.05)
    assert list((east.folder / "batch" / "results").iterdir()) == []


async def test_a_batch_is_left_to_gateways_that_serve_its_model(tmp_path, server):
    said = {"store": server.url, "store_secret": SECRET, "lease_s": LEASE_S, "concurrency": CONCURRENCY}
    async with (
        house(tmp_path / "east", Script(delay_s=0.05), holder="east/1", **said) as east,
        house(tmp_path / "west", beside=east, holder="west/1", model="another", **said) as west,
    ):
        batch = await east.order(lines(200))
        await seen_by_engine(east, 40)
        await east.kill()
        deadline = time.monotonic() + 15.0
        while "is left to other gateways: its model is not served here" not in west.log:
            assert time.monotonic() < deadline, west.log
            await asyncio.sleep(0.05)
        assert (await west.client().batches.retrieve(batch.id)).status == "in_progress"
        await east.start(holder="east/2")
        done = await east.ended(batch.id)
        assert (done.status, done.request_counts.failed) == ("completed", 0)
        check(await east.answers(done.output_file_id), east, 200, 1)


async def a_store_goes_and_comes_back(east: House, west: House, server) -> None:
    """Nothing is lost, nothing runs twice: what is on its way ends, its answers wait, no further line begins."""
    batch = await east.order(lines(600))
    await seen_by_engine(east, 50)
    server.kill(signal.SIGKILL)
    with pytest.raises(openai.InternalServerError, match="store"):
        await west.client(max_retries=0).batches.retrieve(batch.id)
    await asyncio.sleep(LEASE_S)  # real processes: what would begin in that time, if it were let
    seen = len(east.engine.seen)
    await asyncio.sleep(0.5)
    assert len(east.engine.seen) == seen < 600
    server.start()
    done = await west.ended(batch.id)
    assert done.status == "completed"
    check(await west.answers(done.output_file_id), west, 600, 0 if "is taken up here" not in west.log else 1)
    assert "Traceback" not in east.log + west.log


async def test_what_a_gateway_had_by_itself_comes_into_the_store(tmp_path, server):
    async with house(tmp_path / "east", SLOW, concurrency=CONCURRENCY) as east:
        first = await east.ended((await east.order(lines(5))).id)
        going_on = await east.order(lines(400))
        await seen_by_engine(east, 80)
        await east.kill()
        east.settings = replace(
            east.settings, store=server.url, store_secret=SECRET, lease_s=LEASE_S, holder="east/1"
        )
        await east.start()
        done = await east.ended(going_on.id)
        assert (done.status, done.request_counts.completed) == ("completed", 400)
        assert len(await east.answers(done.output_file_id)) == 400
        again = sum(east.executed().values()) - 400 - 5
        assert again <= CONCURRENCY * 3
        assert len(await east.answers(first.output_file_id)) == 5
        assert (await east.client().batches.retrieve(first.id)).status == "completed"
        assert not (east.folder / "batch" / "batches.db").exists()
        assert "2 batches of this gateway are in the store now" in east.log


async def test_a_large_file_goes_through_piece_by_piece_and_all_files_have_a_bound(tmp_path, server):
    mib = 1 << 20
    big = (line(1) + "\n").encode() + b" " * (40 * mib)
    said = {"store": server.url, "store_secret": SECRET, "holder": "east/9", "store_bytes": 60 * mib}
    async with house(tmp_path / "east", **said) as east:
        assert east.process is not None
        before = peak_kib(east.process.pid)
        file = await east.upload(big)
        done = await east.ended((await east.order(big[:1000])).id)
        content = await east.client().files.content(file.id)
        assert content.content == big
        assert peak_kib(east.process.pid) - before < 30 * 1024
        assert done.status == "completed"
        with pytest.raises(openai.InternalServerError, match=r"batch\.store_mib") as refused:
            await east.client(max_retries=0).files.create(file=("in", big), purpose="batch")
        assert refused.value.status_code == 507
        await east.client().files.delete(file.id)


def peak_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(row.split()[1]) for row in text.splitlines() if row.startswith("VmHWM"))
