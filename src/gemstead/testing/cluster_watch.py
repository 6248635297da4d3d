"""A pretend Kubernetes API on a loopback port: lists in pages, watches with bookmarks, history that can be forgotten.

`cluster.py` beside it is the one that is written to; this one is watched. It knows the kinds that it is told of; others
are 404, as where a CRD is not installed. What it did is on record (`asked`), and it can be away, or refuse a token.

    async with WatchedCluster("/api/v1/namespaces/default/pods") as cluster:
        cluster.put("/api/v1/namespaces/default/pods", {"metadata": {"name": "a"}})
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gemstead.console.app import Server
from gemstead.operate.cluster.access import Access

Object = dict[str, Any]
Event = tuple[int, str, Object]  # resourceVersion, ADDED and so on, the object


class WatchedCluster:
    """Use it as an async context manager. Changes reach watchers at once."""

    def __init__(self, *kinds: str, token: str = "", page: int = 500) -> None:
        self.kinds: dict[str, dict[str, Object]] = {kind: {} for kind in kinds}
        self.token, self.page = token, page
        self.away = False  # everything is answered 503, and watches end
        self.forbidden = False  # kinds that it does not know are 403, as for whoever may not ask
        self.gone_by_event = False  # a watch that is too old is told so by an event, not by its status
        self.asked: list[str] = []  # "list PATH" or "watch PATH from VERSION"
        self.port = 0
        self._version, self._oldest = 1000, 0
        self._events: dict[str, list[Event]] = {kind: [] for kind in kinds}
        self._changed = asyncio.Condition()
        self._cut = 0

    @property
    def access(self) -> Access:
        return Access(f"http://127.0.0.1:{self.port}", fixed_token=self.token)

    async def put(self, kind: str, item: Object) -> None:
        """Make or replace an object."""
        name = item["metadata"]["name"]
        await self._do(kind, "MODIFIED" if name in self.kinds[kind] else "ADDED", copy.deepcopy(item))

    async def delete(self, kind: str, name: str) -> None:
        await self._do(kind, "DELETED", self.kinds[kind][name])

    async def forget(self) -> None:
        """Drop all history and end all watches: who comes with an old version has to list again."""
        self._version += 1
        self._oldest = self._version
        for events in self._events.values():
            events.clear()
        await self.cut()

    async def cut(self) -> None:
        """End all watches."""
        async with self._changed:
            self._cut += 1
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        app = Starlette(routes=[Route("/{path:path}", self._answer)])
        self._server = Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self.cut()
        await self._serving

    async def _do(self, kind: str, what: str, item: Object) -> None:
        async with self._changed:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            if what == "DELETED":
                del self.kinds[kind][item["metadata"]["name"]]
            else:
                self.kinds[kind][item["metadata"]["name"]] = item
            self._events[kind].append((self._version, what, item))
            self._changed.notify_all()

    async def _answer(self, request: Request) -> Response:
        path, params = request.url.path, request.query_params
        if self.away:
            return _status(503, "away")
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if path not in self.kinds:
            if self.forbidden:
                return _status(403, "forbidden")
            return _status(404, "the server could not find the requested resource")
        select = (params.get("labelSelector", ""), params.get("fieldSelector", ""))
        if params.get("watch") in ("1", "true"):
            since = int(params.get("resourceVersion") or 0)
            self.asked.append(f"watch {path} from {since}")
            if since < self._oldest and not self.gone_by_event:
                return _status(410, "too old resource version")
            return StreamingResponse(self._stream(path, since, select), media_type="application/json")
        self.asked.append(f"list {path}")
        found = [item for _, item in sorted(self.kinds[path].items()) if _selected(item, *select)]
        start = int(params.get("continue") or 0)
        size = min(int(params.get("limit") or self.page), self.page)
        meta: Object = {"resourceVersion": str(self._version)}
        if start + size < len(found):
            meta["continue"] = str(start + size)
        return JSONResponse({"metadata": meta, "items": found[start : start + size]})

    async def _stream(self, path: str, since: int, select: tuple[str, str]) -> AsyncIterator[bytes]:
        if since < self._oldest:
            yield _line("ERROR", {"code": 410, "message": "too old resource version"})
            return
        cut = self._cut
        yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(since)}})
        while True:
            for version, what, item in list(self._events[path]):
                if version > since:
                    since = version
                    if _selected(item, *select):
                        yield _line(what, item)
            async with self._changed:
                while self._cut == cut and not any(v > since for v, _, _ in self._events[path]):
                    await self._changed.wait()
                if self._cut != cut:
                    return


def _selected(item: Object, labels: str, fields: str) -> bool:
    mine = item["metadata"].get("labels") or {}
    wanted = [pair.partition("=") for pair in labels.split(",") if pair]
    if any(mine.get(name) != value for name, _, value in wanted):
        return False
    return not fields or fields == f"metadata.name={item['metadata']['name']}"


def _line(what: str, item: Object) -> bytes:
    return json.dumps({"type": what, "object": item}).encode() + b"\n"


def _status(code: int, message: str) -> Response:
    return JSONResponse({"kind": "Status", "code": code, "message": message}, code)
