"""The head's part: each adapter is loaded once at a time, in the right engine; failures are remembered for a while."""

from __future__ import annotations

import asyncio

from gemstead.traffic.adapters import Shelf
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.wiring.adapters import AdapterLoader

PATHS = {"ahoy": "/l/ahoy", "legal": "/l/legal"}


class Engine:
    def __init__(self, name, most=1, why=""):
        self.name, self.shelf, self.why, self.asked = name, Shelf(PATHS, most), why, []
        self.go = asyncio.Event()

    @property
    def facts(self):
        return EndpointFacts(name=self.name, pool="m", host="h", port=1)

    async def load_adapter(self, name):
        self.asked.append(name)
        await self.go.wait()
        if self.why:
            return self.why
        for old in self.shelf.surplus():
            self.shelf.take(old)
        self.shelf.put(name, 0.0)
        return ""


class House:
    def __init__(self, *engines):
        self.failed, self.troubles, self.changes = [], [], 0
        self.loader = AdapterLoader(
            lambda: engines,
            lambda name: 3 if name == "b" else 0,
            self.changed,
            lambda *words: self.failed.append(words),
            self.troubles.append,
        )

    def changed(self):
        self.changes += 1

    async def settled(self):
        while self.loader._loading:
            await asyncio.sleep(0)


async def test_an_adapter_is_loaded_once_however_often_it_is_needed():
    a, b = Engine("a"), Engine("b")
    house = House(a, b)
    for _ in range(5):
        house.loader.needed("m", "ahoy")
        await asyncio.sleep(0)
    assert a.asked + b.asked == ["ahoy"]
    a.go.set()
    b.go.set()
    await house.settled()
    assert house.changes == 1
    house.loader.needed("m", "ahoy")  # those that have it are busy: one more
    await house.settled()
    assert sorted(a.asked + b.asked) == ["ahoy", "ahoy"]
    house.loader.needed("m", "ahoy")  # all have it
    await house.settled()
    assert len(a.asked + b.asked) == 2


async def test_a_failure_is_told_at_once_for_a_while():
    a = Engine("a", why="404: no such folder")
    a.go.set()
    house = House(a)
    for _ in range(3):
        house.loader.needed("m", "legal")
        await house.settled()
    assert a.asked == ["legal"]
    assert house.failed == [("m", "legal", "404: no such folder")] * 3
    assert len(house.troubles) == 1
    house.loader.needed("m", "ahoy")
    await house.settled()
    assert a.asked == ["legal", "ahoy"]


async def test_what_is_used_stays_longest():
    a = Engine("a", most=2)
    house = House(a)
    a.shelf.put("ahoy", 1.0)
    a.shelf.put("legal", 2.0)
    house.loader.used({"a": ["ahoy"], "z": ["legal"]})
    assert a.shelf.surplus() == ["legal"]
