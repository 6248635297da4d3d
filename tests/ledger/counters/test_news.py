"""What gateways tell each other is read by whoever has the secret alone, and nobody else is believed: a real Redis."""

from __future__ import annotations

import shutil

import pytest
import redis.asyncio as redis
from servers import redis_server

from gemstead.ledger.counters.news import NewsStream
from gemstead.traffic.sharing import News, Share

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
SECRET = "s" * 32


def news(owner: str, number: int = 1) -> News:
    return News(owner=owner, number=number, probe=7, shares=[Share(door="10.0.0.1:8000#gemma", calls=3)])


async def test_only_who_has_the_secret_reads_it_and_only_he_is_believed():
    with redis_server() as server:
        one, other, stranger = (NewsStream(server.url, secret) for secret in (SECRET, SECRET, "t" * 32))
        outsider = redis.Redis.from_url(server.url)
        await other.turn(news("other"))
        await one.turn(news("one"))
        assert (await other.turn(news("other", 2)))[1] == [news("one"), news("other", 2)]
        assert all(said.owner == "stranger" for said in (await stranger.turn(news("stranger")))[1])
        [key] = [key async for key in outsider.scan_iter() if await outsider.xlen(key) == 3]
        entries = await outsider.xrange(key)
        assert (
            len(entries) == 3
            and b"gemma" not in repr(entries).encode()
            and b"other" not in repr(entries).encode()
        )
        # Whoever can write to the server: noise, an entry with one bit turned, one of another secret, no entry at all.
        good = entries[0][1][b"n"]
        [strange] = [k async for k in outsider.scan_iter() if k != key]
        theirs = (await outsider.xrange(strange))[0][1][b"n"]
        for blob in (b"", b"x" * 100, good[:-1] + bytes([good[-1] ^ 1]), theirs):
            await outsider.xadd(key, {b"n": blob})
        await outsider.xadd(key, {b"m": b"x"})
        assert (await one.turn(news("one", 2)))[1] == [news("other", 2), news("one", 2)]
        assert one.strange == 5
        for client in (one, other, stranger):
            await client.close()
        await outsider.aclose()
