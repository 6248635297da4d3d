"""A Spec becomes what should run: models on this machine, a plan, and a seat for every endpoint.

Slow things (downloads, hashing) run in a thread and stop when told. The demonstration model stands in where
the real one cannot be had, and that is always said.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from gemstead.catalog import names
from gemstead.catalog.check import facts_of
from gemstead.engines import ENGINES
from gemstead.engines.lifecycle import Allowance
from gemstead.gateway.kvevents import zmq_address
from gemstead.gateway.settings import Bounds, Deadlines, Fetch, GatewaySettings, Pool, Tls
from gemstead.gateway.trust import Trust
from gemstead.ledger.hashkeys import hash_keys
from gemstead.ledger.secrets import secret_at
from gemstead.operate.probe import machine
from gemstead.operate.secrets.keeper import Keeper
from gemstead.plan.deploy import needed_bytes, pool_name
from gemstead.plan.setup import GIB
from gemstead.plan.values import Launch, Machine, Plan, Replica
from gemstead.spec.endpoint_tls import EndpointTls
from gemstead.spec.model import ExternalEndpoint, GatewaySpec, ModelSpec, Spec
from gemstead.spec.speed import EngineSpeed
from gemstead.supervise.ask import HttpProbe, probe_of
from gemstead.supervise.external import External
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.replica import Replica as Watching
from gemstead.supervise.watched import Care, Watched
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.told import EngineTls
from gemstead.wiring.addresses import gateway_address
from gemstead.wiring.discover import Names, hosts
from gemstead.wiring.files import StateDir
from gemstead.wiring.foresight import zone_of
from gemstead.wiring.hosted import launches
from gemstead.wiring.hosted import planned as planned_here
from gemstead.wiring.identity import identity, providers
from gemstead.wiring.learning import learning
from gemstead.wiring.limits import key_limit, rulebook, store_url
from gemstead.wiring.routes import aims, queue_bounds, rules
from gemstead.wiring.secrets import CannotRun, resolved, resolver
from gemstead.wiring.sharing import sharing
from gemstead.wiring.sockets import sockets
from gemstead.wiring.wanted import Seat, Wanted

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a Spec is made real in."""

    folder: StateDir
    environ: Mapping[str, str]
    demo: bool
    fetching: Callable[[str, int, int], None]  # name, bytes done, bytes in all
    say: Callable[[str], None]
    changed: Callable[[], None]
    in_flight: Callable[[str], int]
    log_of: Callable[..., RotatedLog]
    stopped: Callable[[], bool]  # Ctrl-C came: end a download
    secrets: Keeper | None = None
    names: Names = field(default_factory=Names)  # that stand for many engines


async def desired(spec: Spec, around: Surroundings) -> Wanted:
    """What should run for this Spec.

    Raises:
        CannotRun: a model or secret cannot be had; the sentence says what to do.
    """
    around.folder.make()
    for place, model in enumerate(spec.models):
        if model.autoscale is not None:
            zone_of(model.autoscale.timezone, f"models[{place}].autoscale.timezone")
    local = [model for model in spec.models if not model.endpoints]
    planned = await aside(lambda: planned_here(spec, around)) if local else Plan(())
    await around.names.look(hosts(spec))
    seats = [seat for model in spec.models for seat in _external_seats(model, spec, around)]
    seats += [_local_seat(replica, spec, around) for replica in planned.replicas]
    rollouts = {pool_name(model): model.rollout or spec.rollout for model in spec.models}
    return Wanted(
        gateway_settings(spec, around),
        tuple(seats),
        planned.notes,
        rollouts=rollouts,
        autoscale={pool_name(model): model.autoscale for model in spec.models if model.autoscale},
        providers=providers(spec.identity, resolver(around.environ, around.secrets)),
        file=file_read(around.environ),
    )


def file_read(environ: Mapping[str, str]) -> str:
    """The file that `gemstead serve` goes by (cli/serve.py names it); one may have come to its folder since."""
    here = Path("gemstead.yaml").absolute()
    return environ.get("GEMSTEAD_CONFIG") or (str(here) if here.exists() else "")


