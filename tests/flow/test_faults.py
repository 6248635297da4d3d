"""What networks do to connections between gateway and engines: another engine takes over, once, and nobody hangs."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from gemstead.gateway.settings import Deadlines
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.faults import Fault, FaultProxy
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
STREAM = ASK | {"stream": True}
SHORT = Deadlines(first_token_s=0.5, between_tokens_s=0.5, connect_s=0.5)


def behind(proxy, engine, name):
    return replace(engine.facts(name, pool="m"), port=proxy.port)


async def test_a_proxy_without_a_fault_changes_nothing(tmp_path):
    async with FakeEngine() as engine, FaultProxy(engine.host, engine.port) as proxy:
        async with (
            start_stack(folder=tmp_path, endpoints=(behind(proxy, engine, "a"),)) as stack,
            await stack.peer() as peer,
        ):
            for stream in (False, True, True):
                await peer.send(post(ASK | {"stream": stream}))
                assert (await peer.answer()).status == 200
            assert proxy.connections == 1, "the connection is kept"
        async with asyncio.timeout(5):
            while proxy._writers:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(refuse=True),
        Fault(reset_after=0),
        Fault(reset_after=20),
        Fault(half_close_after=0),
        Fault(half_close_after=20),
        Fault(blackhole_after=0),
        Fault(corrupt_at=0),
        Fault(bytes_per_s=10.0),
    ],
    ids=lambda fault: ",".join(f"{name}={getattr(fault, name)}" for name in fault.__slots__
                               if getattr(fault, name) != getattr(Fault(), name)),
)  # fmt: skip
async def test_before_the_first_byte_another_engine_takes_over(tmp_path, fault, stream):
    async with (
        FakeEngine() as bad,
        FakeEngine() as good,
        FaultProxy(bad.host, bad.port, fault) as proxy,
        start_stack(
            folder=tmp_path, deadlines=SHORT,
            endpoints=(behind(proxy, bad, "bad"), good.facts("good", pool="m")),
        ) as stack,
        await stack.peer() as peer,
    ):  # fmt: skip
        count = 0
        while proxy.connections == 0 or count < 3:
            count += 1
            assert count < 60
            await peer.send(post(ASK | {"stream": stream}))
            answer = await peer.answer()
            assert answer.status == 200
        records = await stack.records(count)
        assert {record.outcome for record in records} == {"served"}
        assert all(record.attempts <= 2 for record in records), "never twice to the same place"
        await stack.quiet()


@pytest.mark.parametrize(
    "fault", [Fault(reset_after=400), Fault(blackhole_after=400), Fault(half_close_after=400)]
)
async def test_after_the_first_byte_the_client_is_told_and_the_engine_is_not_blamed_twice(tmp_path, fault):
    async with (
        FakeEngine(Script(pieces=words(60))) as bad,
        FaultProxy(bad.host, bad.port, fault) as proxy,
        start_stack(folder=tmp_path, deadlines=SHORT, endpoints=(behind(proxy, bad, "bad"),)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        answer = await peer.answer()
        assert answer.status == 200
        assert any(b"error" in event for event in events(answer.body))
        [record] = await stack.records(1)
        assert record.outcome in ("cut", "deadline")
        await stack.quiet()


async def test_an_engine_that_fails_half_of_its_calls_is_shut_out_by_comparison(tmp_path):
    async with (
        FakeEngine() as bad,
        FakeEngine() as good,
        FakeEngine() as fine,
        FaultProxy(bad.host, bad.port) as proxy,
        start_stack(
            folder=tmp_path,
            endpoints=(
                behind(proxy, bad, "bad"), good.facts("good", pool="m"), fine.facts("fine", pool="m"),
            ),
        ) as stack,
        await stack.peer() as peer,
    ):  # fmt: skip
        shut = False
        for number in range(400):
            proxy.fault = Fault(reset_after=0) if number % 2 else Fault()
            if number % 2:
                proxy.cut()
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
            shown = (await stack.figures()).snapshot["gemstead_breaker_open"]
            if sum(figure[0] for figure in shown.values()):
                shut = True
                break
        assert shut


async def test_when_everything_fails_retries_stop_by_their_budget(tmp_path):
    """A hundred retries are put by for quiet times, ten come every second, and each call earns a fifth of one."""
    dead = Script(status=500)
    async with (
        FakeEngine(dead) as one,
        FakeEngine(dead) as two,
        FakeEngine(dead) as three,
        start_stack(one, two, three, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        calls = 150
        for _ in range(calls):
            await peer.send(post(ASK))
            assert (await peer.answer()).status in (500, 502, 503)
        asked = sum(len(engine.seen) for engine in (one, two, three))
        seconds = sum(record.seconds for record in await stack.records(calls))
        assert asked - calls <= 100 + 10 * (seconds + 5) + calls
        assert asked < 3 * calls, "without a budget it were three times as many"


async def test_a_late_call_is_sent_a_second_time_and_the_slower_copy_is_aborted(tmp_path):
    async with (
        FakeEngine() as slow,
        FakeEngine() as fast,
        FaultProxy(slow.host, slow.port) as proxy,
        start_stack(
            folder=tmp_path, hedge=True, endpoints=(behind(proxy, slow, "slow"), fast.facts("fast", pool="m"))
        ) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(120):  # a fiftieth of a second copy is earned by each
            await peer.send(post(STREAM))
            assert (await peer.answer()).status == 200
        await asyncio.sleep(1.1)  # the worker counts calls each second
        proxy.fault = Fault(blackhole_after=0)
        proxy.cut()
        hedged = 0
        for number in range(40):
            await peer.send(post(STREAM))
            answer = await peer.answer()
            assert answer.status == 200
            assert events(answer.body)[-1] == b"data: [DONE]"
            record = (await stack.records(121 + number))[-1]
            if record.attempts == 2 and not record.reason:  # else a kept connection was gone
                hedged += 1
                assert (record.outcome, record.endpoint) == ("served", "fast")
                break
        assert hedged == 1
        shown = (await stack.figures()).snapshot["gemstead_hedges_total"]
        copies = sum(figure[0] for figure in shown.values())
        assert 1 <= copies <= number + 1  # at most one to a call; a kept connection that was gone hides some
        await stack.quiet()


async def test_a_call_whose_second_copy_fails_is_given_no_third(tmp_path):
    """The count of second copies is that of copies that were sent, and a call has one at most."""
    async with (
        FakeEngine() as slow,
        FakeEngine() as fast,
        start_stack(slow, fast, folder=tmp_path, hedge=True, retries=0) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(150):
            await peer.send(post(STREAM))
            assert (await peer.answer()).status == 200
        await asyncio.sleep(1.1)  # the worker counts calls each second
        slow.then(Script(first_token_s=3.0))
        fast.then(Script(first_token_s=3.0))
        before = len(slow.seen) + len(fast.seen)
        await peer.send(post(STREAM))
        async with asyncio.timeout(10):
            while len(slow.seen) + len(fast.seen) == before:
                await asyncio.sleep(0.01)
        other = fast if slow.running else slow
        other._next.clear()
        other.then(*[Script(status=500)] * 10)
        assert (await peer.answer()).status == 200
        copies = sum(
            figure[0] for figure in (await stack.figures()).snapshot["gemstead_hedges_total"].values()
        )
        assert copies == 1
        assert len(slow.seen) + len(fast.seen) == before + 1 + copies
        assert (await stack.records(151))[-1].attempts == 2
        await stack.quiet()


async def test_without_hedging_nothing_is_sent_twice(tmp_path):
    async with (
        FakeEngine(Script(first_token_s=0.6)) as one,
        FakeEngine(Script(first_token_s=0.6)) as two,
        start_stack(one, two, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        assert (await peer.answer()).status == 200
        assert len(one.seen) + len(two.seen) == 1
        await stack.records(1)
