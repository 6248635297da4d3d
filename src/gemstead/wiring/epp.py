"""A picker behind Envoy, put together: where its endpoints come from, what it knows of them, its ports, its end.

Endpoints come from the file (which is read again when it changes) or from the pods of an InferencePool. Either way a
`Source` hands the desk facts and rules; everything behind the desk is the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Protocol

import msgspec

from gemstead import __version__
from gemstead.console.app import server as http_server
from gemstead.console.picker import pages
from gemstead.gateway.epp import objects
from gemstead.gateway.epp.certificate import from_files, self_signed
from gemstead.gateway.epp.desk import Desk, DeskSettings, address_of
from gemstead.gateway.epp.rules import Rewrite, Rules
from gemstead.gateway.epp.server import Server
from gemstead.gateway.epp.sockets import Pem
from gemstead.gateway.figures import Figures
from gemstead.observe import names
from gemstead.observe.metrics import Registry, exposition
from gemstead.operate.cluster.access import Access, CannotReach, from_kubeconfig, in_cluster
from gemstead.operate.cluster.watch import Watch, client
from gemstead.spec.epp import EppSpec, EppTls
from gemstead.supervise.scrape import Round, Scraper
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.objective import priority_of
from gemstead.traffic.picker import Picker
from gemstead.traffic.policies import POLICIES
from gemstead.traffic.policy import Policy
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.queue import QueueBounds
from gemstead.wiring.addresses import listener, split
from gemstead.wiring.secrets import CannotRun

MISSES = 2  # of the looks at an endpoint of the file, until it counts as down
LAME_S = 5.0  # until a Service of a cluster no longer leads to a pod that ends
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
            found.append(
                msgspec.structs.replace(
                    like,
                    name=one.name or one.address,
                    host=host.removeprefix("[").removesuffix("]"),
                    port=int(port),
                    engine=one.engine or like.engine,
                    slots=one.slots or like.slots,
                    context_tokens=one.context or like.context_tokens,
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
        return objects.endpoints_of(self._pool, self._pods.items.values(), like_of(self._spec))

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


@dataclass
class Ports:
    """Where a picker listens; its health port may be none."""

    grpc: int
    health: int
    http: int


class Picking:
    """One picker, running."""

    def __init__(self, spec: EppSpec, source: Source) -> None:
        self.spec, self.source = spec, source
        self.registry = Registry()
        choose = Random().randrange  # noqa: S311
        picker: Policy = (
            Picker(PrefixIndex(), choose) if spec.policy == "gemstead" else POLICIES[spec.policy](choose)
        )
        self.desk = Desk(settings_of(spec), picker, choose, Figures(self.registry))
        self.server = Server(self.desk, pem=pem_of(spec))
        self._kv_tokens: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._why = ""  # what was wrong with the source, lately
        self._shown: set[str] = set()  # the endpoints in the metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._http = http_server(pages(self.metrics, self.why_not_ready, self.endpoints))

    async def start(self) -> Ports:
        """Listen, and keep up to date from now on.

        Raises:
            OSError, CannotRun: an address cannot be had.
        """
        try:
            socket = listener(*split(self.spec.metrics))
        except OSError as error:
            raise CannotRun(
                f"cannot listen on {self.spec.metrics} (metrics): {error.strerror or error}"
            ) from error
        self.look()
        grpc_port, health_port = await self.server.start(self.spec.listen, self.spec.health)
        scraper = Scraper(self.spec.scrape_s, self._scraped, self._took)
        self._tasks = [
            asyncio.create_task(self._http.serve(sockets=[socket])),
            asyncio.create_task(self.source.run(self.look)),
            asyncio.create_task(scraper.run()),
        ]
        return Ports(grpc_port, health_port, socket.getsockname()[1])

    async def stop(self, within_s: float) -> int:
        """End as `Server.drain` does; returns the calls that had not ended."""
        lame_s = min(LAME_S, within_s) if isinstance(self.source, ClusterSource) else 0.0
        unfinished = await self.server.drain(within_s - lame_s, lame_s)
        await self._end()
        return unfinished

    async def kill(self) -> None:
        await self.server.kill()
        await self._end()

    async def failed(self) -> None:
        """Return when a part of the picker has ended, which none should.

        Raises:
            Exception: what ended it.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _end(self) -> None:
        self._http.should_exit = True
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what is known ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take what the source knows."""
        self.desk.rules = self.source.rules()
        if (why := self.source.trouble()) and why != self._why:
            log.warning("%s", why)
        self._why = why
        if (facts := self.source.facts()) is None:
            return
        self.desk.fleet([self._as_seen(one) for one in facts], monotonic())

    def _as_seen(self, facts: EndpointFacts) -> EndpointFacts:
        """With what the endpoint itself has told, or not told."""
        away = isinstance(self.source, FileSource) and self._missed.get(facts.name, 0) >= MISSES
        return msgspec.structs.replace(
            facts,
            kv_tokens=self._kv_tokens.get(facts.name, facts.kv_tokens),
            ready=facts.ready and not away,
        )

    def _scraped(self) -> list[EndpointFacts]:
        return [facts for facts in self.source.facts() or () if facts.ready]

    def _took(self, found: Round) -> None:
        before = (self._kv_tokens, {name for name, count in self._missed.items() if count >= MISSES})
        self._kv_tokens = {**self._kv_tokens, **found.kv_tokens}
        self._missed = {name: self._missed.get(name, 0) + 1 for name in found.silent}
        if before != (self._kv_tokens, {name for name, count in self._missed.items() if count >= MISSES}):
            self.look()
        self.desk.loads(found.loads, monotonic())

    # -- what is shown ------------------------------------------------------------------------------------------

    def why_not_ready(self) -> str:
        if not self.desk.known:
            return self.source.trouble() or "the pool is not known yet"
        return "" if self.desk.ready else "no endpoint of the pool takes calls"

    def metrics(self) -> str:
        """The Prometheus text."""
        desk, registry = self.desk, self.registry
        figures = desk.figures
        here = {endpoint.name for endpoint in desk.endpoints}
        for gone in self._shown - here:
            figures.breaker_open.forget(gone)
            for outcome in ("served", "failed"):
                figures.endpoint_calls.forget(gone, outcome)
        self._shown = here
        for endpoint in desk.endpoints:
            figures.endpoint(endpoint.name, endpoint.served, endpoint.failures)
            figures.breaker_open.labels(endpoint.name).set(float(endpoint.breaker.state.value != "closed"))
        registry.values(names.BUILD_INFO).labels(__version__).set(1)
        loads = [load for endpoint in desk.endpoints if (load := endpoint.load) is not None]
        pool = desk.settings.pool
        _share(registry, *READY_PODS, pool, [float(desk.ready)])
        _share(registry, *QUEUE_SIZE, pool, [float(load.waiting or 0) for load in loads])
        kv = [load.kv_used for load in loads if load.kv_used is not None]
        _share(registry, *KV_USED, pool, kv)
        return exposition(registry.snapshot(), registry.families())

    def endpoints(self) -> list[dict[str, Any]]:
        """What is known of each endpoint."""
        now = monotonic()
        return [
            {
                "name": one.name,
                "address": address_of(one.facts),
                "engine": one.facts.engine,
                "ready": one.takes_calls,
                "breaker": one.breaker.state.value,
                "stale": one.is_stale(now),
                "in_flight": one.in_flight,
                "served": one.served,
                "failed": one.failures,
                "running": one.load.running if one.load else None,
                "waiting": one.load.waiting if one.load else None,
                "kv_used": one.load.kv_used if one.load else None,
                "adapters": sorted(one.adapters),
            }
            for one in self.desk.endpoints
        ]


# What the reference picker calls the figures that autoscalers of these gateways look at (GIE docs, metrics).
READY_PODS = ("inference_pool_ready_pods", "Endpoints of the pool that take calls.")
QUEUE_SIZE = ("inference_pool_average_queue_size", "Mean of requests that wait inside an engine.")
KV_USED = ("inference_pool_average_kv_cache_utilization", "Mean share of the engines' cache in use, 0 to 1.")


def _share(registry: Registry, name: str, help: str, pool: str, values: list[float]) -> None:
    if values:  # absent, never a silent zero
        registry.gauge(name, help, ("name",)).labels(pool).set(sum(values) / len(values))


# -- from the file's words ------------------------------------------------------------------------------------------


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


def settings_of(spec: EppSpec) -> DeskSettings:
    queue = spec.queue
    bounds = QueueBounds(
        requests=queue.requests,
        bytes=queue.mib << 20,
        wait_s=queue.wait_s,
        starting_wait_s=queue.starting_wait_s,
    )
    return DeskSettings(
        pool=spec.pool or "pool",
        fallbacks=spec.fallbacks,
        body_bytes=spec.body_mib << 20,
        media=spec.media,
        queue=bounds,
    )


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


def pem_of(spec: EppSpec) -> Callable[[], Pem] | None:
    """Where key and certificate come from.

    Raises:
        CannotRun: they cannot be read, or are none.
    """
    if isinstance(tls := spec.tls, EppTls):
        certificate, key = Path(tls.certificate).expanduser(), Path(tls.key).expanduser()
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise CannotRun(
                f"{certificate} and {key} are no certificate with its key: {error.strerror or error}"
            ) from error
        return lambda: from_files(certificate, key)
    if tls == "off":
        return None
    made = self_signed()
    return lambda: made


def _stamp(file: Path) -> tuple[int, int, int]:
    """What changes with a file's content; a mounted ConfigMap changes its link's target."""
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


async def run(spec: EppSpec, source: Source, say: Callable[[str], None]) -> int:
    """Pick until a signal says otherwise; the exit code. A second signal shortens the end."""
    picking = Picking(spec, source)
    loop, told, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (again if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    ports = await picking.start()
    say(
        f"picking for {spec.pool or 'the endpoints of the file'}: gateways on port {ports.grpc} "
        f"({'plain' if spec.tls == 'off' else 'TLS'}), health on {ports.health}, metrics on {ports.http}"
    )
    failing, telling = asyncio.create_task(picking.failed()), asyncio.create_task(told.wait())
    await asyncio.wait({failing, telling}, return_when=asyncio.FIRST_COMPLETED)
    if not told.is_set():
        await picking.kill()
        failing.result()
        return 1
    failing.cancel()
    say(f"finishing {len(picking.server.open)} running calls, at most {spec.drain_s:g} s")
    stopping, hurrying = asyncio.create_task(picking.stop(spec.drain_s)), asyncio.create_task(again.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await picking.stop(0.0)
    hurrying.cancel()
    return 0