async def discovered(spec: Spec, around: Surroundings, now: Wanted) -> Wanted | None:
    """What should run now that names stand for other addresses; None when they do not."""
    if not (names := hosts(spec)) or not await around.names.look(names):
        return None
    models = [model for model in spec.models if any(one.discover == "dns" for one in model.endpoints)]
    pools = {pool_name(model) for model in models}
    kept = tuple(seat for seat in now.seats if seat.pool not in pools)
    fresh = tuple(seat for model in models for seat in _external_seats(model, spec, around))
    return replace(now, seats=kept + fresh)


async def aside(work: Callable[[], Result]) -> Result:
    """What `work()` returns, from a thread that never keeps the program from ending: a hub that says nothing
    would hold Ctrl-C up for the whole of a timeout."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(say: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(lambda: None if done.done() else say())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failed = error
            tell(lambda: done.set_exception(failed))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=run, name="models", daemon=True).start()
    return await done


def gateway_settings(spec: Spec, around: Surroundings) -> GatewaySettings:
    """What gateway workers are told, without the endpoints."""
    gateway, folder = spec.gateway, around.folder
    host, port = gateway_address(spec, around.environ)
    deadlines = gateway.deadlines.model_dump()
    tls = gateway.tls
    pools = pools_of(spec)
    return GatewaySettings(
        host=host,
        port=port,
        workers=gateway.workers,
        pools=pools,
        keys_required=gateway.keys == "required",
        keys_path=str(folder.keys),
        keys_most_age_s=spec.ledger.stale_keys_after_s if spec.ledger.stale_keys == "refuse" else 0.0,
        ledger_path=str(folder.audit),
        ledger_on_error=spec.ledger.on_error,
        ledger_most_bytes=spec.ledger.spool_mib << 20 if spec.ledger.store else 0,
        hash_keys=hash_keys(folder.hash_key),
        pepper=secret_at(folder.pepper).hex(),
        limit=key_limit(spec.limits),
        rulebook=rulebook(spec, tuple(_pool(model, spec) for model in spec.models)),
        limit_store=limit_store(spec, around),
        limit_on_error=spec.limits.on_store_error,
        deadlines=Deadlines(**deadlines),
        bounds=Bounds(
            header_bytes=gateway.bounds.header_kib * 1024,
            body_bytes=gateway.bounds.body_mib * 1024 * 1024,
            connections=gateway.bounds.connections,
            write_buffer_bytes=gateway.bounds.write_buffer_kib * 1024,
        ),
        tls=None
        if tls is None
        else Tls(
            certificate=str(_existing(tls.certificate, "gateway.tls.certificate")),
            key=str(_existing(tls.key, "gateway.tls.key")),
            client_ca=str(_existing(tls.client_ca, "gateway.tls.client_ca")) if tls.client_ca else "",
            client_required=tls.client_certificate == "required",
        ),
        identity=identity(spec.identity),
        cors_origins=gateway.cors_origins,
        media=gateway.media,
        fetch=fetch_rules(gateway),
        queue=queue_bounds(spec),
        weights={
            name: tenant.weight for name, tenant in spec.traffic.tenants.items() if tenant.weight != 1.0
        },
        aims=aims(spec),
        routing=rules(spec, pools),
        region=spec.traffic.region,
        regions={name: tenant.region for name, tenant in spec.traffic.tenants.items() if tenant.region},
        policy=spec.traffic.policy,
        sharing=sharing(spec.traffic.sharing, around.environ, around.secrets),
        hedge=spec.traffic.hedge,
        retries=gateway.retries,
        vertex=vertex_routes(around.environ) if gateway.vertex else (),
    )


def fetch_rules(gateway: GatewaySpec) -> Fetch:
    """Which media the gateway fetches.

    Raises:
        CannotRun: the file of authorities is not there.
    """
    fetch = gateway.fetch
    return Fetch(
        hosts=fetch.hosts,
        networks=fetch.networks,
        plain_http=fetch.plain_http,
        ca=str(_existing(fetch.ca, "gateway.fetch.ca")) if fetch.ca else "",
        each_bytes=fetch.each_mib << 20,
        total_bytes=fetch.total_mib << 20,
        most=fetch.most,
        redirects=fetch.redirects,
        timeout_s=fetch.timeout_s,
        concurrent=fetch.concurrent,
    )


def limit_store(spec: Spec, around: Surroundings) -> str:
    """Where counters are shared: where the file says, or beside a ledger that several gateways share."""
    said, where = (
        (spec.limits.store, "limits.store") if spec.limits.store else (spec.ledger.store, "ledger.store")
    )
    return store_url(resolved(said, around.environ, where, around.secrets))


def pools_of(spec: Spec) -> tuple[Pool, ...]:
    """The file's models as callers may name them."""
    return tuple(_pool(model, spec) for model in spec.models)


