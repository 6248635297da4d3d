"""Where a picker behind Envoy has its endpoints and rules from: a file, or the pods of an InferencePool.

A `Source` says what it knows and tells whoever runs it of changes. What is wrong changes nothing: the last that was
understood stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from gemstead.gateway.epp import objects
from gemstead.gateway.epp.rules import Rewrite, Rules
from gemstead.gateway.kvevents import zmq_address
from gemstead.operate.cluster.access import Access, CannotReach, from_kubeconfig, in_cluster
from gemstead.operate.cluster.watch import Watch, client
from gemstead.spec.epp import EppSpec
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.objective import priority_of

LOOK_S = 1.0  # between two looks at the file
log = logging.getLogger(__name__)


class Source(Protocol):
    """Where endpoints and rules come from."""

    def facts(self) -> list[EndpointFacts] | None:
        """The endpoints; None while nobody knows."""

    def rules(self) -> Rules: ...
    def trouble(self) -> str:
        """Why what is known may be old; "" when it is not."""

    async def run(self, changed: Callable[[], None]) -> None:
        """Keep up to date until cancelled."""


class FileSource:
    """The endpoints that a file names. A file that becomes wrong changes nothing."""

    def __init__(self, spec: EppSpec, file: Path, read: Callable[[], EppSpec]) -> None:
        self._spec, self._file, self._read = spec, file, read
        self._trouble = ""

    def facts(self) -> list[EndpointFacts]:
        like = like_of(self._spec)
        found = []
        for one in self._spec.endpoints or ():
            host, _, port = one.address.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
            found.append(
                msgspec.structs.replace(
                    like,
                    name=one.name or one.address,
                    host=host,
                    port=int(port),
                    engine=one.engine or like.engine,
                    slots=one.slots or like.slots,
                    context_tokens=one.context or like.context_tokens,
                    kv_events=zmq_address(host, one.kv_events_port or self._spec.kv_events_port),
                    kv_replay=zmq_address(host, one.kv_replay_port or self._spec.kv_replay_port),
                )
            )
        return found

    def rules(self) -> Rules:
        return rules_of(self._spec)

    def trouble(self) -> str:
        return self._trouble

    async def run(self, changed: Callable[[], None]) -> None:
        seen = _stamp(self._file)
        while True:
            await asyncio.sleep(LOOK_S)
            if (now := _stamp(self._file)) == seen:
                continue
            seen = now
            try:
                self._spec = self._read()
            except Exception as error:  # whatever is wrong with it, what runs goes on
                self._trouble = f"{self._file}: {error}"
                log.warning("the file has changed and is not taken: %s", error)
                continue
            self._trouble = ""
            log.info("the file has changed: %d endpoints", len(self._spec.endpoints or ()))
            changed()


class ClusterSource:
    """The pods of an InferencePool, and the objectives and rewrites of its namespace."""

    def __init__(self, spec: EppSpec, access: Access) -> None:
        self._spec, self._access = spec, access
        self._namespace = spec.kubernetes.namespace or access.namespace
        self._changed: Callable[[], None] = lambda: None
        self._http = client(access)
        self._pools = [
            self._watch(f"/apis/{group}", "inferencepools", fieldSelector=f"metadata.name={spec.pool}")
            for group in objects.POOL_GROUPS
        ]
        self._objectives = [
            self._watch(f"/apis/{group}", "inferenceobjectives") for group in objects.RULE_GROUPS
        ]
        self._rewrites = [
            self._watch(f"/apis/{group}", "inferencemodelrewrites") for group in objects.RULE_GROUPS
        ]
        self._pods: Watch | None = None
        self._pods_task: asyncio.Task[None] | None = None
        self._pool: objects.Pool | None = None

    def facts(self) -> list[EndpointFacts] | None:
        if self._pool is None:
            older = self._pools[1]  # whoever may not read it sees no pool there
            return [] if self._pools[0].synced and (older.synced or older.trouble) else None
        if self._pods is None or not self._pods.synced:
            return None
        spec = self._spec
        return objects.endpoints_of(
            self._pool, self._pods.items.values(), like_of(spec), spec.kv_events_port, spec.kv_replay_port
        )

    def rules(self) -> Rules:
        objectives = [item for watch in self._objectives for item in watch.items.values()]
        rewrites = [item for watch in self._rewrites for item in watch.items.values()]
        found = objects.rules_of(self._spec.pool, objectives, rewrites)
        own = rules_of(self._spec)
        return Rules(
            objectives={**own.objectives, **found.objectives}, rewrites=found.rewrites + own.rewrites
        )

    def trouble(self) -> str:
        said = self._pools[0].trouble or (self._pods.trouble if self._pods is not None else "")
        if not said and self._pool is None and self._pools[0].synced:
            return f"there is no InferencePool {self._spec.pool} in namespace {self._namespace}"
        return said

    async def run(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        try:
            async with asyncio.TaskGroup() as group:
                for watch in (*self._pools, *self._objectives, *self._rewrites):
                    group.create_task(watch.run())
        finally:
            if self._pods_task is not None:
                self._pods_task.cancel()
                await asyncio.gather(self._pods_task, return_exceptions=True)
            await self._http.aclose()

    def _watch(self, group: str, kind: str, **select: str) -> Watch:
        return Watch(
            self._http, self._access, f"{group}/namespaces/{self._namespace}/{kind}", self._look, select
        )

    def _look(self) -> None:
        """Something has changed; when the pool selects other pods, those are watched from now on."""
        items = [item for watch in self._pools for item in watch.items.values()]
        pool = next((found for item in items if (found := objects.pool_of(item)) is not None), None)
        if (pool and pool.selector) != (self._pool and self._pool.selector):
            if self._pods_task is not None:
                self._pods_task.cancel()
            self._pods = self._pods_task = None
            if pool is not None:
                self._pods = self._watch("/api/v1", "pods", labelSelector=pool.selector)
                self._pods_task = asyncio.create_task(self._pods.run())
        self._pool = pool
        self._changed()


def source_of(
    spec: EppSpec, file: Path | None, read: Callable[[], EppSpec], environ: Mapping[str, str]
) -> Source:
    """Where the endpoints come from.

    Raises:
        CannotReach: from a cluster, and there is no way to it.
    """
    if spec.endpoints is not None:
        assert file is not None, "endpoints are said in a file"
        return FileSource(spec, file, read)
    if not spec.pool:
        raise CannotReach(
            "nothing to pick from: name an InferencePool (--pool NAME) or a file with endpoints (--file)"
        )
    kubernetes = spec.kubernetes
    if kubernetes.kubeconfig:
        access = from_kubeconfig(Path(kubernetes.kubeconfig).expanduser(), kubernetes.context)
    elif (inside := in_cluster(environ)) is not None:
        access = inside
    else:
        path = Path(environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config").expanduser()
        if not path.exists():
            raise CannotReach(
                "this is no pod of a cluster, and there is no kubeconfig; say --kubeconfig FILE or --file FILE"
            )
        access = from_kubeconfig(path, kubernetes.context)
    return ClusterSource(spec, access)


def rules_of(spec: EppSpec) -> Rules:
    """The rules in the file.

    Raises:
        ValueError: an objective's priority is none.
    """
    return Rules(
        objectives={name: priority_of(word) for name, word in spec.objectives.items()},
        rewrites=tuple(
            Rewrite(model=one.model or "", targets=tuple((to.model, to.weight) for to in one.targets))
            for one in spec.rewrites
        ),
    )


def like_of(spec: EppSpec) -> EndpointFacts:
    """An endpoint of which nothing is known but what the file says of all."""
    return EndpointFacts(
        name="",
        pool=spec.pool or "pool",
        host="",
        port=0,
        engine=spec.engine,
        slots=spec.slots,
        context_tokens=spec.context,
    )


def _stamp(file: Path) -> tuple[int, int, int]:
    """What changes with a file's content; a mounted ConfigMap changes its link's target."""
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
