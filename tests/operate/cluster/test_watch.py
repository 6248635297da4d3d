"""A pretend API: what a watch knows after whatever the API did."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from gemstead.operate.cluster.watch import Watch, client
from gemstead.testing.cluster_watch import WatchedCluster

PODS = "/api/v1/namespaces/default/pods"


def pod(name: str, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": labels}}


@contextlib.asynccontextmanager
async def watching(cluster: WatchedCluster, path: str = PODS, **select: str) -> AsyncIterator[Watch]:
    async with client(cluster.access) as http:
        watch = Watch(http, cluster.access, path, lambda: None, select)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def test_all_pages_of_a_list_count_and_then_every_event():
    async with WatchedCluster(PODS, page=2) as cluster:
        for name in "abcde":
            await cluster.put(PODS, pod(name))
        async with watching(cluster) as watch:
            await until(lambda: set(watch.items) == set("abcde"))
            await cluster.put(PODS, pod("f"))
            await cluster.delete(PODS, "a")
            await cluster.put(PODS, pod("b", role="new"))
            await until(lambda: set(watch.items) == set("bcdef"))
            assert watch.items["b"]["metadata"]["labels"] == {"role": "new"}
        assert cluster.asked.count(f"list {PODS}") == 3


async def test_only_what_is_selected_is_there():
    async with WatchedCluster(PODS) as cluster:
        await cluster.put(PODS, pod("a", app="x"))
        await cluster.put(PODS, pod("b", app="y"))
        async with watching(cluster, labelSelector="app=x") as watch:
            await until(lambda: watch.synced)
            assert set(watch.items) == {"a"}


async def test_a_watch_that_ends_goes_on_where_it_was():
    async with WatchedCluster(PODS) as cluster:
        async with watching(cluster) as watch:
            await until(lambda: watch.synced)
            await cluster.put(PODS, pod("a"))
            await until(lambda: "a" in watch.items)
            await cluster.cut()
            await cluster.put(PODS, pod("b"))
            await until(lambda: "b" in watch.items)
        assert cluster.asked.count(f"list {PODS}") == 1


async def test_a_version_that_is_too_old_means_a_new_list_however_it_is_said():
    for by_event in (False, True):
        async with WatchedCluster(PODS) as cluster:
            cluster.gone_by_event = by_event
            await cluster.put(PODS, pod("a"))
            await cluster.put(PODS, pod("b"))
            async with watching(cluster) as watch:
                await until(lambda watch=watch: set(watch.items) == {"a", "b"})
                await cluster.delete(PODS, "a")
                await cluster.forget()
                await until(lambda watch=watch: set(watch.items) == {"b"})
                await cluster.put(PODS, pod("c"))
                await until(lambda watch=watch: set(watch.items) == {"b", "c"})
            assert cluster.asked.count(f"list {PODS}") == 2


async def test_while_the_api_is_away_what_was_known_stays():
    async with WatchedCluster(PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        async with watching(cluster) as watch:
            await until(lambda: "a" in watch.items)
            cluster.away = True
            await cluster.cut()
            await until(lambda: bool(watch.trouble))
            assert set(watch.items) == {"a"}
            cluster.away = False
            await cluster.put(PODS, pod("b"))
            await until(lambda: "b" in watch.items and not watch.trouble)


async def test_a_kind_that_is_not_installed_has_no_objects():
    async with WatchedCluster() as cluster, watching(cluster) as watch:
        await until(lambda: watch.synced)
        assert watch.items == {} and not watch.trouble


async def test_a_refused_token_is_said_with_what_helps():
    async with WatchedCluster(PODS, token="right") as cluster:
        good = cluster.access
        cluster.token = "another"
        async with client(good) as http:
            watch = Watch(http, good, PODS, lambda: None)
            task = asyncio.create_task(watch.run())
            await until(lambda: "Role" in watch.trouble)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not watch.synced