def _pool(model: ModelSpec, spec: Spec) -> Pool:
    """What callers may call this model. A catalogue model answers to its usual spellings too."""
    facts, sticky = facts_of(model), (model.rollout or spec.rollout).sticky
    adapters = tuple(adapter.name for adapter in model.adapters)
    if facts is None:
        return Pool(name=model.name, aliases=model.aliases, adapters=adapters, sticky=sticky)
    known = (model.name, *names.aliases(facts), *model.aliases)
    aliases = tuple(dict.fromkeys(a for a in known if a != facts.name))
    return Pool(name=facts.name, aliases=aliases, adapters=adapters, sticky=sticky)


# Engines that someone else runs.


def _external_seats(model: ModelSpec, spec: Spec, around: Surroundings) -> list[Seat]:
    index, found = spec.models.index(model), []
    for number, endpoint in enumerate(model.endpoints):
        seat = partial(_external_seat, model, endpoint, f"models[{index}].endpoints[{number}]", around)
        if endpoint.discover == "off":
            found.append(seat(f"{pool_name(model)}-{number}", ""))
        else:
            lead = f"{pool_name(model)}-{number}-" if len(model.endpoints) > 1 else f"{pool_name(model)}-"
            addresses = around.names.of(urlsplit(endpoint.url).hostname or "")
            found += [
                seat(lead + address.replace(":", "-").replace(".", "-"), address) for address in addresses
            ]
    return found


def _external_seat(
    model: ModelSpec, endpoint: ExternalEndpoint, where: str, around: Surroundings, name: str, host: str
) -> Seat:
    """The seat of an endpoint; `host` is one of the addresses that its name stands for, if it does."""
    address = urlsplit(endpoint.url)
    tls = address.scheme == "https"
    pool, speed = pool_name(model), endpoint.speed or EngineSpeed()
    facts = EndpointFacts(
        name=name,
        pool=pool,
        host=host or address.hostname or "",
        port=address.port or (443 if tls else 80),
        tls=tls,
        tls_name=(address.hostname or "") if host else "",
        tls_files=_tls_files(endpoint.tls, f"{where}.tls"),
        base_path=address.path.rstrip("/").removesuffix("/v1"),
        engine=endpoint.dialect,
        served_model=endpoint.served_model,
        context_tokens=model.context or 0,
        slots=speed.slots or model.slots or 0,
        kv_tokens=speed.kv_tokens or 0,
        prefill_tokens_s=speed.prompt_tokens_s or 0.0,
        decode_step_s=speed.step_s,
        decode_step_slot_s=speed.step_slot_s,
        region=endpoint.region,
        kv_events=zmq_address(host or address.hostname or "", endpoint.kv_events_port),
        kv_replay=zmq_address(host or address.hostname or "", endpoint.kv_replay_port),
        api_key=resolved(endpoint.api_key, around.environ, f"{where}.api_key", around.secrets),
        thinking=model.thinking,
        ready=False,
    )

    trust = _trust(facts.tls_files, f"{where}.tls")

    def start(name: str) -> Watched:
        own = _renamed(facts, name)
        return External(own, HttpProbe(own, trust=trust), changed=around.changed, in_flight=around.in_flight)

    return Seat(facts.name, facts, start, pool)


