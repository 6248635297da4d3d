"""One contract, three stores: memory, Redis and PostgreSQL are asked the same and must answer the same."""

from __future__ import annotations

import asyncio
import signal
import uuid
from random import Random

import pytest

from gemstead.ledger.counters import StoreAway, opened
from gemstead.ledger.counters.memory import MemoryCounters
from gemstead.traffic.window import Ask, Back, Batch, Cap

STORES = ["memory", "redis", "postgres"]


@pytest.fixture(params=STORES)
async def store(request):
    name = request.param
    made = MemoryCounters() if name == "memory" else opened(request.getfixturevalue(f"{name}_url"))
    yield made
    await made.close()


@pytest.fixture
def two(request, store):
    """The same counters as two gateways see them."""
    if isinstance(store, MemoryCounters):
        return store, store
    name = "redis_url" if "Redis" in type(store).__name__ else "postgres_url"
    return store, opened(request.getfixturevalue(name))


def cap(kind: str = "budget", limit: int = 100, **more) -> Cap:
    unit = {"rate": "tokens", "budget": "tokens", "slots": "calls"}[kind]
    return Cap(id=uuid.uuid4().hex, kind=kind, unit=unit, limit=limit, name=kind, rule="test", **more)


class Owner:
    def __init__(self, store) -> None:
        self.store, self.name, self.number = store, uuid.uuid4().hex, 0

    async def say(self, asks=(), backs=()):
        self.number += 1
        return await self.store.apply(Batch(self.name, self.number, list(asks), list(backs)))

    async def ask(self, cap, want, least=None, start=1000.0):
        return (await self.say([Ask(cap, want, want if least is None else least, start)]))[0]

    async def back(self, cap, units, grant):
        await self.say(backs=[Back(cap, units, grant.tag, grant.moved)])


async def test_a_budget_gives_what_it_has_and_takes_back_what_was_not_used(store):
    owner, one = Owner(store), cap()
    first = await owner.ask(one, 60)
    assert (first.units, first.left, first.tag) == (60, 40, 1000.0)
    assert (await owner.ask(one, 60)).units == 0
    assert (await owner.ask(one, 60, least=1)).units == 40
    await owner.back(one, 50, first)
    assert (await owner.ask(one, 50)).units == 50


async def test_what_was_used_beyond_is_charged(store):
    owner, one = Owner(store), cap()
    first = await owner.ask(one, 60)
    await owner.back(one, -100, first)
    assert (await owner.ask(one, 1)).units == 0
    await owner.back(one, 60, first)
    assert (await owner.ask(one, 1)).units == 0


async def test_a_budget_begins_anew_and_its_past_is_void(store):
    owner, one = Owner(store), cap()
    old = await owner.ask(one, 100, start=1000.0)
    new = await owner.ask(one, 70, start=2000.0)
    assert (new.units, new.tag) == (70, 2000.0)
    await owner.back(one, 100, old)
    assert (await owner.ask(one, 31, start=2000.0)).units == 0


async def test_a_clock_that_steps_back_over_midnight_grants_nothing(store):
    owner, one = Owner(store), cap()
    await owner.ask(one, 100, start=2000.0)
    assert (await owner.ask(one, 1, start=1000.0)).units == 0
    assert (await owner.ask(one, 1, start=3000.0)).units == 1


async def test_a_rate_gives_its_burst_and_then_says_how_long_to_wait(store):
    owner, one = Owner(store), cap("rate", 100, window_s=600.0)
    assert (await owner.ask(one, 100)).units == 100
    refused = await owner.ask(one, 50)
    assert refused.units == 0
    assert 295 < refused.wait_s <= 301


async def test_a_rate_takes_back_what_time_has_not_paid(store):
    owner, one = Owner(store), cap("rate", 1000, window_s=6000.0)
    first, second = await owner.ask(one, 500), await owner.ask(one, 500)
    await owner.back(one, 500, second)
    await owner.back(one, 500, first)  # moved up by the other's refund, and no further
    assert 495 <= (await owner.ask(one, 1000, least=1)).units <= 502


async def test_what_was_paid_by_time_does_not_come_back(store):
    owner, one = Owner(store), cap("rate", 1000, window_s=0.2)
    first = await owner.ask(one, 1000)
    await asyncio.sleep(0.25)
    second = await owner.ask(one, 1000)
    assert second.units == 1000
    await owner.back(one, 1000, first)
    assert (await owner.ask(one, 1000)).units == 0


async def test_a_rate_is_charged_beyond(store):
    owner, one = Owner(store), cap("rate", 100, window_s=600.0)
    first = await owner.ask(one, 10)
    await owner.back(one, -140, first)
    assert 295 < (await owner.ask(one, 1)).wait_s <= 307


async def test_slots_are_shared_and_given_back(two):
    one, first, second = cap("slots", 5), Owner(two[0]), Owner(two[1])
    assert (await first.ask(one, 4)).units == 4
    assert (await second.ask(one, 2)).units == 0
    assert (await second.ask(one, 1)).units == 1
    assert (await first.ask(one, 1)).units == 1
    assert (await second.ask(one, 4)).units == 4
    assert (await second.ask(one, 0)).units == 0


