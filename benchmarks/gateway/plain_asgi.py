"""The gateway that anyone would write first: ASGI in, aiohttp out, round robin, no policy. A point of reference.

Run by granian in its own environment; the addresses of the engines come in ENGINES. A task waits for the
client to leave, because without it the engine would generate on.
"""

import asyncio
import itertools
import os

import aiohttp

engines = itertools.cycle(os.environ.get("ENGINES", "").split())
session: aiohttp.ClientSession | None = None


async def app(scope, receive, send):
    global session
    if scope["type"] != "http":
        return
    session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    relay = asyncio.create_task(_relay(scope["path"], body, send))
    leaving = asyncio.create_task(_left(receive))
    await asyncio.wait({relay, leaving}, return_when=asyncio.FIRST_COMPLETED)
    relay.cancel()
    leaving.cancel()


async def _left(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def _relay(path, body, send):
    headers = {"content-type": "application/json"}
    async with session.post(next(engines) + path, data=body, headers=headers, timeout=None) as answer:
        kept = [
            (k.lower().encode(), v.encode()) for k, v in answer.headers.items() if k.lower() == "content-type"
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": kept})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