def _tls_files(said: EndpointTls | None, where: str) -> EngineTls | None:
    """Files of an endpoint's TLS, which have to be there."""
    if said is None:
        return None
    paths = {name: getattr(said, name) for name in ("ca", "certificate", "key")}
    return EngineTls(**{n: str(_existing(path, f"{where}.{n}")) for n, path in paths.items() if path})


def _trust(files: EngineTls | None, where: str) -> Callable[[], ssl.SSLContext] | None:
    """What opens TLS with these files, which have been read once.

    Raises:
        CannotRun: they are no certificates, or do not fit each other.
    """
    if files is None:
        return None
    trust = Trust(files)
    try:
        trust.context()
    except OSError as error:
        raise CannotRun(f"{where}: {error}") from error
    return trust.context


def _renamed(facts: EndpointFacts, name: str) -> EndpointFacts:
    return msgspec.structs.replace(facts, name=name)


# Engines of ours.


def _local_seat(planned: Replica, spec: Spec, around: Surroundings) -> Seat:
    watch = spec.supervise
    allowance = Allowance(
        start_s=watch.start_s,
        hang_s=watch.hang_s,
        backoff_s=watch.backoff_s,
        backoff_most_s=max(watch.backoff_s, watch.backoff_most_s),
        drain_s=spec.gateway.deadlines.drain_s,
        check=watch.check != "off",
    )
    adapter = ENGINES[planned.engine]
    if spec.traffic.kv_events and planned.engine == "vllm":
        planned = replace(planned, kv_events=str(sockets(around.folder.path)))
    model = next(one for one in spec.models if not one.endpoints and pool_name(one) == planned.pool)
    made = launches(planned, model, around)

    def start(name: str) -> Watched:
        port, engine_key = free_port(planned.host), secrets.token_urlsafe(24)

        def launch(other_port: bool) -> Launch:
            nonlocal port
            port = free_port(planned.host) if other_port else port
            return made(name, port, engine_key)

        return Watching(
            launch,
            allowance,
            probe_of,
            log=lambda seen: around.log_of(name, seen),
            changed=around.changed,
            in_flight=around.in_flight,
            read_log=adapter.read_log,
            care=Care(watch.warm_up, watch.check, _knows(planned, model)),
            learned=learning(planned, around.folder.path, around.say),
        )

    def room() -> str:
        return _no_room(planned, model, machine(around.folder.path))

    return Seat(planned.name, (replace(planned, port=0), allowance), start, planned.pool, room)


def _knows(planned: Replica, model: ModelSpec) -> bool:
    """Whether it is known what its model answers: Google's own weights, and the demonstration model."""
    own = model.file or model.checkpoint
    return planned.model.demonstration or (not own and facts_of(model) is not None)


def _no_room(planned: Replica, model: ModelSpec, here: Machine) -> str:
    """Why one more such engine cannot run beside those that do; "" when it can."""
    if planned.cards:
        return f"its cards ({', '.join(card.name for card in planned.cards)}) are taken by the one that runs"
    need = needed_bytes(facts_of(model), planned.model, planned.context_tokens, planned.slots)
    if need <= here.memory_free_bytes:
        return ""
    return (
        f"it needs about {need / GIB:.1f} GiB of memory, and {here.memory_free_bytes / GIB:.1f} GiB are free"
    )


def free_port(host: str) -> int:
    """A port that nobody has now."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def _existing(path: str, where: str) -> Path:
    """A file that has to be there.

    Raises:
        CannotRun: it is not.
    """
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise CannotRun(f"{where}: there is no file {found}")
    return found


def vertex_routes(environ: Mapping[str, str]) -> tuple[str, str]:
    """The predict and the health route that Vertex AI was told of; it says them to the container."""
    return environ.get("AIP_PREDICT_ROUTE", "/predict"), environ.get("AIP_HEALTH_ROUTE", "/health")