async def test_a_batch_that_comes_twice_counts_once_and_gets_the_same_answer(store):
    owner, one = Owner(store), cap()
    batch = Batch(owner.name, 1, [Ask(one, 60, 60, 1000.0)], [])
    assert await store.apply(batch) == await store.apply(batch)
    owner.number = 1
    assert (await owner.ask(one, 40)).units == 40


async def test_asks_and_returns_of_one_batch_are_done_together(store):
    owner, one, other = Owner(store), cap(), cap("rate", 10)
    first = await owner.ask(one, 100)
    grants = await owner.say(
        [Ask(one, 30, 30, 1000.0), Ask(other, 3, 3)], [Back(one, 30, first.tag, first.moved)]
    )
    assert [grant.units for grant in grants] == [30, 3]


async def test_what_stands_can_be_seen_and_reset(store):
    owner = Owner(store)
    caps = [cap(), cap("rate", 100, window_s=600.0), cap("slots", 5)]
    for one, units in zip(caps, (70, 30, 2), strict=True):
        await owner.ask(one, units)
    seen = {s.cap.id: s for s in await store.standings()}
    assert [seen[one.id].used for one in caps] == [70, 30, 2]
    assert [seen[one.id].cap for one in caps] == caps
    await store.reset([one.id for one in caps])
    assert (await owner.ask(caps[0], 100)).units == 100


async def test_a_changed_limit_keeps_what_was_used(store):
    owner, one = Owner(store), cap()
    await owner.ask(one, 80)
    larger = Cap(id=one.id, kind="budget", unit="tokens", limit=200, name="budget", rule="test")
    assert (await owner.ask(larger, 200, least=1)).units == 120


@pytest.mark.parametrize("kind", ["budget", "rate"])
async def test_gateways_that_ask_at_once_never_get_more_than_there_is(two, kind):
    one, random = cap(kind, 1000, **({"window_s": 60_000.0} if kind == "rate" else {})), Random(3)
    owners = [Owner(two[number % 2]) for number in range(8)]

    async def run(owner):
        got = 0
        for _ in range(25):
            want = random.randrange(1, 40)
            grant = await owner.ask(one, want, least=1)
            got += grant.units
            if grant.units and random.random() < 0.3:
                spare = random.randrange(grant.units)
                if kind == "budget":
                    await owner.back(one, spare, grant)
                    got -= spare
        return got

    total = sum(await asyncio.gather(*map(run, owners)))
    assert total == (await standing_of(two[0], one) if kind == "budget" else total)
    assert 990 <= total <= 1000


async def standing_of(store, one):
    return next(s.used for s in await store.standings() if s.cap.id == one.id)


async def test_the_three_stores_answer_alike(redis_url, postgres_url):
    """The same random batches: the arithmetic in Lua is that in Python. Rates are slow, so that time hardly counts."""
    random = Random(7)
    caps = [cap(), cap("rate", 1000, window_s=8.0e6), cap("slots", 6)]
    stores = [MemoryCounters(), opened(redis_url), opened(postgres_url)]
    owners = [[Owner(store) for _ in range(3)] for store in stores]
    answers = [[], [], []]
    for _ in range(60):
        who, one, units = random.randrange(3), random.choice(caps), random.randrange(1, 300)
        if one.kind == "slots":
            units = random.randrange(7)
        start = 1000.0 * random.choice([1, 1, 1, 1, 2])
        back = random.random()
        for number, mine in enumerate(owners):
            grant = await mine[who].ask(one, units, least=units // 2, start=start)
            answers[number].append((one.kind, grant.units, grant.left, round(grant.wait_s, -2)))
            if grant.units and one.kind != "slots":
                await mine[who].back(one, int(units * 1.2 * back) - units // 10, grant)
    assert answers[0] == answers[1] == answers[2]
    for store in stores:
        await store.close()


async def test_a_store_that_is_gone_says_so_and_is_there_again_when_it_is(redis_that_fails):
    server = redis_that_fails
    store = opened(server.url)
    owner, one = Owner(store), cap()
    assert (await owner.ask(one, 60)).units == 60
    server.kill()
    with pytest.raises(StoreAway, match="Redis"):
        await owner.ask(one, 10)
    server.start()
    assert (await owner.ask(one, 60)).units == 0, "what was used was kept"
    assert (await owner.ask(one, 40)).units == 40
    server.process.send_signal(signal.SIGSTOP)  # it takes connections and says nothing
    try:
        with pytest.raises(StoreAway):
            await owner.ask(one, 1)
    finally:
        server.process.send_signal(signal.SIGCONT)
    await store.close()


async def test_a_database_that_is_not_there_is_no_traceback():
    store = opened("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(StoreAway, match="PostgreSQL"):
        await store.standings()
