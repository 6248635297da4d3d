"""Objects of one kind in a Kubernetes API, kept up to date: a list, then a watch from where the list ended.

    list     all pages; its resourceVersion is where the watch begins
    watch    events one per line; each moves the resourceVersion, a bookmark only that
    again    a watch that ends is begun again where it was; one that is too old (410 Gone, as a status or in an event)
             begins with a list

Whatever fails is tried again, later each time, and what was known stays: an API that is away is no reason to send
nothing anywhere. A kind that the cluster does not know (a CRD that is not installed) has no objects, and is looked
for again now and then. https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import httpx2

from gemstead.operate.cluster.access import Access

PAGE = 500
WATCH_S = 240
ANSWER_S = 15.0
AGAIN_S, AGAIN_MOST_S = 0.5, 30.0
MISSING_S = 30.0
log = logging.getLogger(__name__)
Object = dict[str, Any]


class Gone(Exception):
    """The resourceVersion is too old: only a list helps."""


def client(access: Access) -> httpx2.AsyncClient:
    """The HTTP client for an API, shared by its watches."""
    return httpx2.AsyncClient(
        base_url=access.url,
        verify=access.tls() if access.url.startswith("https://") else True,
        timeout=httpx2.Timeout(ANSWER_S, connect=5.0, pool=None),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
    )


class Watch:
    """One kind of objects in one namespace. `run` returns only when it is cancelled."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        access: Access,
        path: str,
        changed: Callable[[], None],
        select: Mapping[str, str] | None = None,
    ) -> None:
        """`path`: such as `/api/v1/namespaces/default/pods`; `select`: `labelSelector` and `fieldSelector`.

        `changed` is called after objects have, and when the API begins to fail.
        """
        self.path = path
        self.items: dict[str, Object] = {}  # by name
        self.synced = False  # it has been listed once
        self.trouble = ""  # why what is known may be old; "" when it is not
        self._http, self._access, self._changed = http, access, changed
        self._select = dict(select or {})
        self._version = ""
        self._chance = Random()  # noqa: S311

    async def run(self) -> None:
        pause_s = AGAIN_S
        while True:
            try:
                if not self._version:
                    await self._list()
                pause_s = AGAIN_S
                await self._watch()
                continue
            except Gone:
                self._version = ""
                continue
            except httpx2.HTTPStatusError as error:
                if error.response.status_code == 404:
                    self._take({}, "")
                    await asyncio.sleep(MISSING_S * (0.8 + 0.4 * self._chance.random()))
                    continue
                self._version = ""  # whatever it did not like, a list begins anew
                self._failed(_refusal(error.response.status_code, self.path))
            except (httpx2.HTTPError, OSError, ValueError) as error:
                self._failed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            await asyncio.sleep(pause_s * (0.5 + self._chance.random()))
            pause_s = min(2 * pause_s, AGAIN_MOST_S)

    async def _list(self) -> None:
        found: dict[str, Object] = {}
        params: dict[str, str] = {**self._select, "limit": str(PAGE)}
        while True:
            response = await self._http.get(self.path, params=params, headers=self._access.headers())
            if response.status_code == 410 and "continue" in params:
                raise Gone  # the list itself has grown too old between two pages
            response.raise_for_status()
            page = response.json()
            meta = page.get("metadata") or {}
            found.update((_name(item), item) for item in page.get("items") or [])
            if not (token := meta.get("continue")):
                break
            params["continue"] = token
        self._take(found, str(meta.get("resourceVersion") or "0"))

    async def _watch(self) -> None:
        """Follow events until the API ends the watch."""
        params = {
            **self._select,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_S),
        }
        patience = httpx2.Timeout(ANSWER_S, read=WATCH_S + 30.0, pool=None)
        headers = self._access.headers()
        async with self._http.stream(
            "GET", self.path, params=params, headers=headers, timeout=patience
        ) as answer:
            if answer.status_code == 410:
                raise Gone
            answer.raise_for_status()
            self.trouble = ""
            async for line in answer.aiter_lines():
                if line.strip():
                    self._event(json.loads(line))
        await asyncio.sleep(0.05)  # an API that ends every watch at once is not asked without end

    def _event(self, event: Object) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Gone
            raise ValueError(f"the API says in mid-watch: {item.get('message') or item}")
        if version := (item.get("metadata") or {}).get("resourceVersion"):
            self._version = str(version)
        if kind == "DELETED":
            self.items.pop(_name(item), None)
        elif kind in ("ADDED", "MODIFIED"):
            self.items[_name(item)] = item
        else:  # a bookmark
            return
        self._changed()

    def _take(self, found: dict[str, Object], version: str) -> None:
        changed = found != self.items or not self.synced
        self.items, self._version = found, version
        self.synced, self.trouble = True, ""
        if changed:
            self._changed()

    def _failed(self, why: str) -> None:
        if why == self.trouble:
            return
        log.warning("%s: %s; what was known stays", self.path, why)
        self.trouble = why
        self._changed()


def _name(item: Object) -> str:
    return str((item.get("metadata") or {}).get("name") or "")


def _refusal(status: int, path: str) -> str:
    if status in (401, 403):
        return f"the API does not let us read {path} ({status}); docs/epp.md has the Role that is needed"
    return f"the API answers {status} for {path}"
