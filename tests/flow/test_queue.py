"""Calls that meet a full model wait for their turn: in order, fairly, bounded; who leaves is taken out at once."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from gemstead.gateway.control import Fleet, Needed
from gemstead.ledger.keys import Grant
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.gateway import make_key
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack
from gemstead.traffic.queue import QueueBounds

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
STREAM = ASK | {"stream": True}
NEVER = Script(never=True)


def bearer(key) -> tuple[str, ...]:
    return (f"Authorization: Bearer {key.secret}",)


async def waiting(stack, count):
    """Wait until so many calls are in the queue."""
    async with asyncio.timeout(10):
        while True:
            shown = (await stack.figures()).snapshot["gemstead_queue_waiting"]
            if sum(figure[0] for figure in shown.values()) == count:
                return
            await asyncio.sleep(0.01)


async def test_a_call_waits_until_the_engine_has_room_and_the_record_says_how_long(tmp_path):
    async with FakeEngine() as engine:
        engine.then(NEVER)
        facts = replace(engine.facts("a", pool="m"), slots=1)
        async with start_stack(folder=tmp_path, endpoints=(facts,)) as stack:
            first, second = await stack.peer(), await stack.peer()
            await first.send(post(ASK))
            await engine.until(lambda: len(engine.seen) == 1)
            await second.send(post(STREAM))
            await waiting(stack, 1)
            assert len(engine.seen) == 1, "the engine has not heard of it"
            first.close()
            answer = await second.answer()
            assert answer.status == 200
            assert events(answer.body)[-1] == b"data: [DONE]"
            await stack.quiet()
            left, served = await stack.records(2)
            assert (left.outcome, left.queued_s) == ("client_left", 0.0)
            assert served.outcome == "served"
            assert 0.0 < served.queued_s < served.first_token_s <= served.seconds
            await waiting(stack, 0)
            seconds = (await stack.figures()).snapshot["gemstead_queue_seconds"]
            assert any(map(any, seconds.values()))
            second.close()


async def test_who_leaves_while_waiting_is_taken_out_at_once_and_never_sent(tmp_path):
    async with FakeEngine() as engine:
        engine.then(NEVER)
        facts = replace(engine.facts("a", pool="m"), slots=1)
        async with start_stack(folder=tmp_path, endpoints=(facts,)) as stack:
            first = await stack.peer()
            await first.send(post(ASK))
            await engine.until(lambda: len(engine.seen) == 1)
            for count in range(20):
                async with await stack.peer() as other:
                    await other.send(post(ASK))
                    await waiting(stack, 1)
                await waiting(stack, 0)
                [record] = (await stack.records(count + 1))[count:]
                assert (record.outcome, record.attempts, record.endpoint) == ("client_left", 0, "")
            first.close()
            await stack.quiet()
            assert len(engine.seen) == 1


async def test_when_as_many_wait_as_may_the_next_is_told_when_to_come_back(tmp_path):
    async with FakeEngine() as engine:
        engine.then(NEVER)
        facts = replace(engine.facts("a", pool="m"), slots=1)
        bounds = QueueBounds(requests=2)
        async with start_stack(folder=tmp_path, endpoints=(facts,), queue=bounds) as stack:
            peers = [await stack.peer() for _ in range(4)]
            for number, peer in enumerate(peers[:3]):
                await peer.send(post(ASK))
                await (waiting(stack, number) if number else engine.until(lambda: len(engine.seen) == 1))
            await peers[3].send(post(ASK))
            answer = await peers[3].answer()
            assert (answer.status, answer.fields["error"]["code"]) == (429, "overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            peers[0].close()
            for peer in peers[1:3]:
                assert (await peer.answer()).status == 200
            await stack.quiet()
            assert sorted(record.outcome for record in await stack.records(4)) == [
                "client_left", "overloaded", "served", "served",
            ]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_who_has_waited_in_vain_is_told_429_in_its_dialect(tmp_path, path):
    async with FakeEngine(NEVER) as engine:
        facts = replace(engine.facts("a", pool="m"), slots=1)
        bounds = QueueBounds(wait_s=0.3)
        async with start_stack(folder=tmp_path, endpoints=(facts,), queue=bounds) as stack:
            first, second = await stack.peer(), await stack.peer()
            await first.send(post(STREAM, path))
            await engine.until(lambda: len(engine.seen) == 1)
            await second.send(post(STREAM, path))
            answer = await second.answer()
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert "has waited" in answer.fields["error"]["message"]
            [record] = await stack.records(1)
            assert (record.outcome, record.status) == ("overloaded", 429)
            assert record.queued_s >= 0.3
            first.close()
            await stack.quiet()


async def test_more_important_calls_go_first_and_what_may_be_shed_waits_and_is_not_lost(tmp_path):
    vip, batch = make_key(tmp_path, Grant(app="chat")), make_key(tmp_path, Grant(app="batch", priority=-1))
    async with FakeEngine() as engine:
        engine.then(NEVER)
        facts = replace(engine.facts("a", pool="m"), slots=1)
        async with start_stack(
            folder=tmp_path, endpoints=(facts,), keys_required=True, keys_path=vip.keys_path, pepper=vip.pepper
        ) as stack:  # fmt: skip
            first = await stack.peer()
            await first.send(post(ASK, headers=bearer(vip)))
            await engine.until(lambda: len(engine.seen) == 1)
            peers = []
            for number, key in enumerate([batch, batch, vip, vip]):
                peers.append(await stack.peer())
                await peers[-1].send(post(ASK, headers=bearer(key)))
                await waiting(stack, number + 1)
            first.close()
            for peer in peers:
                assert (await peer.answer()).status == 200
            await stack.quiet()
            records = await stack.records(5)
            assert [record.app for record in records[1:]] == ["chat", "chat", "batch", "batch"]
            assert {record.outcome for record in records[1:]} == {"served"}


async def test_tenants_take_turns_however_many_calls_one_has_sent(tmp_path):
    loud = make_key(tmp_path, Grant(tenant="loud"))
    quiet = make_key(tmp_path, Grant(tenant="quiet"))
    async with FakeEngine() as engine:
        engine.then(NEVER)
        facts = replace(engine.facts("a", pool="m"), slots=1)
        async with start_stack(
            folder=tmp_path, endpoints=(facts,), keys_required=True, keys_path=loud.keys_path, pepper=loud.pepper
        ) as stack:  # fmt: skip
            first = await stack.peer()
            await first.send(post(ASK, headers=bearer(loud)))
            await engine.until(lambda: len(engine.seen) == 1)
            peers = [await stack.peer() for _ in range(12)]
            for number, peer in enumerate(peers):
                await peer.send(post(ASK, headers=bearer(loud if number < 10 else quiet)))
                await waiting(stack, number + 1)
            first.close()
            for peer in peers:
                assert (await peer.answer()).status == 200
            records = await stack.records(13)
            turns = [record.tenant for record in records[1:]]
            assert turns.index("quiet") <= 1
            assert [place for place, tenant in enumerate(turns) if tenant == "quiet"][1] <= 3, turns


async def test_a_prompt_that_fits_nowhere_is_refused_at_once(tmp_path):
    text = " ".join(words(3000))
    async with (
        FakeEngine(context_tokens=1000) as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK | {"messages": [{"role": "user", "content": text}]}))
        answer = await peer.answer()
        assert (answer.status, answer.fields["error"]["code"]) == (400, "context_length_exceeded")
        assert engine.seen == []
        # What only looks long goes to the engine, which can count.
        for content in ("=" * 20_000, [{"type": "image_url", "image_url": {"url": "data:," + text}}]):
            await peer.send(post(ASK | {"messages": [{"role": "user", "content": content}]}))
            await peer.answer()
        assert len(engine.seen) == 2


async def test_calls_for_a_model_that_sleeps_wait_for_it_and_go_on_when_it_is_awake(tmp_path):
    async with FakeEngine() as engine:
        asleep = replace(engine.facts("a", pool="m"), ready=False, asleep=True)
        async with start_stack(folder=tmp_path, endpoints=(asleep,)) as stack:
            peers = [await stack.peer() for _ in range(3)]
            for peer in peers:
                await peer.send(post(ASK))
            await waiting(stack, 3)
            assert any(isinstance(word, Needed) and word.pool == "m" for word in stack.heard)
            stack.say(Fleet(endpoints=(replace(asleep, ready=True, asleep=False),)))
            for peer in peers:
                assert (await peer.answer()).status == 200
            assert all(record.queued_s > 0.0 for record in await stack.records(3))


async def test_a_model_that_does_not_wake_in_time_is_503_and_one_that_is_down_at_once(tmp_path):
    async with FakeEngine() as engine:
        asleep = replace(engine.facts("a", pool="m"), ready=False, asleep=True)
        bounds = QueueBounds(starting_wait_s=0.3)
        async with start_stack(folder=tmp_path, endpoints=(asleep,), queue=bounds) as stack:
            async with await stack.peer() as peer:
                await peer.send(post(ASK))
                answer = await peer.answer()
                assert answer.status == 503
                assert "retry-after" in answer.headers
                stack.say(Fleet(endpoints=(replace(asleep, asleep=False),)))
                await stack.figures()  # it has heard that
                await peer.send(post(ASK))
                assert (await peer.answer()).status == 503
            slept, down = await stack.records(2)
            assert slept.queued_s >= 0.3
            assert down.queued_s == 0.0


async def test_what_waits_when_the_model_is_taken_out_of_the_file_is_told_so(tmp_path):
    async with FakeEngine(NEVER) as engine:
        facts = replace(engine.facts("a", pool="m"), slots=1)
        async with start_stack(folder=tmp_path, endpoints=(facts,)) as stack:
            first, second = await stack.peer(), await stack.peer()
            await first.send(post(ASK))
            await engine.until(lambda: len(engine.seen) == 1)
            await second.send(post(ASK))
            await waiting(stack, 1)
            stack.configure(pools=(), endpoints=())
            answer = await second.answer()
            assert answer.status == 503
            assert json.loads(answer.body)["error"]["message"]
            first.close()
            await stack.quiet()
