"""A picker behind Envoy, put together: what it knows of its endpoints, its ports, its end.

Endpoints come from a file or from the pods of an InferencePool (`epp_sources.py`). Either way a `Source` hands the desk
facts and rules; everything behind the desk is the same. What pickers tell each other, and what engines say of their
caches, is heard by the same parts as in a gateway's worker.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import msgspec

from gemstead import __version__
from gemstead.console.app import server as http_server
from gemstead.console.picker import pages
from gemstead.gateway.epp.certificate import from_files, self_signed
from gemstead.gateway.epp.desk import Desk, address_of
from gemstead.gateway.epp.place import DeskPlace
from gemstead.gateway.epp.server import Server
from gemstead.gateway.epp.settings import DeskSettings
from gemstead.gateway.epp.sockets import Pem
from gemstead.gateway.figures import Figures
from gemstead.gateway.kvevents import Ears
from gemstead.gateway.settings import Sharing
from gemstead.gateway.sharing import Talk
from gemstead.ledger.counters import StoreAway
from gemstead.observe import names
from gemstead.observe.metrics import Registry, Values, exposition
from gemstead.spec.epp import EppSpec, EppTls
from gemstead.supervise.scrape import Round, Scraper
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.policies import POLICIES
from gemstead.traffic.policy import Policy
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.queue import QueueBounds
from gemstead.wiring.addresses import listener, split
from gemstead.wiring.epp_sources import ClusterSource, FileSource, Source
from gemstead.wiring.secrets import CannotRun

MISSES = 2  # of the looks at an endpoint of the file, until it counts as down
LAME_S = 5.0  # until a Service of a cluster no longer leads to a pod that ends
LISTEN_S = 1.0  # between two looks at who publishes KV events
log = logging.getLogger(__name__)


@dataclass
class Ports:
    """Where a picker listens; its health port may be none."""

    grpc: int
    health: int
    http: int


class Picking:
    """One picker, running."""

    def __init__(self, spec: EppSpec, source: Source, sharing: Sharing | None = None) -> None:
        """`sharing`: where pickers meet; None: they do not."""
        self.spec, self.source, self.sharing = spec, source, sharing
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
        self._pool_figures: dict[str, Values] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._http = http_server(pages(self.metrics, self.why_not_ready, self.endpoints))

    async def start(self) -> Ports:
        """Listen, and keep up to date from now on.

        Raises:
            OSError, CannotRun: an address cannot be had, or a library that the file needs.
        """
        place = DeskPlace(self.desk, asyncio.get_running_loop())
        try:
            talk = Talk(self.sharing, place, log.warning) if self.sharing is not None else None
        except StoreAway as error:
            raise CannotRun(f"sharing: {error}") from error
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
            asyncio.create_task(self._listen(Ears(place, log.warning))),
        ]
        if talk is not None:
            self._tasks.append(asyncio.create_task(talk.run()))
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

    async def _listen(self, ears: Ears) -> None:
        """Hear what engines say of their prefix caches, those that do."""
        try:
            while True:
                ears.look()
                await asyncio.sleep(LISTEN_S)
        finally:
            await ears.finish()

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
            if self.sharing is not None:
                registry.values(names.ENDPOINT_OTHERS).forget(gone)
            for outcome in ("served", "failed"):
                figures.endpoint_calls.forget(gone, outcome)
        self._shown = here
        for endpoint in desk.endpoints:
            figures.endpoint(endpoint.name, endpoint.served, endpoint.failures)
            figures.breaker_open.labels(endpoint.name).set(float(endpoint.breaker.state.value != "closed"))
        registry.values(names.BUILD_INFO).labels(__version__).set(1)
        loads = [load for endpoint in desk.endpoints if (load := endpoint.load) is not None]
        pool = desk.settings.pool
        self._share(READY_PODS, pool, [float(desk.ready)])
        self._share(QUEUE_SIZE, pool, [float(load.waiting or 0) for load in loads])
        kv = [load.kv_used for load in loads if load.kv_used is not None]
        self._share(KV_USED, pool, kv)
        return exposition(registry.snapshot(), registry.families())

    def _share(self, figure: tuple[str, str], pool: str, values: list[float]) -> None:
        if values:  # absent, never a silent zero
            gauge = self._pool_figures.get(figure[0])
            if gauge is None:
                gauge = self._pool_figures[figure[0]] = self.registry.gauge(*figure, ("name",))
            gauge.labels(pool).set(sum(values) / len(values))

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
                "others": one.others.calls,
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


# -- from the file's words ------------------------------------------------------------------------------------------


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


async def run(
    spec: EppSpec, source: Source, say: Callable[[str], None], sharing: Sharing | None = None
) -> int:
    """Pick until a signal says otherwise; the exit code. A second signal shortens the end."""
    picking = Picking(spec, source, sharing)
    loop, told, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (again if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    ports = await picking.start()
    gc.collect()
    gc.freeze()  # what is here now stays; a call leaves few cycles behind
    gc.set_threshold(50_000, 20, 50)
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
